"""Raw annotations to the two files that everything after reads: which images there are, and what is said about them.

    python process_image.py --config config.yaml

Records come in two formats, AI Challenger captions (:func:`process_ali`) and LLaVA conversations
(:func:`process_coco`). Every image is decoded once here, so that a damaged file is found now and not after hours of
training. Whatever cannot be used ends in a skip list with its reason, never in a crash, and never in silence: above
``data.max_skipped`` nothing is written at all.

Every random choice depends on the seed, the source's name and the record's number alone: the same input gives the
same bytes, whatever else was skipped, on any number of processes.
"""

from __future__ import annotations

import argparse
import codecs
import hashlib
import json
import os
import random
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import islice
from pathlib import Path, PureWindowsPath

from tqdm import tqdm

from common.errors import UserError
from common.files import write_together
from dataset.image import ImageError, load_image
from dataset.records import KINDS, SURROGATE, RecordError, caption_or_turns, turns_of
from settings import Config, Data, Source, add_config_arguments, load_config, require_paths

TEXT_ONLY = "text"  # the key of conversations without an image

_CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()
_RECORD_KEYS = {"image", "image_id", "conversations", "caption"}
_COCO_2014 = re.compile(r"COCO_(?:train|val)2014_(\d{12}\.jpg)")
_COCO_2017 = re.compile(r"\d{12}\.jpg")

ImageMap = dict[str, dict]
Annotations = dict[str, list[dict]]


# ---------------------------------------------------------------------------------------------- records


EXPECTED = "expected one list of records, [{...}, {...}], or one record a line"
LONGEST_RECORD = 64 * 2**20  # characters; a real one has some thousands


def read_json(path: str | os.PathLike[str]) -> list:
    """All of :func:`read_records`."""
    return list(read_records(path))


def read_records(path: str | os.PathLike[str]) -> Iterator[object]:
    """The records of a JSON file one by one: a list, or JSON Lines, or several of either, one behind the other.

    UTF-8, with or without a byte order mark. The file is read in pieces: the memory is that of the longest record.

    Raises:
        UserError: not readable, not UTF-8, not JSON (with the position), or nothing that could be records.
    """
    text = _Text(path)
    if not text.more():
        raise UserError(f"{path}: not valid JSON at line 1, column 1: the file is empty; {EXPECTED}")
    while text.more():
        if text.starts("["):
            yield from _listed(text)
            continue
        record = text.value()
        if not isinstance(record, dict) or (text.documents == 0 and not record.keys() & _RECORD_KEYS):
            raise UserError(f"{path}: {EXPECTED}, not {KINDS[type(record)]}")
        text.documents += 1
        yield record


def _listed(text: _Text) -> Iterator[object]:
    """The values of a list whose bracket was just read."""
    text.documents += 1
    if not text.more() or text.starts("]"):
        text.require()
        return
    while True:
        yield text.value()
        text.require()
        if text.starts("]"):
            return
        if not text.starts(","):
            text.fail("Expecting ',' delimiter")
        text.require()


