"""What cannot be used: how much of it is allowed, the most frequent reasons, and the list of all of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import NoReturn

from common.errors import UserError
from dataset.preparing.sources import Part
from dataset.records import SURROGATE

MOST = 3  # reasons that are printed


def check_images_share(parts: list[Part], max_skipped: float) -> None:
    """Stop where too many images are unusable: most often the folder is wrong, not a thousand files.

    Raises:
        UserError: how many, the most frequent reasons, an example of each.
    """
    bad, usable = (sum(map(len, images)) for images in ([p.bad_images for p in parts], [p.paths for p in parts]))
    if bad and bad / (bad + usable) > max_skipped:
        advice = "check the images folders of data.sources, or raise data.max_skipped"
        _refuse(bad, bad + usable, "images", max_skipped, image_reasons(parts), advice)


def check_records_share(parts: list[Part], max_skipped: float) -> None:
    """Stop where too many records cannot be used, or none can: most often they are of another format.

    Raises:
        UserError: as :func:`check_images_share`.
    """
    total, unused = sum(len(part.records) for part in parts), sum(part.unused for part in parts)
    if not total:
        raise UserError("data.sources: the annotations hold no record; nothing was written")
    if unused == total or unused / total > max_skipped:
        advice = "check format and annotations of data.sources, or raise data.max_skipped"
        _refuse(unused, total, "records", max_skipped, record_reasons(parts), advice)


def _refuse(bad: int, total: int, what: str, max_skipped: float, reasons: list[str], advice: str) -> NoReturn:
    allowed = f"data.max_skipped allows {max_skipped:.1%}" if bad / total > max_skipped else "nothing is left to write"
    found = f"{bad:,} of {total:,} {what} ({bad / total:.1%}) cannot be used, {allowed}"
    raise UserError(f"{found}: {'; '.join(reasons)}; nothing was written: {advice}")


def unusable_lines(parts: list[Part]) -> list[str]:
    """How many images and records cannot be used, and the most frequent reasons."""
    images, records = sum(len(part.bad_images) for part in parts), sum(part.unused for part in parts)
    lines = [f"cannot be used: {images:,} images, {records:,} records"]
    lines += [f"  images: {reason}" for reason in image_reasons(parts)]
    return lines + [f"  records: {reason}" for reason in record_reasons(parts)]


def image_reasons(parts: list[Part]) -> list[str]:
    """The most frequent reasons why images cannot be used, each with its number and an example."""
    return _most_frequent((reason, part, file) for part in parts for file, reason in part.bad_images.values())


def record_reasons(parts: list[Part]) -> list[str]:
    """The most frequent reasons why records cannot be used, each with its number and an example."""
    lines = _most_frequent((reason, part, index) for part in parts for index, reason in part.rejected)
    without_image = sum(part.unused - len(part.rejected) for part in parts)
    return [f"{without_image:,} x an image of the record cannot be used"] * bool(without_image) + lines


def _most_frequent(entries: Iterable[tuple[str, Part, int | str]]) -> list[str]:
    """Entries are (reason, source, record or image). Reasons that differ after a colon or in numbers count as one."""
    counts: Counter[str] = Counter()
    examples: dict[str, tuple[str, Part, int | str]] = {}
    for entry in entries:
        kind = re.sub(r"\d[\d,]*", "0", entry[0].partition(":")[0])
        counts[kind] += 1
        examples.setdefault(kind, entry)
    lines = []
    for kind, count in counts.most_common(MOST):
        reason, part, which = examples[kind]
        example = part.name_of(which) if isinstance(which, int) else f"{which} of source {part.source.name}"
        lines.append(SURROGATE.sub("\ufffd", f"{count:,} x {reason} ({example})"))
    return lines


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
