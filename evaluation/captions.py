"""Captions: BLEU, ROUGE-L and CIDEr of a corpus, by the scorers of pycocoevalcap.

The scores depend on how a caption is cut into words: :data:`CAPTION_TOKENS` says how, and is written beside the scores.
"""

from __future__ import annotations

import importlib.metadata
import logging
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

CAPTION_TOKENS = {
    "en": "lower case; runs of letters and digits, apostrophes, hyphens and decimal points kept inside them",
    "zh": "NFKC, lower case, punctuation dropped, jieba's default mode",
}


def caption_packages(languages: Iterable[str] = ()) -> dict[str, str]:
    """Names and versions of the packages that scoring captions in these languages needs.

    Raises:
        ModuleNotFoundError: one of them is not installed.
    """
    _scorers()
    names = ["pycocoevalcap"]
    if "zh" in languages:
        _segmenter()
        names.append("jieba")
    return {name: importlib.metadata.version(name) for name in names}


def caption_tokens(text: str, language: str) -> list[str]:
    """The words of a caption, by the rules in :data:`CAPTION_TOKENS`."""
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    if language != "zh":
        return re.findall(r"[^\W_]+(?:['.-][^\W_]+)*", text)
    return [word for word in _segmenter()(text) if any(character.isalnum() for character in word)]


def caption_scores(
    predictions: Sequence[str], references: Sequence[Sequence[str]], language: str
) -> dict[str, float | None]:
    """BLEU-1 to 4, ROUGE-L and CIDEr of a corpus of captions in one language, and their number ``n``.

    CIDEr is between 0 and 10, all others are between 0 and 1. CIDEr of a single caption is None: it weights words by
    how rare they are in the other captions.
    """
    words = [caption_tokens(prediction, language) for prediction in predictions]
    return token_scores(words, [[caption_tokens(text, language) for text in texts] for texts in references])


def token_scores(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> dict[str, float | None]:
    """:func:`caption_scores` of captions that are already cut into words."""
    if not predictions or len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} captions with {len(references)} lists of references cannot be scored")
    bleu, rouge, cider = _scorers()
    written = {i: [" ".join(words)] for i, words in enumerate(predictions)}
    wanted = {i: [" ".join(words) for words in texts] for i, texts in enumerate(references)}
    scores: dict[str, float | None] = {"n": len(predictions)}
    for n, value in enumerate(bleu(4).compute_score(wanted, written, verbose=0)[0], start=1):
        scores[f"BLEU-{n}"] = float(value)
    scores["ROUGE-L"] = float(rouge().compute_score(wanted, written)[0])
    scores["CIDEr"] = float(cider().compute_score(wanted, written)[0]) if len(written) > 1 else None
    return scores


def _scorers() -> tuple[type, type, type]:
    """The classes of the three scorers that need neither Java nor a download."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    return Bleu, Rouge, Cider


@lru_cache(maxsize=1)
def _segmenter() -> Callable[[str], list[str]]:
    """jieba's function that cuts a Chinese text into words, with its own vocabulary and without its log lines."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes and pkg_resources in jieba's own source
        import jieba
    jieba.setLogLevel(logging.WARNING)
    return jieba.Tokenizer().lcut  # the shared one changes with words added elsewhere
