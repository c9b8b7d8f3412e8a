"""Pictures and videos from outside: opened, dropped or pasted, and conversations that were saved about them."""

from __future__ import annotations

import tkinter
from collections.abc import Sequence
from pathlib import Path
from tkinter import filedialog
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from answering.checkpoints import max_pixels_of, open_config
from answering.conversation import Conversation
from common.errors import UserError
from dataset.image import ImageError, load_image
from dataset.video import ENDINGS, frames_that_fit, is_video, read_frames
from window.clipboard import clipboard_picture, file_in, local_path
from window.picture import preview_of
from window.strip import Added

if TYPE_CHECKING:
    from window.controller import Window

KINDS = [*(f".{end}" for end in "jpg jpeg png webp gif bmp tif tiff avif jp2 heic".split()), *ENDINGS]
PICTURES = " ".join(f"*{end} *{end.upper()}" for end in KINDS)
FRAMES = 8  # of a video where there is no checkpoint yet; as ask.py --frames


class Read(NamedTuple):
    """A conversation that was read, or a new one about a picture, and its pictures in a size to be drawn from.

    ``name`` is its name in the history, if it was kept there. ``missing`` says why a picture of it cannot be read.
    """

    conversation: Conversation
    previews: list[Image.Image]
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
        """Read a picture, or a video's frames, and begin a conversation; the next dialogue begins in its folder."""
        self._remember_folder(path)
        self._read([path], begins=True)

    def open_example(self, path: str) -> None:
        """Read a picture and begin a conversation about it; the next dialogue begins where it would have."""
        self._read([path], begins=True)

    def _read(self, paths: Sequence[str], begins: bool) -> None:
        """Read pictures in another thread. They begin a conversation, or are added to the present one."""

        def read() -> Read | Added:
            found = [picture for path in paths for picture in self._load(path)]
            images, names = [image for image, _ in found], [name for _, name in found]
            previews = [preview_of(image) for image in images]
            return Read(Conversation(images, names), previews) if begins else Added(images, names, previews)

        self.reading = self.window.worker.read(read)

    def _load(self, path: str) -> list[tuple[Image.Image, str]]:
        """A picture and its path; or the frames of a video, each with the video's name and its time."""
        name = Path(path).name
        try:
            if is_video(path):
                frames = read_frames(path, self._frames(), self.max_pixels())
                return [(frame.image, f"{name} {frame.seconds:.1f} s") for frame in frames]
            return [(load_image(path, self.max_pixels()), str(Path(path).resolve()))]
        except ImageError as error:
            reason = self.window.said(str(error))
            raise UserError(self.window.t("cannot_open", name=name, reason=reason)) from error

    def _frames(self) -> int:
        """How many frames of a video are shown: those of training, or fewer where not all fit beside an answer."""
        if self.window.models.checkpoint is None:
            return FRAMES
        config = open_config(self.window.models.checkpoint, self.window.overrides)
        most = self.window.preferences.overrides().get("max_new_tokens", config.generate.max_new_tokens)
        return min(config.data.video_frames, frames_that_fit(config, most))

    def choose_more(self) -> None:
        """Add pictures to the conversation; without one, begin with the first."""
        window, kinds = self.window, [(self.window.t("pictures"), PICTURES)]
        title = window.t("add_picture")
        paths = filedialog.askopenfilenames(parent=window.root, title=title, filetypes=kinds, initialdir=self.folder())
        if paths:
            self.add(paths)

    def add(self, paths: Sequence[str]) -> None:
        """Read pictures and add them to the conversation, or begin one about them."""
        self._remember_folder(paths[0])
        self._read(paths, begins=not self.window.conversation.images)

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
            return Read(Conversation([image], [name]), [preview_of(image)])

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
            return Read(conversation, [preview_of(image) for image in conversation.images])

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
        elif isinstance(value, Added):
            self.window.strip.add(value)
        else:
            self.window.take(value)