class _Text:
    """A file's text behind what was taken from it, read in pieces as it is needed."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path, self.documents = path, 0
        self.buffer, self.place, self.ended = "", 0, False
        self.line, self.column = 1, 1  # of the buffer's first character
        self.bytes = 0
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        try:
            self.file = open(path, "rb")
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None

    def more(self) -> bool:
        """Skip white space; whether anything follows."""
        while True:
            self.place = _SPACE.match(self.buffer, self.place).end()
            if self.place < len(self.buffer):
                return True
            if self.ended:
                return False
            self._read(1 << 20)

    def require(self) -> None:
        if not self.more():
            self.fail("the text ends in the middle")

    def starts(self, character: str) -> bool:
        """Take this character if it comes next."""
        if self.buffer.startswith(character, self.place):
            self.place += 1
            return True
        return False

    def value(self) -> object:
        """Take one JSON value."""
        size = 1 << 20
        while True:
            try:
                value, end = _DECODER.raw_decode(self.buffer, self.place)
                if end < len(self.buffer) or self.ended:  # else a number may go on
                    self.place = end
                    return value
            except json.JSONDecodeError as error:
                if self.ended:
                    self.fail(error.msg, error.pos)
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
                raise UserError(f"{self.path}: not valid JSON: {error}; {EXPECTED}") from None
            if len(self.buffer) - self.place > LONGEST_RECORD:
                self.fail(f"no end of this record in {LONGEST_RECORD:,} characters")
            self._read(size)
            size *= 2  # what is cut is decoded anew: twice the work at most, not a square

    def fail(self, problem: str, place: int | None = None) -> None:
        line, column = self._position(self.place if place is None else place)
        raise UserError(f"{self.path}: not valid JSON at line {line}, column {column}: {problem}; {EXPECTED}")

    def _position(self, place: int) -> tuple[int, int]:
        lines = self.buffer.count("\n", 0, place)
        if lines:
            return self.line + lines, place - self.buffer.rindex("\n", 0, place)
        return self.line, self.column + place

    def _read(self, size: int) -> None:
        """Forget what was taken and read about ``size`` bytes more."""
        if self.place:
            self.line, self.column = self._position(self.place)
            self.buffer, self.place = self.buffer[self.place :], 0
        pending = len(self.decoder.getstate()[0])
        try:
            block = self.file.read(size)
            self.buffer += self.decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            at = self.bytes - pending + error.start
            raise UserError(f"{self.path}: not UTF-8 text (byte {at}); save the file as UTF-8") from None
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read: {error.strerror or error}") from None
        self.bytes += len(block)
        if not block:
            self.ended = True
            self.file.close()


def process_ali(
    records: Iterable[object],
    paths: dict[str, Path],
    source: str = "ali",
    start_ID: int = 0,
    *,
    seed: int = 0,
    keep_all_captions: bool = False,
    language: str = "auto",
    images_per_conversation: int = 1,
    known: dict[str, int] | None = None,
    rejected: list[tuple[int, str]] | None = None,
    first: int = 0,
) -> tuple[ImageMap, Annotations]:
    """Records of AI Challenger: an image (``image_id`` or ``image``) and one caption or several.

    The captions are text or a list under ``caption`` or ``conversations``. One is drawn at random, or all are kept as
    references; one of two Chinese questions is put before it. A list of messages, as LLaVA has them, is read as such.

    The other arguments and the result are those of :func:`process_coco`.
    """

    def turns(index: int, record: dict, images: int) -> list[dict]:
        rng = random.Random(f"{seed}:{source}:{index}")
        return caption_or_turns(record, images, rng, keep_all_captions)

    shared = (language, images_per_conversation, known, rejected, first)
    return _process(records, paths, source, start_ID, turns, ("image_id", "image"), *shared)


def process_coco(
    records: Iterable[object],
    paths: dict[str, Path],
    source: str = "coco",
    start_ID: int = 0,
    *,
    language: str = "auto",
    images_per_conversation: int = 1,
    known: dict[str, int] | None = None,
    rejected: list[tuple[int, str]] | None = None,
    first: int = 0,
) -> tuple[ImageMap, Annotations]:
    """Records of LLaVA: conversations of any number of turns about ``image``, or about several, or about none.

    Args:
        records: as :func:`read_json` gives them.
        paths: the usable images, by their names in the records. A record with any other image is left out.
        source: the name of the source, kept with every conversation.
        start_ID: the id of the first new image.
        language: "en", "zh", or "auto": Chinese where there is a Chinese character.
        images_per_conversation: the most images that one conversation may have.
        known: resolved path -> id of the images of earlier sources, which keep their ids; extended in place.
        rejected: a list that gets (index, reason) of each record that cannot be used.
        first: the index of the first record, where they are given in several calls.

    Returns:
        The map of the new images, {name: {"ID", "path"}}, and the conversations by image id (as text), each under
        its first image, under "text" without one: {"source", "language", "split": "train", "turns": [{"q", "a"}]},
        and "images" with the ids where there are several.
    """

    def turns(index: int, record: dict, images: int) -> list[dict]:
        return turns_of(record.get("conversations"), images)

    shared = (language, images_per_conversation, known, rejected, first)
    return _process(records, paths, source, start_ID, turns, ("image",), *shared)


def _process(
    records: Iterable[object],
    paths: dict[str, Path],
    source: str,
    start_ID: int,
    turns: Callable[[int, dict, int], list[dict]],
    fields: tuple[str, ...],
    language: str,
    images_per_conversation: int,
    known: dict[str, int] | None,
    rejected: list[tuple[int, str]] | None,
    first: int,
) -> tuple[ImageMap, Annotations]:
    known = {} if known is None else known
    image_map: ImageMap = {}
    annotations: Annotations = {}
    for index, record in enumerate(records, start=first):
        try:
            names = image_names(record, fields)
            if len(names) > images_per_conversation:
                limit = f"data.images_per_conversation allows {images_per_conversation}"
                raise RecordError(f"has {len(names)} images, {limit}")
            if any(name not in paths for name in names):
                continue  # the image stands in the skip list already
            conversation = {"source": source, "language": language, "split": "train"}
            conversation["turns"] = turns(index, record, len(names))
        except RecordError as error:
            if rejected is not None:
                rejected.append((index, str(error)))
            continue
        if language == "auto":
            conversation["language"] = "zh" if _is_chinese(conversation["turns"]) else "en"
        for name in names:
            if _resolve(paths[name]) not in known:
                known[_resolve(paths[name])] = start_ID + len(image_map)
                image_map[name] = {"ID": known[_resolve(paths[name])], "path": paths[name].as_posix()}
        ids = [known[_resolve(paths[name])] for name in names]
        if len(ids) > 1:
            conversation["images"] = ids
        annotations.setdefault(str(ids[0]) if ids else TEXT_ONLY, []).append(conversation)
    return image_map, annotations


def image_names(record: object, fields: Sequence[str] = ("image_id", "image")) -> list[str]:
    """The images a record names in the first of ``fields`` that is not empty; none for text only.

    Raises:
        RecordError: not a record, or not names.
    """
    if not isinstance(record, dict):
        raise RecordError(f"is not an object but {KINDS[type(record)]}")
    value = next((record[f] for f in fields if record.get(f) not in (None, "", [])), [])
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise RecordError(f"{' or '.join(fields)} is neither a file name nor a list of file names")
    return names


def _is_chinese(turns: list[dict]) -> bool:
    return any(_CHINESE.search(text) for turn in turns for text in (turn["q"], *turn["a"]))


# ---------------------------------------------------------------------------------------------- images


def find_image(name: str, folders: Sequence[Path]) -> Path:
    """The file that a record means by ``name``, in the first folder that has it; COCO's names of either year do.

    Raises:
        ImageError: missing, or outside the folder it was looked for in.
    """
    as_windows = PureWindowsPath(name)  # splits at both slashes and knows drives: refused alike on every system
    if as_windows.anchor or ".." in as_windows.parts:
        raise ImageError("escapes its folder")
    if SURROGATE.search(name):
        raise ImageError("the name is not valid text")
    for candidate in (name, *_coco_names(name)):
        for folder in folders:
            path = folder / candidate
            if os.path.isfile(path):
                if not Path(_resolve(path)).is_relative_to(_resolve(folder)):  # a link led out
                    raise ImageError("escapes its folder")
                return path
    raise ImageError("missing")


@cache
def _resolve(path: Path) -> str:
    """The file behind all links. Remembered: it costs 40 microseconds and is wanted four times for each image."""
    return os.path.realpath(path)


def _coco_names(name: str) -> list[str]:
    """What else COCO calls this file: 000000458752.jpg (2017) and COCO_train2014_000000458752.jpg are the same."""
    folder, slash, file = name.rpartition("/")
    if match := _COCO_2014.fullmatch(file):
        return [folder + slash + match[1]]
    if _COCO_2017.fullmatch(file):
        return [f"{folder}{slash}COCO_{part}2014_{file}" for part in ("train", "val")]
    return []


def check_images(
    paths: Sequence[str], *, max_pixels: int, workers: int | None = None, progress: bool = True
) -> dict[str, str]:
    """Decode every file once, on all cores or ``workers`` of them; the reason for each that cannot be used.

    Raises:
        UserError: a process was killed, most likely for its memory.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(workers or cores, 61, max(1, len(paths)))  # 61: the most that Windows can wait for
    size = max(1, min(32, len(paths) // (4 * workers)))
    chunks = [paths[start : start + size] for start in range(0, len(paths), size)]
    unusable: dict[str, str] = {}
    with (
        ProcessPoolExecutor(workers, initializer=_ignore_interrupt) as pool,
        tqdm(total=len(paths), desc="checking images", unit="image", disable=not progress) as bar,
    ):
        try:
            for chunk, reasons in zip(chunks, pool.map(partial(_check_chunk, max_pixels), chunks), strict=True):
                unusable |= {path: reason for path, reason in zip(chunk, reasons, strict=True) if reason}
                bar.update(len(chunk))
        except BrokenProcessPool:
            advice = "start again with fewer processes (data.workers=1) or a lower data.max_pixels"
            raise UserError(f"a process that checked images was killed (out of memory?); {advice}") from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return unusable


def _ignore_interrupt() -> None:
    """Ctrl-C reaches every process of the terminal; only the main one answers it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _check_chunk(max_pixels: int, paths: Sequence[str]) -> list[str | None]:
    return [_reason(Path(path), max_pixels) for path in paths]


def _reason(path: Path, max_pixels: int) -> str | None:
    try:
        load_image(path, max_pixels)
    except ImageError as error:
        return str(error)
    return None


# ---------------------------------------------------------------------------------------------- all sources


class Records:
    """The records of several files, read anew each time they are gone through: they need not fit into the memory."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files, self.counts = files, [0] * len(files)

    def __iter__(self) -> Iterator[object]:
        for place, file in enumerate(self.files):
            self.counts[place] = 0
            for record in read_records(file):
                self.counts[place] += 1
                yield record

    def __len__(self) -> int:
        """As the latest pass counted them."""
        return sum(self.counts)

    def origin(self, index: int) -> tuple[Path, int]:
        """The file a record stands in, and its number there."""
        for file, count in zip(self.files, self.counts, strict=True):
            if index < count:
                return file, index
            index -= count
        raise IndexError(index)


@dataclass
class Part:
    """What one source brings, from the first look at its files to the last count."""

    source: Source
    records: Records
    paths: dict[str, Path] = field(default_factory=dict)  # usable images by name
    bad_images: dict[str, tuple[str, str]] = field(default_factory=dict)  # name -> file, reason
    rejected: list[tuple[int, str]] = field(default_factory=list)  # records: index, reason


def find_images(data: Data) -> list[Part]:
    """Read every source for the images it names, and find their files."""
    parts = [Part(source, Records(source.annotations)) for source in data.sources]
    for part in parts:
        for name in _referenced(part):
            try:
                part.paths[name] = find_image(name, part.source.images)
            except ImageError as error:
                part.bad_images[name] = (name, str(error))
    return parts


def files_of(parts: list[Part]) -> list[str]:
    """Each file once, in order."""
    return list(dict.fromkeys(_resolve(path) for part in parts for path in part.paths.values()))


def drop_unusable(parts: list[Part], unusable: dict[str, str]) -> None:
    for part in parts:
        for name, path in list(part.paths.items()):
            if reason := unusable.get(_resolve(path)):
                part.bad_images[name] = (path.as_posix(), reason)
                del part.paths[name]


def _fields(source: Source) -> tuple[str, ...]:
    return ("image_id", "image") if source.format == "ali" else ("image",)


def _referenced(part: Part) -> dict[str, None]:
    """The images that a source's records name, each once, in order."""
    names: dict[str, None] = {}
    for record in part.records:
        try:
            names.update(dict.fromkeys(image_names(record, _fields(part.source))))
        except RecordError:
            continue  # rejected with its reason when it is processed
    return names


def check_share(parts: list[Part], max_skipped: float) -> None:
    """Stop where too many images are unusable: most often a wrong folder, not a thousand bad files.

    Raises:
        UserError: counts, the most frequent reasons, an example.
    """
    bad = [(part, *entry) for part in parts for entry in part.bad_images.values()]
    total = len(bad) + sum(len(part.paths) for part in parts)
    if not bad or len(bad) / total <= max_skipped:
        return
    reasons = Counter(reason.partition(":")[0] for _, _, reason in bad)
    listed = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common(3))
    part, file, reason = bad[0]
    raise UserError(
        f"{len(bad):,} of {total:,} images ({len(bad) / total:.1%}) cannot be used, data.max_skipped allows "
        f"{max_skipped:.1%}: {listed}; the first is {file} of source {part.source.name} ({reason}); nothing was "
        "written: check the images folders of data.sources, or raise data.max_skipped"
    )


class Conversations:
    """Conversations by the id of their first image, as JSON: as objects they would take five times the memory."""

    def __init__(self) -> None:
        self.packed: dict[str, list[tuple[int, bytes]]] = {}
        self.links: list[list[int]] = []  # ids of images that one conversation shows

    def add(self, part: int, annotations: Annotations) -> None:
        for key, conversations in annotations.items():
            for conversation in conversations:
                text = json.dumps(conversation, ensure_ascii=False, separators=(",", ":")).encode()
                self.packed.setdefault(key, []).append((part, text))
                if "images" in conversation:
                    self.links.append(conversation["images"])

    def items(self, held: set[int]) -> Iterator[tuple[str, list[tuple[int, dict]]]]:
        """(key, [(number of the part, conversation)]) by id, text only last; ``held``: images that are kept back."""
        for key in sorted(self.packed, key=lambda key: (key == TEXT_ONLY, int(key) if key != TEXT_ONLY else 0)):
            split = {"split": "held_out"} if key != TEXT_ONLY and int(key) in held else {}
            yield key, [(part, json.loads(text) | split) for part, text in self.packed[key]]


def merge(parts: list[Part], data: Data) -> tuple[ImageMap, Conversations]:
    """Process the sources one after another, ids running on, into one image map and one set of conversations.

    A name that an earlier source has for another image gets the source's name in front, "source/name".
    """
    image_map: ImageMap = {}
    conversations = Conversations()
    known: dict[str, int] = {}
    for number, part in enumerate(parts):
        source = part.source
        options = {
            "language": source.language,
            "images_per_conversation": data.images_per_conversation,
            "known": known,
            "rejected": part.rejected,
        }
        process = process_coco
        if source.format == "ali":
            process = partial(process_ali, seed=data.seed, keep_all_captions=data.keep_all_captions)
        records, first = iter(part.records), 0
        while some := list(islice(records, 10_000)):
            new, annotations = process(some, part.paths, source.name, len(image_map), first=first, **options)
            first += len(some)
            for name, entry in new.items():
                while name in image_map:
                    name = f"{source.name}/{name}"
                image_map[name] = entry
            conversations.add(number, annotations)
    return image_map, conversations


# ---------------------------------------------------------------------------------------------- held out


def hold_out(image_map: ImageMap, links: Iterable[Sequence[int]], chosen: Callable[[list[str]], bool]) -> set[int]:
    """The ids of the images that are kept back: images that a conversation connects fall on one side.

    ``chosen`` decides from the names of such a group, the one with the lowest id first.
    """
    groups = image_groups(links, len(image_map))
    members: dict[int, list[str]] = {}
    for name, entry in image_map.items():  # ids are in the order of the map
        members.setdefault(groups[entry["ID"]], []).append(name)
    held = {group for group, names in members.items() if chosen(names)}
    return {image for image, group in enumerate(groups) if group in held}


def image_groups(links: Iterable[Sequence[int]], count: int) -> list[int]:
    """For each of ``count`` images the lowest id that conversations about several images connect it with."""
    lowest = list(range(count))

    def root(image: int) -> int:
        while lowest[image] != image:
            lowest[image] = lowest[lowest[image]]
            image = lowest[image]
        return image

    for images in links:
        for one, other in zip(images, images[1:], strict=False):
            one, other = sorted((root(one), root(other)))
            lowest[other] = one
    return [root(image) for image in range(count)]


def by_share(share: float, seed: int) -> Callable[[list[str]], bool]:
    """About this share of the groups, by a hash of the first name: more data moves no image to the other side."""

    def chosen(names: list[str]) -> bool:
        digest = hashlib.sha256(f"{seed}:{names[0]}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < share * 2**64

    return chosen


def by_list(file: Path, parts: list[Part], image_map: ImageMap) -> Callable[[list[str]], bool]:
    """The groups with an image that ``file`` names, one a line, as a record or the image map writes it.

    Raises:
        UserError: not readable, or it names no image at all.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"data.held_out: {file} cannot be read as UTF-8 text: {error}") from None
    listed = {line.strip() for line in lines} - {""}
    # Records may call one file by several names; what counts is the file.
    files = {_resolve(path) for part in parts for name, path in part.paths.items() if name in listed}
    held = {name for name, entry in image_map.items() if name in listed or _resolve(Path(entry["path"])) in files}
    if listed and image_map and not held:
        example = min(listed)
        raise UserError(f"data.held_out: none of the {len(listed):,} names in {file} is an image here, e.g. {example}")
    return lambda names: not held.isdisjoint(names)


# ---------------------------------------------------------------------------------------------- results


def skip_list(parts: list[Part]) -> list[dict]:
    """[{"file", "reason"}]: of each source first its images, then its records, which are counted from 0."""
    skipped = []
    for part in parts:
        entries = list(part.bad_images.values())
        for index, reason in part.rejected:
            file, number = part.records.origin(index)
            entries.append((file.as_posix(), f"record {number}: {reason}"))
        skipped += [{"file": SURROGATE.sub("\ufffd", f), "reason": SURROGATE.sub("\ufffd", r)} for f, r in entries]
    return skipped


def write_results(contents: dict[Path, object]) -> None:
    """Write the JSON files that belong together (:func:`files.write_together`).

    Raises:
        UserError: a file cannot be written. The old ones are as they were, unless the disk failed while renaming.
    """
    try:
        write_together(contents)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be written: {error.strerror or error}") from None


@dataclass
class Sizes:
    """Of a source, of all, or of a split."""

    images: set[int] = field(default_factory=set)
    conversations: int = 0
    turns: int = 0

    def add(self, key: str, conversation: dict) -> None:
        if key != TEXT_ONLY:
            self.images.update(conversation.get("images", [int(key)]))
        self.conversations += 1
        self.turns += len(conversation["turns"])

    def cells(self) -> tuple[str, str, str]:
        return f"{len(self.images):,}", f"{self.conversations:,}", f"{self.turns:,}"


def counted(
    conversations: Conversations, held: set[int], sizes: dict[object, Sizes]
) -> Iterator[tuple[str, list[dict]]]:
    """What goes into the file of annotations, counted on its way: by number of the part, by split, and in all."""
    for key, group in conversations.items(held):
        for part, conversation in group:
            for of in (part, conversation["split"], None):
                sizes.setdefault(of, Sizes()).add(key, conversation)
        yield key, [conversation for _, conversation in group]


def size_table(parts: list[Part], sizes: dict[object, Sizes]) -> str:
    """Records, images, conversations, turns and skipped records of each source, of all, and of both splits."""
    rows = [("", "records", "images", "conversations", "turns", "skipped")]
    labels = {number: (part.source.name, len(part.records)) for number, part in enumerate(parts)}
    labels[None] = ("all", sum(len(part.records) for part in parts))
    for of, (name, records) in labels.items():
        size = sizes.get(of, Sizes())
        rows.append((name, f"{records:,}", *size.cells(), f"{records - size.conversations:,}"))
    for split, name in (("train", "  train"), ("held_out", "  held out")):
        rows.append((name, "", *sizes.get(split, Sizes()).cells(), ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *numbers in rows:
        cells = [name.ljust(widths[0]), *(number.rjust(w) for number, w in zip(numbers, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------- several machines


def shard_file(data: Data, number: int, count: int) -> Path:
    return data.image_map.with_name(f"{data.image_map.stem}.shard-{number}-of-{count}.json")


def check_shard(data: Data, number: int, count: int) -> None:
    """Check every ``count``-th image, which is nearly all of the work, and write down what cannot be used.

    Raises:
        UserError: the list cannot be written.
    """
    files = files_of(find_images(data))
    own = files[number - 1 :: count]
    unusable = check_images(own, max_pixels=data.max_pixels, workers=data.workers, progress=data.progress)
    file = shard_file(data, number, count)
    write_results({file: {"files": _fingerprint(files, data.max_pixels), "unusable": unusable}})
    print(f"shard {number} of {count}: {len(own):,} of {len(files):,} images checked, {len(unusable):,} cannot be used")
    print(f"wrote {file}; when all {count} are there: python process_image.py --merge {count}")


def read_shards(data: Data, files: list[str], count: int) -> dict[str, str]:
    """What the shards found, in the order of ``files``.

    Raises:
        UserError: one is missing, damaged, or of other data.
    """
    found: dict[str, str] = {}
    for number in range(1, count + 1):
        file, again = shard_file(data, number, count), f"run process_image.py --shard {number}/{count}"
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            same, unusable = content["files"] == _fingerprint(files, data.max_pixels), dict(content["unusable"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"{file}: cannot be read ({error}); {again}") from None
        if not same:
            raise UserError(f"{file}: made from other annotations, images or data.max_pixels; {again} again")
        found |= unusable
    return {path: found[path] for path in files if path in found}


def _fingerprint(files: list[str], max_pixels: int) -> str:
    digest = hashlib.sha256(f"{max_pixels}\n".encode())
    for file in files:
        digest.update(f"{file}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def run(config: Config, shards: int = 0) -> None:
    """Read, check (or take what ``shards`` machines found), process, split, write, and print the sizes.

    Raises:
        UserError: nothing was written.
    """
    data = config.data
    require_paths(config, "data.sources", "data.held_out")
    parts = find_images(data)
    files = files_of(parts)
    options = {"max_pixels": data.max_pixels, "workers": data.workers, "progress": data.progress}
    drop_unusable(parts, read_shards(data, files, shards) if shards else check_images(files, **options))
    check_share(parts, data.max_skipped)
    image_map, conversations = merge(parts, data)
    if isinstance(data.held_out, Path):
        chosen = by_list(data.held_out, parts, image_map)
    else:
        chosen = by_share(data.held_out, data.seed)
    held = hold_out(image_map, conversations.links, chosen)
    sizes: dict[object, Sizes] = {}
    annotations = counted(conversations, held, sizes)
    write_results(
        {data.image_map: iter(image_map.items()), data.skipped: skip_list(parts), data.annotations: annotations}
    )
    for number in range(1, shards + 1):
        shard_file(data, number, shards).unlink(missing_ok=True)
    print(size_table(parts, sizes))
    print(f"wrote {data.image_map} and {data.annotations}")
    bad_images, bad_records = sum(len(p.bad_images) for p in parts), sum(len(p.rejected) for p in parts)
    print(f"cannot be used: {bad_images:,} images, {bad_records:,} records; reasons in {data.skipped}")


_EXAMPLE = """\
example of a config's data section, with one source of each format:

  data:
    sources:
      - {name: captions, format: ali, annotations: captions.json, images: photos}
      - {name: chats, format: coco, annotations: [a.json, b.json], images: [train2017, val2017]}
    image_map: data/image_map.json
    annotations: data/annotations.json
    skipped: data/skipped.json

a record of captions.json (AI Challenger):

  {"image_id": "8f00.jpg", "caption": ["两个人在路上交谈", "..."]}

a record of a.json (LLaVA); <image> may stand anywhere in a question, a record without "image" is text only:

  {"image": "000000458752.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat is he doing?"},
                                                  {"from": "gpt", "value": "Pitching."}]}

then:

  python process_image.py --config config.yaml
  python process_image.py --config config.yaml data.held_out=0.1 data.progress=false

checking the images on three machines that see the same files, then everything else on one:

  python process_image.py --shard 1/3           # and 2/3, 3/3 on the others
  python process_image.py --merge 3             # the same bytes as without shards
"""


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", text)
    if not match or int(match[1]) > int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r}: expected I/N, such as 2/8, the second of eight parts")
    return int(match[1]), int(match[2])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Check every image and turn raw annotations into the files that training reads.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument("--shard", metavar="I/N", type=_shard, help="only check the I-th of N parts of the images")
    parts.add_argument("--merge", metavar="N", type=int, default=0, help="go on from what N shards have found")
    add_config_arguments(parser)
    args = parser.parse_intermixed_args(argv)
    try:
        config = load_config(args.config, args.overrides)
        if args.shard:
            require_paths(config, "data.sources")
            check_shard(config.data, *args.shard)
        else:
            run(config, args.merge)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
