"""The conversations that are kept by themselves, in the user's data folder. Without Tk.

Each is one file NAME.json in the format of :meth:`answering.conversation.Conversation.save`, with a small picture,
NAME.jpg. A pasted picture has no file of its own and is kept as NAME-0.png. One thread writes, so the window never
waits for a disk; every file appears complete or not at all.
"""

from __future__ import annotations

import io
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from answering.conversation import Conversation, Written, typed
from common.errors import UserError
from common.files import publish_file, temp_path, write_text
from common.text import whole
from dataset.boxes import asked_about
from dataset.video import file_of

MOST = 200  # conversations; the oldest is deleted when there is one more
SIDE = 96  # pixels of the small picture
TITLE = 60  # characters
DAY_S = 24 * 3600


class Entry(NamedTuple):
    """A kept conversation in the list."""

    name: str
    title: str
    changed: str  # ISO 8601
    pictures: list[str]


@dataclass
class Kept:
    """A conversation that was read again. ``missing`` says why a picture of it cannot be read ("": all were)."""

    name: str
    conversation: Conversation
    picture: Image.Image | None
    missing: str = ""


class History:
    """The kept conversations of a folder (default: in the user's data folder), the newest ``most`` of them."""

    def __init__(self, folder: Path | None = None, most: int = MOST) -> None:
        self.folder, self.most = folder or data_folder() / "conversations", most
        self._jobs: queue.Queue[tuple[str, Conversation, Image.Image | None] | None] = queue.Queue()
        self.problem = ""  # why the last conversation could not be written; "": it was
        self._written: tuple[str, Written] = "", {}  # the last conversation's name, and the files of its pictures
        self._deleted: list[str] = []
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------------------------------------ writing

    def keep(self, name: str, conversation: Conversation, preview: Image.Image | None, **about: Any) -> None:
        """Write the conversation as it is now, in the history's own thread; ``about`` is added to its ``about``."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        details = {**conversation.about, **about, "changed": now()}
        turns = [replace(turn) for turn in conversation.turns]
        copy = Conversation(list(conversation.images), list(conversation.paths), turns, details, conversation.times)
        self._jobs.put((name, copy, preview))

    def close(self, timeout: float = 5) -> None:
        """Wait until everything is written."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join(timeout)
            self._thread = None

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self._write(*job)
                self._delete_oldest()
                self.problem = ""
            except (OSError, UserError) as error:  # such as a full disk; answering continues
                self.problem = str(error)

    def _write(self, name: str, conversation: Conversation, preview: Image.Image | None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if name != self._written[0]:
            self._written = name, {}
        conversation = conversation.with_files(self.folder, name, self._written[1])
        small = self.folder / f"{name}.jpg"
        if preview is not None and not small.exists():
            picture = preview.copy()
            picture.thumbnail((SIDE, SIDE))
            save_image(picture, small)
        write_text(self.folder / f"{name}.json", conversation.as_json())

    def _delete_oldest(self) -> None:
        files = sorted(self.folder.glob("*.json"), key=lambda file: file.stat().st_mtime, reverse=True)
        for file in files[self.most :]:
            self._remove(file.stem)

    # ------------------------------------------------------------------------------------------ reading

    def entries(self, search: str = "") -> list[Entry]:
        """The conversations whose title, questions or answers contain ``search``, the last changed first."""
        found = []
        for file in self.folder.glob("*.json"):
            try:
                conversation = Conversation.read(file)
            except UserError:
                continue  # of another program, or damaged by it
            title, changed = title_of(conversation), str(conversation.about.get("changed", ""))
            words = [title, *(word for pair in conversation.answered() for word in pair)]
            if any(search.casefold() in word.casefold() for word in words):
                found.append(Entry(file.stem, title, changed, conversation.paths))
        return sorted(found, key=lambda entry: (entry.changed, entry.name), reverse=True)

    def recent_pictures(self, most: int) -> list[tuple[str, Path]]:
        """The pictures of the last conversations that are still there, each with its small copy."""
        found: dict[str, Path] = {}
        for entry in self.entries():
            small = self.folder / f"{entry.name}.jpg"
            file = file_of(entry.pictures[0]) if entry.pictures else ""
            if small.exists() and os.path.isfile(file):
                found.setdefault(file, small)
            if len(found) == most:
                break
        return list(found.items())

    def open(self, name: str, max_pixels: int) -> Kept:
        """Read a conversation again. Where a picture is gone, its questions and answers can still be read.

        Raises:
            UserError: the conversation cannot be read.
        """
        file = self.folder / f"{name}.json"
        try:
            conversation = Conversation.open(file, max_pixels)
        except UserError as error:
            conversation = Conversation.read(file)
            return Kept(name, conversation, self.small_picture(name), str(error))
        return Kept(name, conversation, conversation.images[0] if conversation.images else None)

    def small_picture(self, name: str) -> Image.Image | None:
        try:
            with Image.open(self.folder / f"{name}.jpg") as image:
                return image.convert("RGB")
        except (OSError, ValueError):
            return None

    # ------------------------------------------------------------------------------------------ the list

    def rename(self, name: str, title: str) -> None:
        """Give a conversation another title.

        Raises:
            UserError: it cannot be read or written.
        """
        file = self.folder / f"{name}.json"
        conversation = Conversation.read(file)
        conversation.about["title"] = whole(title)[0]
        conversation.save(file)

    def delete(self, name: str) -> None:
        """Take a conversation off the list. It can be put back until the window is closed."""
        file = self.folder / f"{name}.json"
        os.utime(file)  # the day after which its files are removed begins now
        os.replace(file, file.with_suffix(".deleted"))
        self._deleted.append(name)

    def undo_delete(self) -> str | None:
        """Put the last deleted conversation back and return its name; None if there is none."""
        if not self._deleted:
            return None
        name = self._deleted.pop()
        file = self.folder / f"{name}.json"
        os.replace(file.with_suffix(".deleted"), file)
        return name

    def empty_bin(self) -> None:
        """Remove the files of conversations that were deleted more than a day ago: no open window can undo that."""
        for file in self.folder.glob("*.deleted"):
            if time.time() - file.stat().st_mtime > DAY_S:
                self._remove(file.stem)

    def _remove(self, name: str) -> None:
        for file in self._files_of(name):
            file.unlink(missing_ok=True)

    def _files_of(self, name: str) -> Iterator[Path]:
        for ending in (".json", ".deleted", ".jpg"):
            yield self.folder / f"{name}{ending}"
        yield from self.folder.glob(f"{name}-*.png")


def title_of(conversation: Conversation) -> str:
    """The title that it was given, else the beginning of its first question."""
    given = conversation.about.get("title")
    if isinstance(given, str) and given:
        return whole(given)[0]
    asked = [asked_about(typed(turn.question))[1] for turn in conversation.turns]
    line = " ".join(whole(asked[0] if asked else str(conversation.about.get("draft", "")))[0].split())
    return line if len(line) <= TITLE else line[: TITLE - 1] + "…"


def save_image(image: Image.Image, file: Path) -> None:
    """Write an image as JPEG; it appears complete or not at all."""
    data = io.BytesIO()
    image.save(data, "JPEG")
    temp_path(file).write_bytes(data.getvalue())
    publish_file(temp_path(file), file)


def new_name() -> str:
    """A name for a conversation that begins now."""
    return datetime.now().strftime("%Y%m%d-%H%M%S-%f")


def now() -> str:
    return datetime.now().astimezone().isoformat(timespec="microseconds")


def data_folder() -> Path:
    """The folder where this system keeps programs' data."""
    home = Path.home()
    folder = {
        "win32": os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local",
        "darwin": home / "Library" / "Application Support",
    }.get(sys.platform, os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return Path(folder) / "ask-a-picture"
