"""What process_image.py prints: the table of sizes, how many conversations show pictures, what was changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dataset.conversations import SPLITS, describe_pictures
from dataset.preparing.process import TEXT_ONLY
from dataset.preparing.sources import Conversations, Part
from dataset.preparing.split import HELD_BACK
from settings import Data

FEW_IMAGES = 5  # 10 % of 42 photos gave 1 for validation: images are drawn one by one, so a small share varies


@dataclass
class Sizes:
    """Of a source, of a split, or of everything."""

    images: set[int] = field(default_factory=set)
    conversations: int = 0
    with_images: int = 0  # conversations that show some
    turns: int = 0

    def add(self, key: str, conversation: dict[str, Any]) -> None:
        if key != TEXT_ONLY:
            self.images.update(conversation.get("images", [int(key)]))
            self.with_images += 1
        self.conversations += 1
        self.turns += len(conversation["turns"])

    def cells(self) -> tuple[str, str, str]:
        return f"{len(self.images):,}", f"{self.conversations:,}", f"{self.turns:,}"


SizesBy = dict[int | str | None, Sizes]  # by the number of the part, by split, and None for everything


def counted(
    conversations: Conversations, splits: Mapping[int, str], sizes: SizesBy
) -> Iterator[tuple[str, list[dict]]]:
    """What is written to the file of annotations, counted as it passes."""
    for key, group in conversations.items(splits):
        for part, conversation in group:
            for of in (part, conversation["split"], None):
                sizes.setdefault(of, Sizes()).add(key, conversation)
        yield key, [conversation for _, conversation in group]


def size_table(parts: list[Part], sizes: SizesBy) -> str:
    """Records, images, conversations, turns and skipped records of each source and in all; then of the splits."""
    rows: list[tuple[str, ...]] = [("", "records", "images", "conversations", "turns", "skipped")]
    labels: dict[int | None, tuple[str, int]] = {
        n: (part.source.name, len(part.records)) for n, part in enumerate(parts)
    }
    labels[None] = ("all", sum(len(part.records) for part in parts))
    for of, (name, records) in labels.items():
        size = sizes.get(of, Sizes())
        rows.append((name, f"{records:,}", *size.cells(), f"{records - size.conversations:,}"))
    for split in SPLITS:
        rows.append((f"  {split}", "", *sizes.get(split, Sizes()).cells(), ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *numbers in rows:
        cells = [name.ljust(widths[0]), *(number.rjust(w) for number, w in zip(numbers, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def picture_lines(parts: list[Part], sizes: SizesBy) -> list[str]:
    """How many conversations show pictures, and a loud line about each source that gives none or shows none."""
    counts: dict[str, tuple[int, int]] = {}
    for number, part in enumerate(parts):
        size, (shown, none) = sizes.get(number, Sizes()), counts.get(part.source.name, (0, 0))
        counts[part.source.name] = (shown + size.with_images, none + size.conversations - size.with_images)
    empty = [part for part in parts if not part.kept]
    lost = [
        f"WARNING: none of the {len(part.records):,} records of source {part.source.name} is used" for part in empty
    ]
    return [*describe_pictures(counts, [part.source for part in parts]), *lost]


def few_lines(data: Data, sizes: SizesBy) -> list[str]:
    """A line for each split that a share gave hardly any images."""
    total = len(sizes.get(None, Sizes()).images)
    lines = []
    for split in sorted(HELD_BACK, reverse=True):
        share, images = getattr(data, split), len(sizes.get(split, Sizes()).images)
        if isinstance(share, float) and share > 0 and images < FEW_IMAGES:
            lines.append(
                f"data.{split} = {share}: the split has {images} of {total} images, too few to say much; raise "
                "the share, or name a text file with names of images"
            )
    return lines


def change_lines(parts: list[Part]) -> list[str]:
    """What was joined, dropped or removed within records that were kept, each with its number and an example."""
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for part in parts:
        for change, (count, index) in part.changes.items():
            counts[change] += count
            first.setdefault(change, part.name_of(index))
    lines = [f"  {count:,} x {change} (first in {first[change]})" for change, count in counts.most_common()]
    return ["changed in records that are used:", *lines] if lines else []
