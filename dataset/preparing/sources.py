"""All sources of a config: their records and images, and the one image map and set of conversations they make."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

from dataset.boxes import Crop, SourceBoxes, source_boxes
from dataset.converters.base import File, Format
from dataset.converters.choose import check_boxes, choose
from dataset.converters.pictures import keep_picture
from dataset.image import ImageError, picture_size
from dataset.preparing.find import find_image, real_path
from dataset.preparing.process import TEXT_ONLY, Annotations, BoxesOf, Changes, ImageMap, Labelled, process_records
from dataset.records import RecordError
from dataset.video import is_video, read_frames, time_label
from settings import Data, Source

RECORDS_AT_ONCE = 10_000


class Records:
    """The records of several files. Each pass reads the files again: the records need not fit into memory."""

    def __init__(self, form: Format, files: Sequence[File]) -> None:
        self.form, self.files, self.counts = form, files, [0] * len(files)

    def __iter__(self) -> Iterator[object]:
        for number, file in enumerate(self.files):
            self.counts[number] = 0
            for record in self.form.read(file):
                self.counts[number] += 1
                yield record

    def __len__(self) -> int:
        """As the latest pass counted them."""
        return sum(self.counts)

    def origin(self, index: int) -> tuple[Path, int]:
        """The file of a record, and the record's number in it."""
        for file, count in zip(self.files, self.counts, strict=True):
            if index < count:
                return file.path, index
            index -= count
        raise IndexError(index)


@dataclass
class Part:
    """One source: its records, and what became of its images and records."""

    source: Source
    records: Records
    paths: dict[str, Path] = field(default_factory=dict)  # usable images by name
    bad_images: dict[str, tuple[str, str]] = field(default_factory=dict)  # name -> file, reason
    rejected: list[tuple[int, str]] = field(default_factory=list)  # records: index, reason
    changes: Changes = field(default_factory=dict)  # within the records that are kept
    frames: dict[str, Labelled] = field(default_factory=dict)  # of videos by name
    kept: int = 0  # records

    @property
    def unused(self) -> int:
        """Records that were rejected, or name an image that cannot be used."""
        return len(self.records) - self.kept

    def name_of(self, record: int) -> str:
        file, number = self.records.origin(record)
        return f"record {number} of {file.name}"


def find_images(data: Data) -> list[Part]:
    """Read every source for the images it names, and find their files.

    Raises:
        UserError: a source cannot be read.
    """
    parts = []
    for number, source in enumerate(data.sources):
        name, form, sign, files = choose(source, f"data.sources.{number}")
        check_boxes(source, f"data.sources.{number}", form)
        if sign:
            print(f"source {source.name}: read as format {name}: {sign}")
        parts.append(Part(source, Records(form, files)))
    for part in parts:
        for name in _referenced(part):
            try:
                path = find_image(name, part.source.images, data.follow_links)
                if is_video(name):
                    part.frames[name] = write_frames(name, path, data, part.paths)
                else:
                    part.paths[name] = path
            except ImageError as error:
                part.bad_images[name] = (name, str(error))
    return parts


def write_frames(name: str, path: Path, data: Data, paths: dict[str, Path]) -> Labelled:
    """Write a video's frames into ``data.frames``, and their names into ``paths``; frames that are there stay.

    Returns:
        the name of each frame and what is written before it in a prompt.

    Raises:
        ImageError: the video cannot be read.
        UserError: a frame cannot be written.
    """
    found: Labelled = []
    for number, (image, seconds) in enumerate(read_frames(path, data.video_frames, data.max_pixels)):
        content = io.BytesIO()
        image.save(content, "JPEG", quality=95)
        frame = f"{name}/{number:03}.jpg"
        paths[frame] = data.frames / keep_picture(content.getvalue(), data.frames)
        found.append((frame, time_label(seconds) if data.video_times else ""))
    return found


def files_of(parts: list[Part]) -> list[str]:
    """Each image file once, in order, without links."""
    return list(dict.fromkeys(real_path(path) for part in parts for path in part.paths.values()))


