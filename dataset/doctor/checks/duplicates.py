"""One picture under several names: within the data, and on both sides of a split."""

from __future__ import annotations

from collections import defaultdict

from dataset.doctor.examined import Examined
from dataset.doctor.finding import NOTEWORTHY, Finding, share_of

MOST_NEAR = 0.01  # share of nearly the same pictures that is no finding: any set of photos has series


def copied_pictures(data: Examined) -> Finding | None:
    """Files with the same content."""
    files: dict[bytes, list[int]] = defaultdict(list)
    for image, digest in zip(data.pictures.ids, data.pictures.digests, strict=True):
        files[digest].append(image)
    groups = [group for group in files.values() if len(group) > 1]
    copies = sum(len(group) - 1 for group in groups)
    if copies < max(1, NOTEWORTHY * len(data.paths)):
        return None
    return Finding(
        f"{share_of(copies, len(data.paths), 'pictures')} are copies of another file",
        "let all records of a picture name one file: its questions become one tree, and it cannot be in two splits",
        [_group(data, group) for group in sorted(groups, key=len, reverse=True)],
    )


def near_duplicates(data: Examined) -> Finding | None:
    """Files with other content that look the same: saved again, resized, a little lighter."""
    digests = dict(zip(data.pictures.ids, data.pictures.digests, strict=True))
    groups = [group for group in data.alike if len({digests[image] for image in group}) > 1]
    count = sum(len({digests[image] for image in group}) - 1 for group in groups)
    if count <= MOST_NEAR * len(data.paths):
        return None
    return Finding(
        f"{share_of(count, len(data.paths), 'pictures')} look the same as another (saved again, resized, a series)",
        "look at the examples; keep one of each group, or at least all of a group in one split",
        [_group(data, group) for group in sorted(groups, key=len, reverse=True)],
    )


def shared_between_splits(data: Examined) -> Finding | None:
    """Pictures outside of train that are, or look the same as, one of another split."""
    splits = data.splits
    outside = [image for image, names in splits.items() if names - {"train"}]
    groups = [*data.alike, *([image] for image, names in splits.items() if len(names) > 1)]
    examples, shared = [], set[int]()
    for group in groups:
        if len(set().union(*(splits.get(image, set()) for image in group))) > 1:
            shared.update(image for image in group if splits.get(image, set()) - {"train"})
            examples.append(_group(data, group))
    if len(shared) < max(1, NOTEWORTHY * len(outside)):
        return None
    return Finding(
        f"{share_of(len(shared), len(outside), 'pictures')} outside of train are, or look the same as, one of another "
        "split: a score on them is no score on new pictures",
        "keep all pictures of a group in one split (by lists of names), or remove all but one",
        examples,
    )


def _group(data: Examined, group: list[int]) -> str:
    named = [f"{data.paths[image]} ({', '.join(sorted(data.splits.get(image, {'unused'})))})" for image in group[:3]]
    more = f" and {len(group) - 3:,} more" if len(group) > 3 else ""
    return " = ".join(named) + more
