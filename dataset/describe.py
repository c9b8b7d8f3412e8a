"""What a file of annotations would be read as, and the block of a config that reads it. Nothing is changed.

    python -m dataset.describe captions.csv --images photos
    python -m dataset.describe annotations.json --questions questions.json

This is about a file that you bring; :mod:`dataset.show` is about a sample that process_image.py has made.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from common.errors import UserError
from common.text import prepare_console
from dataset.converters import AUTO, FORMATS
from dataset.converters.base import ADDED, Example, is_chinese
from dataset.converters.choose import Choice, choose
from dataset.image import ImageError
from dataset.preparing.find import find_image, is_address
from dataset.preparing.turns import Talk, talk_of
from dataset.records import RecordError
from qwen.tokenizer import IMAGE_TOKEN
from settings import Source

SAMPLES = 3
WIDTH = 100  # characters of a question or an answer that are shown
_TRIED = 20  # names of pictures that are looked for in each folder to find out where the pictures are
_FOLDERS = 200  # beside and below the file that are tried


@dataclass
class Found:
    """What the records of a source are, counted while they pass."""

    records: int = 0
    fields: Counter[str] = field(default_factory=Counter)
    pictures: Counter[int] = field(default_factory=Counter)  # how many a record shows -> records
    names: dict[str, None] = field(default_factory=dict)  # of pictures, each once
    turns: int = 0
    references: int = 0
    chinese: int = 0
    types: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)  # problem -> where it is met first
    samples: list[tuple[Example, Talk]] = field(default_factory=list)

    def add(self, record: object, choice: Choice, where: str) -> None:
        """Count one record; ``where`` says which it is."""
        self.records += 1
        if isinstance(record, dict):
            filled = (key for key, value in record.items() if value not in (None, "", []))
            self.fields.update(key for key in filled if key not in ADDED)
        try:
            example = choice.form.example(record)
            talk = talk_of(example, len(example.images), where, keep_all_captions=True)
        except RecordError as error:
            self._problem(f"record left out: {error}", where)
            return
        for change in talk.changes:
            self._problem(change, where)
        self.pictures[len(example.images)] += 1
        self.names.update(dict.fromkeys(example.images))
        self.turns += len(talk.turns)
        self.references += sum(len(turn["a"]) for turn in talk.turns)
        self.chinese += any(is_chinese(text) for turn in talk.turns for text in (turn["q"], *turn["a"]))
        self.types.update([example.type] if example.type else [])
        self.splits.update([example.split] if example.split else [])
        if len(self.samples) < SAMPLES:
            self.samples.append((example, talk))

    def _problem(self, text: str, where: str) -> None:
        kind = re.sub(r"\d+", "N", text)  # one kind, whatever the row
        self.problems[kind] += 1
        self.first.setdefault(kind, f"{where}: {text}")


def describe(choice: Choice, found: Found, missing: list[str], folders: Sequence[Path]) -> str:
    """The report, without the block of the config."""
    kept = sum(found.pictures.values())
    with_pictures = kept - found.pictures[0]
    lines = [
        f"format    {choice.name}: {choice.form.title}" + (f", because {choice.sign}" if choice.sign else ""),
        f"records   {found.records:,}; {kept:,} can be used, {found.records - kept:,} cannot",
        f"fields    {_counts(found.fields, found.records) or 'none'}",
        f"pictures  {with_pictures:,} conversations have pictures, {found.pictures[0]:,} have none; "
        f"{len(found.names):,} different pictures, at most {max(found.pictures, default=0)} in one conversation",
        f"turns     {found.turns:,}, with {found.references:,} reference answers; Chinese in {found.chinese:,} records",
    ]
    if found.types:
        lines.append(f"types     {_counts(found.types)}")
    if found.splits:
        lines.append(f"splits    {_counts(found.splits)}")
    if choice.form.embedded:
        lines.append("folder    the pictures are inside; process_image.py writes them to the folder under images")
    elif found.names:
        there = ", ".join(folder.as_posix() for folder in folders) or "no folder"
        lines.append(f"folder    {len(found.names) - len(missing):,} of the pictures are in {there}")
    for number, (example, talk) in enumerate(found.samples, start=1):
        lines.append(f"\nsample {number}  {', '.join(example.images) or 'no picture'}")
        for turn in talk.turns[:3]:
            lines.append(f"  question  {_short(turn['q'].replace(IMAGE_TOKEN, '<image>'))}")
            lines.append(f"  answer    {_short(' | '.join(turn['a']))}")
    return "\n".join(lines + _problems(found, missing))


def _problems(found: Found, missing: list[str]) -> list[str]:
    lines = [f"  {count:,} x {found.first[kind]}" for kind, count in found.problems.most_common(10)]
    addresses = [name for name in missing if is_address(name)]
    files = len(missing) - len(addresses)
    if files:
        example = next(name for name in missing if not is_address(name))
        lines.append(f"  missing pictures: {files:,}, such as {example}; name their folder with --images")
    if addresses:
        lines.append(
            f"  {len(addresses):,} pictures are addresses, which are not read; write them with --addresses FILE"
        )
    if found.records == 0:
        lines.append("  the file has no records")
    return ["\nproblems", *lines] if lines else ["\nproblems  none"]


def _counts(counter: Counter[str], of: int | None = None) -> str:
    """The commonest entries; a count that is ``of`` everything is left out."""
    shown = [name if count == of else f"{name} ({count:,})" for name, count in counter.most_common(12)]
    return ", ".join(shown) + (f" and {len(counter) - 12} more" if len(counter) > 12 else "")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."


def guess_folders(files: Sequence[Path], names: Sequence[str]) -> list[Path]:
    """The folder beside or below the annotations that has most of the first pictures; none where no folder has any."""
    parent = files[0].parent
    tried = names[:_TRIED]
    best, most = None, 0
    for folder in (Path(folder) for folder, _, _ in islice(os.walk(parent), _FOLDERS)):
        there = len(tried) - len(missing_in(tried, [folder]))
        if there > most:
            best, most = folder, there
    return [best] if best else []


def missing_in(names: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The names that none of the folders has a file for."""
    missing = []
    for name in names:
        try:
            find_image(name, folders)
        except ImageError:
            missing.append(name)
    return missing