def drop_unusable(parts: list[Part], unusable: dict[str, str]) -> None:
    """Move images from ``paths`` to ``bad_images``; ``unusable`` is path -> reason."""
    for part in parts:
        for name, path in list(part.paths.items()):
            if reason := unusable.get(real_path(path)):
                part.bad_images[name] = (path.as_posix(), reason)
                del part.paths[name]


def _referenced(part: Part) -> dict[str, None]:
    """The images that a source's records name, each once, in order."""
    names: dict[str, None] = {}
    for record in part.records:
        try:
            names.update(dict.fromkeys(part.records.form.example(record).images))
        except RecordError:
            continue  # it is rejected with its reason when it is processed
    return names


def boxes_of(part: Part, crop: Crop | None) -> BoxesOf | None:
    """How a source's boxes are read, for the files of one record's pictures; None if it declares none."""
    if part.source.boxes is None:
        return None
    order = part.records.form.box_order
    size = lru_cache(maxsize=10_000)(picture_size)  # the records of one picture follow one another in most files

    def of(files: list[Path]) -> SourceBoxes:
        boxes = source_boxes(part.source, order, crop, lambda number: size(files[number]))
        assert boxes is not None
        return boxes

    return of


class Conversations:
    """Conversations by the id of their first image, packed as JSON: objects would take five times the memory."""

    def __init__(self) -> None:
        self.packed: dict[str, list[tuple[int, bytes]]] = {}
        self.links: list[list[int]] = []  # ids of the images that one conversation shows
        self.given_splits: dict[int, str] = {}  # of the images whose records tell one, by id

    def add(self, part: int, annotations: Annotations) -> None:
        for key, conversations in annotations.items():
            for conversation in conversations:
                text = json.dumps(conversation, ensure_ascii=False, separators=(",", ":")).encode()
                self.packed.setdefault(key, []).append((part, text))
                if "images" in conversation:
                    self.links.append(conversation["images"])

    def items(self, splits: Mapping[int, str]) -> Iterator[tuple[str, list[tuple[int, dict[str, Any]]]]]:
        """(key, [(number of the part, conversation)]) by id, text only last; ``splits`` by id, the others train."""
        for key in sorted(self.packed, key=lambda key: (key == TEXT_ONLY, int(key) if key != TEXT_ONLY else 0)):
            split = {"split": splits[int(key)]} if key != TEXT_ONLY and int(key) in splits else {}
            yield key, [(part, json.loads(text) | split) for part, text in self.packed[key]]


def merge(parts: list[Part], data: Data, crop: Crop | None = None) -> tuple[ImageMap, Conversations]:
    """Process the sources one after another, with consecutive ids, into one image map and one set of conversations.

    An image whose name belongs to another image of an earlier source gets its source's name in front, "source/name".
    ``crop``: what the tower's processor cuts off, for the boxes of sources that declare some.
    """
    image_map: ImageMap = {}
    conversations = Conversations()
    known: dict[str, int] = {}
    for number, part in enumerate(parts):
        source = part.source
        read = partial(
            process_records,
            part.records.form,
            paths=part.paths,
            source=source.name,
            seed=data.seed,
            keep_all_captions=data.keep_all_captions,
            language=source.language,
            images_per_conversation=data.images_per_conversation,
            known=known,
            rejected=part.rejected,
            changes=part.changes,
            given_splits=conversations.given_splits,
            boxes=boxes_of(part, crop),
            frames=part.frames,
        )
        records, first = iter(part.records), 0
        while some := list(islice(records, RECORDS_AT_ONCE)):
            new, annotations = read(some, start_ID=len(image_map), first=first)
            first += len(some)
            for name, entry in new.items():
                while name in image_map:
                    name = f"{source.name}/{name}"
                image_map[name] = entry
            conversations.add(number, annotations)
            part.kept += sum(map(len, annotations.values()))
    return image_map, conversations
