"""The input: the question being typed, why it was refused, and the buttons Ask and Stop."""

from __future__ import annotations

import tkinter
from tkinter import ttk
from typing import TYPE_CHECKING, Any

from window.boxes import BoxChip
from window.look import Look, wrap

if TYPE_CHECKING:
    from window.controller import Window

LINES = (2, 8)  # the input grows with its text, from the first to the second; a longer text scrolls


class QuestionBox(ttk.Frame):
    """A text that grows, with a line above it for the reason of a refusal."""

    def __init__(self, parent: tkinter.Misc, look: Look, window: Window) -> None:
        super().__init__(parent)
        self.look, self.t, self.window = look, window.t, window
        self.recalled = 0  # how many questions back the text is; 0: what was typed
        self.refused = ""  # the text that the reason is about
        px, colors = look.px, look.colors
        self.box_chip = BoxChip(self, look, lambda: window.boxes.remove())
        self.reason_label = ttk.Label(self, style="Banner.TLabel")
        self.reason_label.bind("<Configure>", lambda event: wrap(self.reason_label, event.width - px(24)))
        row = self.row = ttk.Frame(self)
        row.pack(side="bottom", fill="x", pady=(px(10), 0))
        # First: the Tab key follows the order of making.
        field, self.entry = look.text_field(row, height=LINES[0], padx=px(9), pady=px(7), undo=True)
        self._build_buttons(row)
        field.pack(side="left", fill="both", expand=True)  # last: it takes the space that the buttons leave
        self.hint = ttk.Label(self.entry, text=self.t("type_here"), foreground=colors.muted, background=colors.surface)
        self.hint.bind("<Button-1>", lambda event: self.entry.focus_set())
        self._bind_keys()
        self._on_change()

    def _build_buttons(self, row: ttk.Frame) -> None:
        buttons = ttk.Frame(row)
        buttons.pack(side="right", fill="y", padx=(self.look.px(8), 0))
        ask = self.look.button(buttons, self.t("ask"), self.window.questions.ask, "Accent.TButton")
        ask.pack(fill="both", expand=True)
        self.stop_button = self.look.button(buttons, self.t("stop"), self.window.questions.stop)
        self.stop_button.pack(fill="x", pady=(self.look.px(6), 0))

    def _bind_keys(self) -> None:
        entry = self.entry
        entry.bind("<Configure>", self._on_resize)
        entry.bind("<<Modified>>", lambda event: self._on_change())
        entry.bind("<Return>", self._on_return)
        entry.bind("<KP_Enter>", self._on_return)
        entry.bind("<Tab>", self._on_tab)
        entry.bind("<Up>", lambda event: self._recall(1))
        entry.bind("<Down>", lambda event: self._recall(-1))
        entry.bind("<<Paste>>", lambda event: self.window.pictures.on_paste())
        entry.bind("<<Undo>>", lambda event: self.window.strip.on_undo())

    # ------------------------------------------------------------------------------------------ the text

    @property
    def text(self) -> str:
        """What is typed, with spaces and line breaks at its ends."""
        return self.entry.get("1.0", "end-1c")

    @text.setter
    def text(self, text: str) -> None:
        self.entry.delete("1.0", "end")
        self.entry.insert("1.0", text)
        self.recalled = 0
        self._on_change()

    def give_back(self, question: str) -> bool:
        """Put a question that has no answer back, unless another is being typed; returns whether it is there."""
        if question and not self.text:
            self.text = question
        return bool(question) and self.text == question

    def _on_change(self) -> None:
        self.entry.edit_modified(False)
        if self.text:
            self.hint.place_forget()
            self.window.on_typed()
        else:
            self.hint.place(x=self.look.px(1), y=0)  # inside the padding
        if self.text != self.refused:
            self.refuse("")
        self._grow()

    def _grow(self) -> None:
        """As many lines as the text has, with the caret in view."""
        count: Any = self.entry.count("1.0", "end", "displaylines")
        lines = count[0] if isinstance(count, tuple) else count or 1
        self.entry.configure(height=max(LINES[0], min(lines, LINES[1])))
        self.entry.see("insert")

    def _on_resize(self, event: tkinter.Event) -> None:
        wrap(self.hint, event.width - self.look.px(20))
        self._grow()

    def _on_return(self, event: tkinter.Event) -> str | None:
        if int(event.state) & 0x1:  # with Shift: a new line
            return None
        self.window.questions.ask()
        return "break"

    def _on_tab(self, event: tkinter.Event) -> str:
        next_widget = event.widget.tk_focusNext()
        if next_widget is not None:
            next_widget.focus_set()
        return "break"

    def _recall(self, step: int) -> str | None:
        """Up in an empty input, or in a recalled question, shows the question before; Down the one after."""
        asked = self.window.questions.asked
        if self.text and not (self.recalled and self.text == asked[-self.recalled]):
            return None
        recalled = min(self.recalled + step, len(asked))
        if recalled < 0 or recalled == self.recalled:
            return None
        self.text = asked[-recalled] if recalled else ""
        self.recalled = recalled
        return "break"

    # ------------------------------------------------------------------------------------------ above the text

    @property
    def reason(self) -> str:
        """Why the question in the input was refused; "" if it was not."""
        return self.reason_label.cget("text")

    def refuse(self, reason: str) -> None:
        """Show why the question was refused, until it is changed."""
        self.refused = self.text
        if reason != self.reason:
            self.reason_label.configure(text=reason)
            if reason:
                self.reason_label.pack(side="bottom", fill="x", pady=(self.look.px(10), 0), after=self.row)
            else:
                self.reason_label.pack_forget()

    def show_box(self, words: str, hint: str) -> None:
        """The rectangle of the next question as a chip ("": none), with what the model makes of it."""
        chip = self.box_chip
        if (words, hint) == (chip.label.cget("text"), chip.hint.cget("text")):
            return  # packing lays out the whole window again
        chip.label.configure(text=words)
        chip.hint.configure(text=hint if words else "")
        self.refuse("")
        if words:
            chip.pack(side="bottom", fill="x", pady=(self.look.px(8), 0), after=self.row)
        else:
            chip.pack_forget()
