"""Pictures that cannot be read any more, that are too small, too large or too narrow, and conversations without any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from dataset.doctor.examined import Examined
from dataset.doctor.finding import NOTEWORTHY, Finding, share_of

SMALLEST = 32  # pixels of the shorter side: an icon or a site's placeholder, two patches of 14 or 16 pixels
# Pixels. A JPEG of 12 million takes 92 ms to decode, in every epoch, one of 640 x 480 4 ms; encoders see 384 x 384.
LARGEST = 8_000_000
NARROWEST = 8  # times as long as wide: squeezed into the encoder's square, 384 px become 48
MOST_TEXT_ONLY = 0.3  # of the conversations; LLaVA-1.5's mixture has 6 % (40 of 665 thousand)


def unreadable_pictures(data: Examined) -> Finding | None:
    unreadable = data.pictures.unreadable
    if not unreadable:
        return None
    return Finding(
        f"{share_of(len(unreadable), len(data.paths), 'pictures')} cannot be read",
        "put the files back where data.image_map says, or run process_image.py again",
        [f"{data.paths[image]}: {reason}" for image, reason in unreadable.items()],
    )


def tiny_pictures(data: Examined) -> Finding | None:
    return _of_size(
        data,
        lambda width, height: min(width, height) < SMALLEST,
        f"have a side of less than {SMALLEST} pixels",
        "look whether they are icons or a site's placeholders, and remove their records",
    )


def huge_pictures(data: Examined) -> Finding | None:
    return _of_size(
        data,
        lambda width, height: width * height > LARGEST,
        f"have more than {LARGEST:,} pixels, which take twenty times as long to read, in every epoch, as 640 x 480",
        "save them once at about 1,000 pixels a side, or set data.feature_cache",
    )


def narrow_pictures(data: Examined) -> Finding | None:
    return _of_size(
        data,
        lambda width, height: max(width, height) > NARROWEST * min(width, height),
        f"are more than {NARROWEST} times as long as wide, and SigLIP squeezes them into a square",
        "cut them into parts, each with the questions about it, or remove their records",
    )


def _of_size(data: Examined, wrong: Callable[[int, int], bool], problem: str, advice: str) -> Finding | None:
    """The pictures whose width and height are wrong, the most extreme ones as examples."""
    sizes = dict(zip(data.pictures.ids, data.pictures.sizes, strict=True))
    found = [image for image, size in sizes.items() if wrong(*size)]
    if len(found) < max(1, NOTEWORTHY * len(sizes)):
        return None
    examples = [f"{data.paths[image]}: {sizes[image][0]:,} x {sizes[image][1]:,}" for image in found]
    return Finding(f"{share_of(len(found), len(sizes), 'pictures')} {problem}", advice, examples)


def text_only(data: Examined) -> Finding | None:
    """Too many conversations without a picture, or a source that has no conversation with one."""
    total, without = Counter[str](), Counter[str]()
    for _, conversation in data.conversations:
        total[conversation["source"]] += 1
        without[conversation["source"]] += not conversation["images"]
    blind = [source for source in total if without[source] == total[source]]
    count = without.total()
    if not blind and count <= MOST_TEXT_ONLY * total.total():
        return None
    named = f"; source {', '.join(blind)} has no picture at all" if blind else ""
    return Finding(
        f"{share_of(count, total.total(), 'conversations')} have no picture{named}",
        "look whether the records name their pictures under a key that is not read; if not, train with fewer of them",
        [f"source {source}: {share_of(without[source], total[source], 'conversations')}" for source in total],
    )
