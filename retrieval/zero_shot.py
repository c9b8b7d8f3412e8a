"""Zero-shot classification: each label is the mean of its vectors in several sentences (2103.00020, section 3.1.4)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from common.errors import UserError
from retrieval.encoder import Encoder

TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "a close-up photo of a {}.", "a drawing of a {}.", "{}")
CHINESE_TEMPLATES = ("一张{}的照片。", "一幅{}的图片。", "一张{}的特写。", "一幅画着{}的画。", "{}")


def is_chinese(text: str) -> bool:
    return re.search(r"[\u3400-\u9fff]", text) is not None


def label_vectors(encoder: Encoder, labels: Sequence[str], templates: Sequence[str] = ()) -> np.ndarray:
    """One vector [labels, D] of length 1 for each label; templates are chosen by the label's language unless given.

    Raises:
        UserError: a template has no {}.
    """
    for template in templates:
        if "{}" not in template:
            raise UserError(f"--template {template}: it has no {{}} for the label")
    vectors = []
    for label in labels:
        chosen = templates or (CHINESE_TEMPLATES if is_chinese(label) else TEMPLATES)
        mean = encoder.texts([template.replace("{}", label) for template in chosen]).mean(0)  # [D]
        vectors.append(mean / np.linalg.norm(mean))
    return np.stack(vectors)


def unknown_labels(encoder: Encoder, labels: Sequence[str]) -> list[str]:
    """Labels with a part that the tokenizer does not know."""
    tokenizer = encoder.towers.tokenizer
    unknown = tokenizer.unk_token_id
    return [
        label
        for label in labels
        if unknown is not None and unknown in tokenizer(label, add_special_tokens=False)["input_ids"]
    ]


def probabilities(encoder: Encoder, cosines: np.ndarray) -> np.ndarray:
    """Cosines [n, labels] as probabilities, as the towers were trained: the sigmoid loss judges each label alone."""
    logits = encoder.logits(cosines).astype(np.float64)
    if encoder.loss == "sigmoid":
        return 1 / (1 + np.exp(-logits))
    logits = np.exp(logits - logits.max(-1, keepdims=True))
    return logits / logits.sum(-1, keepdims=True)
