"""The menu bar, the list of checkpoints, and the menus of the right mouse button."""

from __future__ import annotations

import sys
import tkinter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from common.language import system_language
from window.look import Look
from window.preferences import LANGUAGES, SIZES

if TYPE_CHECKING:
    from window.controller import Window
    from window.transcript import Transcript
    from window.view import Variables

RIGHT = "<Button-2>" if sys.platform == "darwin" else "<Button-3>"


class Menus:
    """The menus of a window, in one language and one look."""

    def __init__(self, window: Window, look: Look, variables: Variables) -> None:
        self.window, self.look, self.t, self.variables = window, look, window.t, variables
        bar = look.menu(window.root, bar=True)
        window.root.configure(menu=bar)
        self._build_file(bar)
        self._build_conversation(bar)
        self._build_view(bar)
        self.models = self._menu(bar, "model")
        self.models.configure(postcommand=lambda: self.fill_models(self.models))

    def _build_file(self, bar: tkinter.Menu) -> None:
        pictures, file = self.window.pictures, self._menu(bar, "file")
        self._item(file, "open_new", pictures.choose, "Ctrl+O")
        self._item(file, "add_picture", pictures.choose_more, "Ctrl+Shift+O")
        self._item(file, "paste_picture", pictures.paste, "Ctrl+Shift+V")
        self._item(file, "undo_pictures", self.window.strip.undo, "Ctrl+Z")
        file.add_separator()
        self._item(file, "open_conversation", pictures.choose_conversation)
        self._item(file, "save_conversation", pictures.choose_where_to_save, "Ctrl+S")
        file.add_separator()
        self._item(file, "quit", self.window.close, "Ctrl+Q")

    def _build_conversation(self, bar: tkinter.Menu) -> None:
        window, talk = self.window, self._menu(bar, "conversation")
        self._item(talk, "new", window.new_conversation, "Ctrl+N")
        self._item(talk, "conversations", window.show_conversations, "Ctrl+H")
        talk.add_separator()
        self._item(talk, "box", window.boxes.begin_keys, "Ctrl+B")
        self._item(talk, "copy", window.copy_answer, "Ctrl+Shift+C")
        self._item(talk, "stop", window.questions.stop, "Esc")

    def _build_view(self, bar: tkinter.Menu) -> None:
        maps, strip, view = self.window.maps, self.window.strip, self._menu(bar, "view")
        view.add_checkbutton(
            label=self.t("look"), variable=self.variables.look, command=maps.on_switch, accelerator="Ctrl+L"
        )
        self._item(view, "previous_answer", lambda: maps.step_answer(-1), "Alt+Up")
        self._item(view, "next_answer", lambda: maps.step_answer(1), "Alt+Down")
        self._item(view, "previous_word", lambda: maps.step_word(-1), "Alt+Left")
        self._item(view, "next_word", lambda: maps.step_word(1), "Alt+Right")
        self._item(view, "previous_picture", lambda: strip.step(-1), "Ctrl+PgUp")
        self._item(view, "next_picture", lambda: strip.step(1), "Ctrl+PgDn")
        view.add_separator()
        self._build_appearance(view)

    def _build_appearance(self, view: tkinter.Menu) -> None:
        """Dark, language and size, in the menu ``view``."""
        prefer, variables = self.window.prefer, self.variables
        view.add_checkbutton(
            label=self.t("dark"), variable=variables.dark, command=lambda: prefer(dark=variables.dark.get())
        )
        languages = self._menu(view, "language")
        for key, name in LANGUAGES.items():

            def choose(key: str = key) -> None:
                prefer(language="" if key == system_language() else key)

            languages.add_radiobutton(label=name, value=key, variable=variables.language, command=choose)
        sizes = self._menu(view, "size")
        for size in SIZES:

            def resize(size: int = size) -> None:
                prefer(size=size)

            label = f"{size} %" if size else self.t("size_auto")
            sizes.add_radiobutton(label=label, value=size, variable=variables.size, command=resize)

    def _menu(self, parent: tkinter.Menu, key: str) -> tkinter.Menu:
        menu = self.look.menu(parent)
        parent.add_cascade(label=self.t(key), menu=menu, underline=self._underline())
        return menu

    def _item(self, menu: tkinter.Menu, key: str, command: Callable[[], object], keys: str = "") -> None:
        menu.add_command(label=self.t(key), command=command, accelerator=keys, underline=self._underline())

    def _underline(self) -> int:
        """The letter that opens a menu with Alt. Chinese menus have none; F10 reaches them."""
        return -1 if self.variables.language.get() == "zh" else 0

    def fill_models(self, menu: tkinter.Menu) -> None:
        """List the checkpoints that there are now, the newest first."""
        models = self.window.models
        menu.delete(0, "end")
        for found, line in models.choices():

            def load(found: Path = found) -> None:
                models.load(found)

            menu.add_radiobutton(label=line, value=str(found), variable=self.variables.checkpoint, command=load)
        if menu.index("end") is not None:
            menu.add_separator()
        menu.add_command(label=self.t("choose_checkpoint"), command=models.choose)
        menu.add_command(label=self.t("settings"), command=models.open_settings, accelerator="Ctrl+,")

    # ------------------------------------------------------------------------------------------ the right button

    def bind_right_button(self, transcript: Transcript, entry: tkinter.Text) -> None:
        self.of_answer, self.of_entry = self.look.menu(entry), self.look.menu(entry)
        for key, event in (
            ("cut", "<<Cut>>"),
            ("copy_text", "<<Copy>>"),
            ("paste", "<<Paste>>"),
            ("all", "<<SelectAll>>"),
        ):

            def edit(event: str = event) -> None:
                entry.event_generate(event)

            self.of_entry.add_command(label=self.t(key), command=edit)
        entry.bind(RIGHT, lambda event: self.of_entry.tk_popup(event.x_root, event.y_root))
        transcript.text.bind(RIGHT, lambda event: self._show_answer_menu(event, transcript))

    def _show_answer_menu(self, event: tkinter.Event, transcript: Transcript) -> None:
        """What can be done with the turn under the mouse, and with the selected text."""
        menu, window, turn = self.of_answer, self.window, transcript.turn_at(event)
        menu.delete(0, "end")
        if transcript.text.tag_ranges("sel"):
            menu.add_command(label=self.t("copy_text"), command=lambda: transcript.text.event_generate("<<Copy>>"))
        if turn is not None and window.conversation.turns[turn].answer is not None:
            for name, command in transcript.actions.items():
                menu.add_command(label=self.t(f"action_{name}"), command=partial(command, turn))
        menu.add_command(label=self.t("save_conversation"), command=window.pictures.choose_where_to_save)
        menu.tk_popup(event.x_root, event.y_root)
