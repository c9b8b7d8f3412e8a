"""Questions and answers as message trees, for the language model's pretraining; no dataset and no files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from dataset.prompt import IGNORE_INDEX, Turn, build_prompt, encode_text
from dataset.trees import Row, grow_tree, root_length
from demo import SYSTEM
from qwen.tokenizer import IMAGE_TOKEN, Tokenizer, token_id

VISUAL_TOKENS = 63  # of a picture: 8 x 8 patches, less the first
FIRST = 0xE000  # of Unicode's private characters: chr(FIRST + id) stands for a token


def encode_words(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of a text, in which private characters stand for tokens. A space before one is dropped."""
    ids: list[int] = []
    for number, piece in enumerate(re.split(r" ?([\ue000-\uf8ff])", text)):
        ids += [ord(piece) - FIRST] if number % 2 else encode_text(tokenizer, piece)
    return ids


def bare_lines(tokenizer: Tokenizer, turns: Sequence[Turn]) -> Row:
    """``input_ids`` and ``labels`` of "question answer" lines of about 8 tokens each; ChatML takes 17."""
    input_ids: list[int] = []
    labels: list[int] = []
    for turn in turns:
        *lines, question = turn.question.split("\n")
        asked = [token for line in lines for token in encode_words(tokenizer, line + "\n")]
        asked += encode_words(tokenizer, question + " ")
        answer = [*encode_words(tokenizer, turn.answer or ""), tokenizer.eos_token_id]
        input_ids += asked + answer
        labels += [IGNORE_INDEX] * len(asked) + answer
    return input_ids, labels


def tree_of(tokenizer: Tokenizer, conversations: Sequence[Sequence[Turn]], chat: bool) -> dict[str, Any]:
    """A message tree of conversations, in ChatML or as plain lines; the root is what they share at the beginning.

    It is without pictures' files, as :func:`dataset.collate.collate` takes it. A question may have ``<|extra_0|>``.
    """
    image = token_id(tokenizer, IMAGE_TOKEN)
    rows: list[Row] = []
    for turns in conversations:
        if chat:
            rows.append(build_prompt(tokenizer, list(turns), system=SYSTEM, image_context_length=VISUAL_TOKENS))
        else:
            visual = chr(FIRST + image) * VISUAL_TOKENS
            turns = [Turn(turn.question.replace(IMAGE_TOKEN, visual), turn.answer) for turn in turns]
            rows.append(bare_lines(tokenizer, turns))
    tree = grow_tree(rows, root_length(rows, image, VISUAL_TOKENS))
    return {**tree, "pixel_values": [], "images": [], "visual_tokens": 0, "id": "", "skipped": []}
