"""A conversation about pictures: its turns, the requests it makes, and the file it is saved to (JSON or Markdown).

``ask.py`` and the window share it. It imports neither torch nor Tk.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from PIL import Image

from common.errors import UserError
from common.files import write_text
from common.text import whole
from dataset.boxes import LARGEST, Box, BoxError, Crop, asked_about, to_thousandths, view_of, write_box
from dataset.converters.regions import plain
from dataset.image import ImageError, load_image
from dataset.prompt import IMAGE_TOKEN, Request, Turn, neutralise, question_with_images


@dataclass
class Exchange(Turn):
    """A turn, when it was asked (ISO 8601, with the time zone) and the checkpoint that answered; "" where unknown."""

    when: str = ""
    checkpoint: str = ""


@dataclass
class Conversation:
    """Questions and answers about ``images``. Those that no question has shown yet come before the next one.

    ``paths`` are the images' files, or a name such as "clipboard" for an image without one. ``about`` is saved with
    the conversation: the checkpoint and the settings of the answers.
    """

    images: list[Image.Image] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    turns: list[Exchange] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)  # before each image, such as the time of a frame; [] for none
    replaced: int = 0  # characters of the last question that were halves of characters, and became U+FFFD

    def ask(self, question: str, boxes: Sequence[Box] = ()) -> Request:
        """Add a question and return the request for its answer. A question without an answer is removed first.

        ``boxes``: the parts of the last picture that it is about.
        """
        question, self.replaced = whole(question)
        self.turns = [turn for turn in self.turns if turn.answer is not None]
        before = self.pictures_before()
        asked = question_with_images(question, len(self.images) - before, boxes, self.labels[before:])
        self.turns.append(Exchange(asked, when=datetime.now().astimezone().isoformat(timespec="seconds")))
        return self.up_to(len(self.turns) - 1)

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
            try:
                conversation.images.append(load_image(path, max_pixels))
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
            turns = []
            for number, turn in enumerate(content["turns"]):
                details = [str(turn.get(name, "")) for name in ("when", "checkpoint")]
                question, answer = (whole(str(turn[name]))[0] for name in ("question", "answer"))
                images = int(turn.get("images", 0 if number else len(paths)))
                turns.append(Exchange(question_with_images(question, images, read_boxes(turn)), answer, *details))
            if sum(turn.question.count(IMAGE_TOKEN) for turn in turns) > len(paths):
                raise ValueError("more pictures in its questions than it has")
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file}: not a conversation that was saved here as JSON") from error
        return cls([], paths, turns, about)

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
        content = {"images": self.paths, "about": self.about, "turns": turns}
        text = json.dumps(content, ensure_ascii=False, indent=2)
        # A file's name that is not UTF-8 holds lone surrogates. Escaped, they are read back as they were.
        return re.sub(r"[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)

    def _markdown(self) -> str:
        pictures = [
            f"![picture](<{_address(path)}>)" if Path(path).is_file() else _as_typed(path) for path in self.paths
        ]
        about = [f"- {key}: " + _as_typed(str(value)).replace("\n", "\n  ") for key, value in self.about.items()]
        blocks = ["\n".join(pictures), "\n".join(about)]
        for question, answer in self.answered():
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
    """A question in JSON: its text, and its boxes in thousandths if it is about some."""
    boxes, text = asked_about(question)
    return {"question": text, "boxes": boxes} if boxes else {"question": text}


def read_boxes(turn: dict[str, Any]) -> list[Box]:
    """The boxes of a question that :func:`question_fields` wrote.

    Raises:
        ValueError, TypeError: they are no boxes.
    """
    boxes = [(int(left), int(top), int(right), int(bottom)) for left, top, right, bottom in turn.get("boxes", [])]
    if any(not (0 <= box[0] < box[2] <= LARGEST and 0 <= box[1] < box[3] <= LARGEST) for box in boxes):
        raise ValueError("a box beyond its picture")
    return boxes


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
