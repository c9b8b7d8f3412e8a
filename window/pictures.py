"""Pictures and videos from outside: opened, dropped or pasted, and conversations that were saved about them."""

from __future__ import annotations

import tkinter
from collections.abc import Callable, Sequence
from pathlib import Path
from tkinter import filedialog
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from answering.checkpoints import max_pixels_of, open_config
from answering.conversation import Conversation
from common.errors import UserError
from dataset.image import ImageError, load_image
from dataset.video import ENDINGS, frame_address, frames_that_fit, is_video, read_frames
from window.clipboard import clipboard_picture, files_in, local_path
from window.file_dialogs import first_folder
from window.picture import preview_of
from window.strip import Added

if TYPE_CHECKING:
    from window.controller import Window

PICTURES = [f".{end}" for end in "jpg jpeg png webp gif bmp tif tiff avif jp2 heic".split()]
FRAMES = 8  # of a video where there is no checkpoint yet; as ask.py --frames


def patterns(endings: Sequence[str]) -> str:
    """As file dialogs take them; Tk's own tells small letters from large ones."""
    return " ".join(f"*{end} *{end.upper()}" for end in endings)


class Read(NamedTuple):
    """A conversation that was read, or a new one about a picture, and its pictures in a size to be drawn from.

    ``name`` is its name in the history, if it was kept there. ``missing`` says why a picture of it cannot be read.
    """

    conversation: Conversation
    previews: list[Image.Image]
    name: str | None = None
    missing: str = ""


