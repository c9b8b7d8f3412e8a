"""Message trees: all conversations about one image as one sequence, which holds what they share only once.

The shared beginning (system text, image, up to where they differ) is the root, segment 0; each conversation continues
it as a branch, segments 1, 2, ... A branch sees the root and itself, and its position ids follow the root's, so every
token is computed as in a separate row. With 728 visual tokens and 28 of text, five questions cost 868 tokens as a tree
and 3,780 as rows.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from dataset.prompt import IGNORE_INDEX

Row = tuple[list[int], list[int]]  # input_ids and labels of one conversation


def root_length(rows: Sequence[Row], image_token_id: int, image_context_length: int) -> int:
    """How many tokens the conversations share at their beginning without a supervised one among them.

    Two tokens of every row stay out of the root: its first supervised token, and the one before it, which predicts it.
    So every branch begins with an unsupervised token, the root's last token has nothing to predict, and an answer that
    two conversations share is supervised twice, as in separate rows. An image is never cut.
    """
    if len(rows) < 2:
        return 0
    first_label = min(next(i for i, label in enumerate(labels) if label != IGNORE_INDEX) for _, labels in rows)
    root = min(len(os.path.commonprefix([ids for ids, _ in rows])), first_label - 1)
    return root - rows[0][0][:root].count(image_token_id) % max(1, image_context_length)


def grow_tree(rows: Sequence[Row], root: int) -> dict[str, list[int]]:
    """``input_ids``, ``labels``, ``segments`` and ``position_ids`` of the tree, equally long lists.

    Raises:
        ValueError: a branch would begin with a supervised token, which the root cannot predict for several branches.
    """
    if not root:  # conversations that share nothing follow one another, each a branch without a root
        tree: dict[str, list[int]] = {"input_ids": [], "labels": [], "segments": [], "position_ids": []}
    else:
        shared = rows[0][0][:root]
        tree = {"input_ids": [*shared], "labels": [IGNORE_INDEX] * root, "segments": [0] * root}
        tree["position_ids"] = list(range(root))
    for number, (ids, labels) in enumerate(rows, start=1):
        if labels[root] != IGNORE_INDEX or any(label != IGNORE_INDEX for label in labels[:root]):
            raise ValueError(f"branch {number} of a message tree is supervised at its first token or in the root")
        tree["input_ids"] += ids[root:]
        tree["labels"] += labels[root:]
        tree["segments"] += [number] * (len(ids) - root)
        tree["position_ids"] += range(root, len(ids))
    return tree


def split_into_trees(lengths: Sequence[int], root: int, most: int) -> list[list[int]]:
    """Conversations 0, 1, ... put in order into trees of at most ``most`` tokens, the root of each tree included."""
    trees: list[list[int]] = []
    room = 0
    for number, length in enumerate(lengths):
        if not trees or length - root > room:
            trees.append([])
            room = most - root
        trees[-1].append(number)
        room -= length - root
    return trees
