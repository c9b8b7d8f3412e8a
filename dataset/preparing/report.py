"""The limit of unusable images, the list of skipped images and records, and the table of sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from common.errors import UserError
from dataset.conversations import SPLITS
from dataset.preparing.process import TEXT_ONLY
from dataset.preparing.sources import Conversations, Part
from dataset.records import SURROGATE


def check_share(parts: list[Part], max_skipped: float) -> None:
    """Stop where too many images are unusable: most often the folder is wrong, not a thousand files.

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


def skip_list(parts: list[Part]) -> list[dict[str, str]]:
    """[{"file", "reason"}]: of each source first its images, then its records, which are counted from 0."""
    skipped = []
    for part in parts:
        entries = list(part.bad_images.values())
        for index, reason in part.rejected:
            file, number = part.records.origin(index)
            entries.append((file.as_posix(), f"record {number}: {reason}"))
        skipped += [{"file": SURROGATE.sub("\ufffd", f), "reason": SURROGATE.sub("\ufffd", r)} for f, r in entries]
    return skipped


@dataclass
class Sizes:
    """Of a source, of a split, or of everything."""

    images: set[int] = field(default_factory=set)
    conversations: int = 0
    turns: int = 0

    def add(self, key: str, conversation: dict[str, Any]) -> None:
        if key != TEXT_ONLY:
            self.images.update(conversation.get("images", [int(key)]))
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
