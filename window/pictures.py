"""Pictures from outside: opened, dropped or pasted, and conversations that were saved about them."""

from __future__ import annotations

import tkinter
from pathlib import Path
from tkinter import filedialog
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from answering.checkpoints import max_pixels_of
from answering.conversation import Conversation
from common.errors import UserError
from dataset.image import ImageError, load_image
from window.clipboard import clipboard_picture, file_in, local_path
from window.picture import preview_of

if TYPE_CHECKING:
    from window.controller import Window

PICTURES = " ".join(f"*.{end} *.{end.upper()}" for end in "jpg jpeg png webp gif bmp tif tiff avif jp2 heic".split())


class Read(NamedTuple):
    """A conversation that was read, or a new one about a picture, and the picture in a size to be drawn from.

    ``name`` is its name in the history, if it was kept there. ``missing`` says why a picture of it cannot be read.
    """

    conversation: Conversation
    preview: Image.Image | None
    name: str | None = None
    missing: str = ""


class Pictures:
    """Reads pictures and conversations in another thread; the conversation continues until they are there."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.reading: int | None = None  # the worker's job

    def max_pixels(self) -> int:
        """The largest picture that the chosen checkpoint's run allows. Reads a file: not for Tk's thread."""
        return max_pixels_of(self.window.models.checkpoint, self.window.overrides)

    def choose(self) -> None:
        window = self.window
        kinds = [(window.t("pictures"), PICTURES)]
        path = filedialog.askopenfilename(
            parent=window.root, title=window.t("open_picture"), filetypes=kinds, initialdir=self.folder()
        )
        if path:
            self.open(path)

    def folder(self) -> str:
        """Where the dialogs begin: the folder of the last file, else Pictures, else the home folder."""
        last, home = self.window.preferences.folder, Path.home()
        return next(
            str(folder) for folder in (Path(last or "?"), home / "Pictures", home) if folder.is_dir() or folder == home
        )

    def open(self, path: str) -> None:
        """Read a picture and begin a conversation about it."""
        self._remember_folder(path)

        def read() -> Read:
            try:
                image = load_image(path, self.max_pixels())
            except ImageError as error:
                raise UserError(
                    self.window.t("cannot_open", name=Path(path).name, reason=self.window.said(str(error)))
                ) from error
            return Read(Conversation([image], [str(Path(path).resolve())]), preview_of(image))

        self.reading = self.window.worker.read(read)

    def _remember_folder(self, path: str) -> None:
        folder = str(Path(path).resolve().parent)
        if folder != self.window.preferences.folder:
            self.window.prefer(folder=folder)

    def drop(self, data: str) -> None:
        """Open the first of the dropped files, which come as a list of Tcl. A browser may drop an address."""
        dropped = next(iter(self.window.root.tk.splitlist(data)), "")
        if dropped.startswith(("http://", "https://")):
            self.window.say("problem", self.window.t("no_file_dropped", name=dropped))
        elif dropped:
            self.open(local_path(dropped))

    def paste(self) -> None:
        """Open the picture in the clipboard, or the file whose path is in it."""
        path = file_in(self._clipboard_text())
        if path is not None:
            self.open(path)
            return

        def read() -> Read:
            name, image = clipboard_picture(self.window.t, self.max_pixels())
            return Read(Conversation([image], [name]), preview_of(image))

        self.reading = self.window.worker.read(read)

    def on_paste(self) -> str | None:
        """Ctrl+V in the question pastes a text as a text, anything else as a picture."""
        copied = self._clipboard_text()
        if copied and file_in(copied) is None:
            return None
        self.paste()
        return "break"

    def _clipboard_text(self) -> str:
        try:
            return self.window.root.clipboard_get()
        except tkinter.TclError:  # empty, or not a text
            return ""

    # ------------------------------------------------------------------------------------------ conversations

    def choose_conversation(self) -> None:
        window, kinds = self.window, [("JSON", "*.json"), (self.window.t("all_files"), "*")]
        path = filedialog.askopenfilename(
            parent=window.root, title=window.t("open_conversation"), filetypes=kinds, initialdir=self.folder()
        )
        if path:
            self.open_conversation(Path(path))

    def open_conversation(self, file: Path) -> None:
        """Read a saved conversation."""
        self._remember_folder(str(file))

        def read() -> Read:
            conversation = Conversation.open(file, self.max_pixels())
            return Read(conversation, preview_of(conversation.images[0]) if conversation.images else None)

        self.reading = self.window.worker.read(read)

    def choose_where_to_save(self) -> None:
        window = self.window
        path = filedialog.asksaveasfilename(
            parent=window.root,
            title=window.t("save_conversation"),
            defaultextension=".json",
            filetypes=[("JSON", "*.json"), ("Markdown", "*.md")],
            initialfile="conversation.json",
            initialdir=self.folder(),
        )
        if path:
            self._remember_folder(path)
            window.save(Path(path))

    # ------------------------------------------------------------------------------------------ events

    def on_event(self, kind: str, value: Any) -> None:
        """What was read, or why it could not be."""
        self.reading = None
        if kind == "problem":
            self.window.say("problem", self.window.said(value.text))
        else:
            self.window.take(value)