def config_block(source: Source, choice: Choice, folders: Sequence[Path]) -> str:
    """The ``sources:`` of a config that read these files."""
    content: dict[str, Any] = {"name": source.name, "format": choice.name, "annotations": _paths(source.annotations)}
    if source.questions:
        content["questions"] = _paths(source.questions)
    if source.columns:
        content["columns"] = dict(source.columns)
    if choice.form.box_order:
        content["boxes"] = "pixels"
    content["images"] = _paths(folders) if folders else "FOLDER"
    block = yaml.safe_dump({"data": {"sources": [content]}}, allow_unicode=True, sort_keys=False)
    note = "" if folders else "# FOLDER: the folder of the pictures\n"
    return f"{note}{block}".rstrip()


def _paths(paths: Sequence[Path]) -> str | list[str]:
    texts = [path.as_posix() for path in paths]
    return texts[0] if len(texts) == 1 else texts


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name or not value:
        raise argparse.ArgumentTypeError(f"{text!r}: expected OURS=THEIRS, such as question=Frage")
    return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dataset.describe",
        description="Show what a file of annotations would be read as: its format, fields, samples, counts and "
        "problems, and the block to paste into a config. Nothing is changed.",
        epilog="example: python -m dataset.describe table.csv --images photos --columns image=Datei question=Frage",
    )
    parser.add_argument("files", nargs="+", help="one file of annotations or several, or a folder of Parquet files")
    parser.add_argument("--format", default=AUTO, help=f"{AUTO} (the default), {', '.join(FORMATS)}")
    parser.add_argument("--questions", nargs="+", help="the files of questions, for vqa")
    parser.add_argument("--images", nargs="+", default=[], help="the folders of the pictures; left out: looked for")
    parser.add_argument("--columns", nargs="+", type=_pair, default=[], metavar="OURS=THEIRS", help="names of columns")
    parser.add_argument("--addresses", type=Path, metavar="FILE", help="write the http(s) addresses of pictures there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    prepare_console()
    args = _parser().parse_args(argv)
    try:
        source = Source(
            name=Path(args.files[0]).stem,
            format=args.format,
            annotations=args.files,
            questions=args.questions,
            columns=dict(args.columns),
            images=args.images or ["."],
        )
        choice = choose(source, "source")
        found = Found()
        for file in choice.files:
            for number, record in enumerate(choice.form.read(file._replace(pictures=None))):
                found.add(record, choice, f"{file.path.name}, record {number}")
        names = list(found.names)
        folders = source.images if args.images else guess_folders(source.annotations, names)
        if choice.form.embedded:
            folders = source.images if args.images else [Path("data/pictures") / source.name]
        missing = [] if choice.form.embedded else missing_in(names, folders)
        if args.addresses:
            addresses = [name for name in names if is_address(name)]
            args.addresses.write_text("".join(f"{name}\n" for name in addresses), encoding="utf-8")
    except (UserError, ValidationError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(describe(choice, found, missing, folders))
    print(f"\nto paste into a config\n\n{config_block(source, choice, folders)}")
    if args.addresses:
        print(f"\nwrote {len(addresses):,} addresses to {args.addresses}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