class Pictures:
    """Reads pictures and conversations in other threads; the conversation continues until they are there.

    What is opened begins a conversation. What is added, dropped or pasted joins the present one, if it has a picture.
    """

    def __init__(self, window: Window) -> None:
        self.window = window
        self.jobs: list[int] = []  # the worker's, whose results are waited for

    @property
    def reading(self) -> int | None:
        """The last job; None: all have ended."""
        return self.jobs[-1] if self.jobs else None

    def start(self, read: Callable[[], Read | Added], alone: bool = True) -> None:
        """Call ``read`` in another thread. If ``alone``, what was still being read is not waited for any more."""
        self.jobs = [*([] if alone else self.jobs), self.window.worker.read(read)]

    def max_pixels(self) -> int:
        """The largest picture that the chosen checkpoint's run allows. Reads a file: not for Tk's thread."""
        return max_pixels_of(self.window.models.checkpoint, self.window.overrides)

    def choose(self) -> None:
        """Open pictures in a new conversation."""
        if paths := self._ask_for_files("open_new"):
            self._remember_folder(paths[0])
            self._read(paths, begins=True)

    def choose_more(self) -> None:
        """Add pictures to the conversation; without one, begin one."""
        if paths := self._ask_for_files("add_picture"):
            self.add(paths)

    def _ask_for_files(self, title: str) -> Sequence[str]:
        window = self.window
        return filedialog.askopenfilenames(
            parent=window.root,
            title=window.t(title).rstrip(".…"),
            filetypes=self.kinds(),
            initialdir=self.folder(),
        )

    def folder(self) -> str:
        """Where the dialogs begin."""
        return first_folder(self.window.preferences.folder)

    def kinds(self) -> list[tuple[str, str]]:
        """What a dialog shows: pictures, or by choice videos."""
        return [(self.window.t("pictures"), patterns(PICTURES)), (self.window.t("videos"), patterns(ENDINGS))]

    def open(self, path: str) -> None:
        """Read a picture, or a video's frames, and begin a conversation; the next dialogue begins in its folder."""
        self._remember_folder(path)
        self._read([path], begins=True)

    def open_example(self, path: str) -> None:
        """Read a picture and begin a conversation about it; the next dialogue begins where it would have."""
        self._read([path], begins=True)

    def _read(self, paths: Sequence[str], begins: bool) -> None:
        """Read pictures in another thread. They begin a conversation, or are added to the present one."""
        before = 0 if begins else len(self.window.conversation.images)

        def read() -> Added:
            added = Added(begins)
            for path in paths:
                try:
                    self._load(path, before, added)
                except UserError as error:
                    added.problems.append(self.window.said(str(error)))
            return added

        self.start(read, alone=begins)

    def _load(self, path: str, before: int, added: Added) -> None:
        """Add a picture and its path, or the frames of a video and their addresses, to ``added``.

        ``before``: how many pictures the conversation has already.
        """
        name = Path(path).name
        try:
            if is_video(path):
                self._load_frames(path, before + len(added.images), added)
                return
            image = load_image(path, self.max_pixels())
        except ImageError as error:
            reason = self.window.said(str(error))
            raise UserError(self.window.t("cannot_open", name=name, reason=reason)) from error
        self._take(image, str(Path(path).resolve()), added)

    @staticmethod
    def _take(image: Image.Image, path: str, added: Added) -> None:
        added.images.append(image)
        added.paths.append(path)
        added.previews.append(preview_of(image))

    def _load_frames(self, path: str, before: int, added: Added) -> None:
        """As many frames of a video as in training, or fewer where not all fit beside ``before`` pictures."""
        window, wanted, fitting, reason = self.window, FRAMES, FRAMES, ""
        if window.models.checkpoint is not None:
            config = open_config(window.models.checkpoint, window.overrides)
            most = window.preferences.overrides().get("max_new_tokens", config.generate.max_new_tokens)
            wanted, added.times = config.data.video_frames, config.data.video_times
            fitting = min(wanted, frames_that_fit(config, most) - before)
            each, length = config.vision.image_context_length, config.language.max_length
            reason = window.t("frames_reason", each=each, length=length)
        name = Path(path).name
        if fitting < 1:
            raise UserError(window.t("no_frame_fits", name=name, reason=reason))
        frames = read_frames(path, fitting, self.max_pixels())
        for frame in frames:
            self._take(frame.image, frame_address(str(Path(path).resolve()), frame.seconds), added)
        if len(frames) == fitting < wanted:
            added.notes.append(window.t("fewer_frames", shown=fitting, wanted=wanted, name=name, reason=reason))

    def add(self, paths: Sequence[str]) -> None:
        """Read pictures and add them to the conversation, or begin one about them."""
        self._remember_folder(paths[0])
        self._read(paths, begins=False)

    def _remember_folder(self, path: str) -> None:
        folder = str(Path(path).resolve().parent)
        if folder != self.window.preferences.folder:
            self.window.prefer(folder=folder)

    def drop(self, data: str) -> None:
        """Add the dropped files, which come as a list of Tcl. A browser may drop addresses."""
        dropped = [name for name in self.window.root.tk.splitlist(data) if name]
        addresses = [name for name in dropped if name.startswith(("http://", "https://"))]
        for address in addresses:
            self.window.say("problem", self.window.t("no_file_dropped", name=address))
        if files := [local_path(name) for name in dropped if name not in addresses]:
            self.add(files)

    def paste(self) -> None:
        """Add the picture in the clipboard, or the files whose paths are in it."""
        if files := files_in(self._clipboard_text()):
            self.add(files)
            return

        def read() -> Added:
            added = Added()
            name, image = clipboard_picture(self.window.t, self.window.said, self.max_pixels())
            self._take(image, name, added)
            return added

        self.start(read, alone=False)

    def on_paste(self) -> str | None:
        """Ctrl+V in the question pastes a text as a text, anything else as a picture."""
        copied = self._clipboard_text()
        if copied and not files_in(copied):
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

        self.start(read)

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

    def on_event(self, job: int, kind: str, value: Any) -> None:
        """What was read, or why it could not be."""
        self.jobs.remove(job)
        if kind == "problem":
            self.window.say("problem", self.window.said(value.text))
        elif isinstance(value, Added):
            self._show(value)
        else:
            self.window.take(value)

    def _show(self, added: Added) -> None:
        """Show pictures that were read, and say what could not be read or shown."""
        window = self.window
        ends = bool(window.conversation.turns)
        if added.images and (added.begins or not window.conversation.images):
            window.take(Read(Conversation(added.images, added.paths, times=added.times), added.previews))
            if ends and window.models.loading is None:
                window.show_state("new_begun")
        elif added.images:
            window.strip.add(added)
            if window.questions.job is None and window.models.loading is None:
                count = len(added.images)
                window.show_state("added" if count > 1 else "added_one", count=count, name=window.strip.name(-1))
        for kind, lines in (("note", added.notes), ("problem", added.problems)):
            for line in lines:
                window.say(kind, line)
