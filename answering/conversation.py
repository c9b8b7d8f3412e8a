"""A conversation about pictures: its turns, the requests it makes, and the file it is saved to (JSON or Markdown).

``ask.py`` and the window share it. It imports neither torch nor Tk.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from PIL import Image

from answering.checkpoints import crop_if_known
from answering.drawing import in_plain_pixels
from common.errors import UserError
from common.files import publish_file, temp_path, write_text
from common.text import whole
from dataset.boxes import (
    LARGEST,
    Box,
    BoxError,
    Crop,
    asked_about,
    picture_asked_about,
    to_thousandths,
    view_of,
    write_box,
)
from dataset.converters.regions import plain
from dataset.image import ImageError, load_image
from dataset.prompt import IMAGE_TOKEN, Request, Turn, neutralise, question_with_images
from dataset.video import file_of, frame_in, read_frame, time_label

# The id of a picture -> the picture, so that no other gets its id, and its file.
Written = dict[int, tuple[Image.Image, str]]


@dataclass
class Exchange(Turn):
    """A turn, when it was asked (ISO 8601, with the time zone) and the checkpoint that answered; "" where unknown."""

    when: str = ""
    checkpoint: str = ""


@dataclass
class Conversation:
    """Questions and answers about ``images``. Those that no question has shown yet come before the next one.

    ``paths`` are the images' files, addresses of frames (:func:`dataset.video.frame_address`), or a name such as
    "clipboard" for an image without a file. ``about`` is saved with the conversation: the checkpoint and the settings
    of the answers.
    """

    images: list[Image.Image] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    turns: list[Exchange] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    times: bool = False  # whether the time of each frame of a video is written before it
    replaced: int = 0  # characters of the last question that were halves of characters, and became U+FFFD

    def ask(self, question: str, boxes: Sequence[Box] = (), picture: int | None = None) -> Request:
        """Add a question and return the request for its answer. A question without an answer is removed first.

        ``boxes``: the parts of a picture that it is about; ``picture``: its index (None: the last).
        """
        question, self.replaced = whole(question)
        self.turns = [turn for turn in self.turns if turn.answer is not None]
        before, last = self.pictures_before(), len(self.images) - 1
        number = None if picture in (None, last) else picture + 1
        asked = question_with_images(question, last + 1 - before, boxes, self._labels(before, last + 1), number)
        self.turns.append(Exchange(asked, when=datetime.now().astimezone().isoformat(timespec="seconds")))
        return self.up_to(len(self.turns) - 1)

    def _labels(self, first: int, end: int) -> list[str]:
        """What is written before the images from ``first`` to ``end``: the time of a frame, or nothing."""
        frames = [frame_in(path) if self.times else None for path in self.paths[first:end]]
        return [time_label(frame[1]) if frame else "" for frame in frames]

    def picture_of(self, turn: Turn) -> int:
        """The index of the picture that a turn's boxes belong to; -1 without pictures.

        It is the one that the question names before its boxes, else the last before the question.
        """
        # A question that is no longer in the conversation was its last.
        index = next((i for i, other in enumerate(self.turns) if other is turn), len(self.turns))
        last = min(self.pictures_before(index) + turn.question.count(IMAGE_TOKEN), len(self.images)) - 1
        number = picture_asked_about(typed(turn.question))
        return last if number is None else min(max(number - 1, 0), last)

    def plain(self, turn: Exchange, so_far: str | None = None) -> tuple[str, str]:
        """A turn's question and answer in plain words, with their boxes in pixels: ``the bus [120, 80, 300, 260]``.

        ``so_far``: the answer in progress, in place of the turn's own. What may become a box at its end is left out.
        """
        picture = self.picture_of(turn)
        size = self.images[picture].size if picture >= 0 else None
        crop = crop_if_known(turn.checkpoint)
        question = in_plain_pixels(typed(turn.question), size, crop)
        if so_far is not None:
            return question, in_plain_pixels(so_far, size, crop, grows=True)
        return question, in_plain_pixels(turn.answer or "", size, crop)

    def pictures_before(self, index: int | None = None) -> int:
        """How many pictures the questions before ``index`` show (None: all questions)."""
        return sum(turn.question.count(IMAGE_TOKEN) for turn in self.turns[:index])

    def answer(self, text: str) -> None:
        """Set the answer to the last question."""
        self.turns[-1].answer = text

    def up_to(self, index: int) -> Request:
        """The request whose last turn is ``index``: a copy, which later questions do not change."""
        turns = [Turn(turn.question, turn.answer) for turn in self.turns[: index + 1]]
        return Request(turns, self.images[: self.pictures_before(index + 1)])

    def answered(self) -> list[tuple[str, str]]:
        """The answered questions as they were typed, with control tokens defused, and their answers."""
        return [(typed(turn.question), turn.answer) for turn in self.turns if turn.answer is not None]

    def with_files(self, folder: Path, stem: str, written: Written | None = None) -> Conversation:
        """A copy in which a picture without a file, such as a pasted one, has one: STEM-NUMBER.png in ``folder``.

        ``written`` remembers the files between calls, since a large picture takes a second to encode.

        Raises:
            OSError: a file cannot be written.
        """
        written, paths = {} if written is None else written, list(self.paths)
        for number, (path, image) in enumerate(zip(self.paths, self.images, strict=False)):
            if not os.path.isfile(file_of(path)):
                known = written.get(id(image))
                if known is None or not os.path.isfile(known[1]):
                    known = written[id(image)] = image, str(picture_file(image, folder, stem))
                paths[number] = known[1]
        return replace(self, paths=paths)

    def save(self, file: Path) -> None:
        """Write it as JSON, which :meth:`open` reads, or as Markdown if the name ends in .md.

        Raises:
            UserError: the file cannot be written.
        """
        text = self._markdown() if file.suffix.lower() == ".md" else self.as_json()
        try:
            write_text(file, text)
        except OSError as error:
            raise UserError(f"{file}: cannot be written ({error.strerror or error})") from error

    @classmethod
    def open(cls, file: Path, max_pixels: int) -> Conversation:
        """Read a conversation that was saved as JSON. The pictures are read again from their paths.

        ``max_pixels`` is the largest width times height of a picture.

        Raises:
            UserError: the file or a picture of it cannot be read.
        """
        conversation = cls.read(file)
        for path in conversation.paths:
            frame = frame_in(path)
            try:
                image = read_frame(*frame, max_pixels) if frame else load_image(path, max_pixels)
                conversation.images.append(image)
            except ImageError as error:
                raise UserError(f"{path}: {error}; the conversation is about this picture") from error
        return conversation

    @classmethod
    def read(cls, file: Path) -> Conversation:
        """A saved conversation without its pictures, of which only the paths are read.

        Raises:
            UserError: the file cannot be read, or is not one.
        """
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            paths, about = [str(path) for path in content["images"]], dict(content["about"])
            found = cls([], paths, about=about, times=content.get("times") is True)
            for number, turn in enumerate(content["turns"]):
                details = [str(turn.get(name, "")) for name in ("when", "checkpoint")]
                question, answer = (whole(str(turn[name]))[0] for name in ("question", "answer"))
                before = found.pictures_before()
                images = int(turn.get("images", 0 if number else len(paths)))
                labels = found._labels(before, before + images)
                asked = question_with_images(question, images, read_boxes(turn), labels, read_picture(turn))
                found.turns.append(Exchange(asked, answer, *details))
            if found.pictures_before() > len(paths):
                raise ValueError("more pictures in its questions than it has")
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file}: not a conversation that was saved here as JSON") from error
        return found

    def as_json(self) -> str:
        answered = [turn for turn in self.turns if turn.answer is not None]
        turns = []
        for number, turn in enumerate(answered):
            details: dict[str, Any] = {"when": turn.when, "checkpoint": turn.checkpoint}
            known = {name: value for name, value in details.items() if value}
            images = turn.question.count(IMAGE_TOKEN)
            if images != (0 if number else len(self.paths)):  # else as in files from before there could be others
                known["images"] = images
            turns.append({**question_fields(typed(turn.question)), "answer": turn.answer, **known})
        times = {"times": True} if self.times else {}
        content = {"images": self.paths, **times, "about": self.about, "turns": turns}
        text = json.dumps(content, ensure_ascii=False, indent=2)
        # A file's name that is not UTF-8 holds lone surrogates. Escaped, they are read back as they were.
        return re.sub(r"[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)

    def _markdown(self) -> str:
        pictures = [
            f"![picture](<{_address(path)}>)" if Path(path).is_file() else _as_typed(path) for path in self.paths
        ]
        about = [f"- {key}: " + _as_typed(str(value)).replace("\n", "\n  ") for key, value in self.about.items()]
        blocks = ["\n".join(pictures), "\n".join(about)]
        for question, answer in (self.plain(turn) for turn in self.turns if turn.answer is not None):
            blocks += ["> " + _as_typed(question).replace("\n", "\n> "), _as_markdown(answer)]
        return whole("\n\n".join(block for block in blocks if block))[0] + "\n"


def request_of(
    parts: Sequence[Mapping[str, Any]], max_pixels: int, crop: Crop | None = None, system: str | None = None
) -> Request:
    """A question as a list, as Qwen-VL's ``from_list_format`` takes it.

        [{"image": "a.jpg"}, {"image": "b.jpg"}, {"text": "Which one is larger?"}]
        [{"image": "a.jpg"}, {"box": (120, 80, 300, 260)}, {"text": "What is this?"}]

    An image is a path or a PIL picture. A box is in pixels of the picture before it, as that is displayed. ``crop`` is
    :attr:`answering.assistant.Assistant.crop`.

    Raises:
        UserError: a picture cannot be read, a box cannot be used, or a part is none of the three.
    """
    images: list[Image.Image] = []
    question = ""
    for number, part in enumerate(parts):
        if "image" in part:
            given = part["image"]
            images.append(given if isinstance(given, Image.Image) else read_image(given, max_pixels))
            question += IMAGE_TOKEN
        elif "text" in part:
            question += ("\n" if question.endswith(IMAGE_TOKEN) else "") + neutralise(part["text"])
        elif "box" in part and images:
            try:
                left, top, right, bottom = map(float, part["box"])
                box = to_thousandths((left, top, right, bottom), view_of(images[-1].size, crop))
            except (BoxError, ValueError, TypeError) as error:
                raise UserError(f"part {number}: a box that cannot be used ({error})") from None
            label = f"<ref>{plain(part['ref'])}</ref>" if part.get("ref") else ""
            question += ("\n" if question.endswith(IMAGE_TOKEN) else "") + label + write_box(box)
        else:
            raise UserError(f"part {number}: expected image, text, or a box after an image, not {', '.join(part)}")
    return Request([Turn(question)], images, system)


def typed(question: str) -> str:
    """A question without the pictures before it."""
    return question.rpartition(IMAGE_TOKEN)[2].lstrip("\n")


def question_fields(question: str) -> dict[str, Any]:
    """A question in JSON: its text; its boxes in thousandths, and the number of their picture, if it has them."""
    (boxes, text), number = asked_about(question), picture_asked_about(question)
    return {"question": text, **({"boxes": boxes} if boxes else {}), **({"picture": number} if number else {})}


def read_boxes(turn: dict[str, Any]) -> list[Box]:
    """The boxes of a question that :func:`question_fields` wrote.

    Raises:
        ValueError, TypeError: they are no boxes.
    """
    boxes = [(int(left), int(top), int(right), int(bottom)) for left, top, right, bottom in turn.get("boxes", [])]
    if any(not (0 <= box[0] < box[2] <= LARGEST and 0 <= box[1] < box[3] <= LARGEST) for box in boxes):
        raise ValueError("a box beyond its picture")
    return boxes


def read_picture(turn: dict[str, Any]) -> int | None:
    """The number of the picture that :func:`question_fields` wrote; None: the last.

    Raises:
        ValueError, TypeError: it is no number of a picture.
    """
    number = turn.get("picture")
    if number is not None and not 1 <= int(number) <= 9999:
        raise ValueError("a picture that there is not")
    return None if number is None else int(number)


def picture_file(image: Image.Image, folder: Path, stem: str) -> Path:
    """The file STEM-NUMBER.png in ``folder`` that holds this picture, written if there is none. None is overwritten."""
    data = io.BytesIO()
    image.save(data, "PNG")
    number = 0
    while (file := folder / f"{stem}-{number}.png").exists():
        if file.read_bytes() == data.getvalue():
            return file
        number += 1
    temp_path(file).write_bytes(data.getvalue())
    publish_file(temp_path(file), file)
    return file


def read_image(path: str, max_pixels: int) -> Image.Image:
    """Raises UserError, which names the file, if the picture cannot be read."""
    try:
        return load_image(path, max_pixels)
    except ImageError as error:
        raise UserError(f"{path}: {error}") from error


def _address(path: str) -> str:
    """A file's path for Markdown's ``<...>``, which allows spaces and brackets but no markup, entity or fragment."""
    # Python has the byte 0xE4 of a name that is not UTF-8 as U+DCE4.
    return re.sub(
        r"[%<>#?&\\\x00-\x1f\udc80-\udcff]", lambda found: f"%{ord(found[0]) & 0xFF:02X}", Path(path).as_posix()
    )


def _as_typed(text: str) -> str:
    """Markdown that shows plain text exactly, line by line."""
    lines = []
    for line in text.splitlines():
        line = re.sub(r"[\\`*\[\]<~|$]|&(?=[#\w]+;)|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", line.strip())
        lines.append(re.sub(r"^(\d*)([#>+=.)-])", r"\1\\\2", line))  # headings, quotes, lists, underlines
    return _keep_breaks("\n".join(lines))


def _as_markdown(answer: str) -> str:
    """An answer as Markdown. The model's own Markdown is kept, with three changes.

    Line breaks are kept; tags are escaped, which a page would not show; a code block that is not closed is closed, or
    the rest of the page would be part of it.
    """
    pieces = re.split(r"(```.*?(?:```|\Z)|`[^`\n]+`)", answer, flags=re.DOTALL)  # prose, code, prose, ...
    pieces[::2] = [_keep_breaks(re.sub(r"<(?=[a-zA-Z/!?])|^>", r"\\\g<0>", piece, flags=re.M)) for piece in pieces[::2]]
    return "".join(pieces) + ("\n```" if answer.count("```") % 2 else "")


def _keep_breaks(text: str) -> str:
    """End lines with two spaces, which Markdown shows as a line break."""
    return re.sub(r"(?<=\S)\n(?=\S)", "  \n", text)
