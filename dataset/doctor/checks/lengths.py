"""Conversations that are longer than ``language.max_length``: cut by whole turns, or left out of the training."""

from __future__ import annotations

import unicodedata
from typing import Any

from tqdm import tqdm

from common.errors import UserError
from dataset.conversations import Conversation
from dataset.doctor.examined import Examined
from dataset.doctor.finding import NOTEWORTHY, CannotCheck, Finding, share_of
from dataset.prompt import PromptError, Turn, build_prompt, fit_prompt
from qwen.tokenizer import IMAGE_TOKEN, load_tokenizer

_FRAME = 24  # tokens of ChatML around a turn and a system text, at most: 14 and 5; Qwen3's empty thoughts take 4 more


def too_long(data: Examined) -> Finding | None:
    """How many conversations do not fit, with their longest answers.

    A token of Qwen's is one byte of UTF-8 or more, so in ChatML a conversation of few bytes fits for certain. Only the
    others are tokenised, and the tokenizer, which takes seconds to load, is loaded for them alone. The template of a
    LLaVA may write more around each turn, so all of its conversations are tokenised.

    Raises:
        CannotCheck: the tokenizer cannot be loaded.
    """
    limit = data.config.language.max_length
    llava = data.config.model is not None
    doubtful = [named for named in data.conversations if llava or _most_tokens(data, named[1]) > limit]
    if not doubtful:
        return None
    try:
        tokenizer = load_tokenizer(data.config.language.path, data.config.data.has_boxes)
    except UserError as error:
        raise CannotCheck(str(error)) from None
    options: dict[str, Any] = {
        "image_context_length": data.config.vision.image_context_length,
        "thinking": data.config.language.thinking,
        "picture_numbers": data.config.language.picture_numbers,
    }
    cut: list[tuple[int, str]] = []
    left_out: list[tuple[int, str]] = []
    hidden = None if data.config.data.progress else True
    for name, conversation in tqdm(doubtful, desc="measuring conversations", leave=False, disable=hidden):
        turns = _longest_turns(conversation)
        options["system"] = _system(data, conversation)
        length = len(build_prompt(tokenizer, turns, **options)[0])
        if length > limit:
            try:
                fit_prompt(tokenizer, turns, max_length=limit, **options)
                cut.append((length, name))
            except PromptError:
                left_out.append((length, name))
    count = len(cut) + len(left_out)
    if count < max(1, NOTEWORTHY * len(data.conversations)):
        return None
    longest = max(cut + left_out)[0]
    total = len(data.conversations)
    return Finding(
        f"language.max_length = {limit}: {share_of(len(left_out), total, 'conversations')} are too long and left out, "
        f"{share_of(len(cut), total, 'conversations')} lose their oldest turns",
        f"raise language.max_length (the longest has {longest:,} tokens, {options['image_context_length']} of an image "
        "included), or shorten them",
        [f"conversation {name}: {length:,} tokens" for length, name in sorted(left_out + cut, reverse=True)],
    )


def _longest_turns(conversation: Conversation) -> list[Turn]:
    return [Turn(turn["q"], max(turn["a"], key=len)) for turn in conversation["turns"]]


def _system(data: Examined, conversation: Conversation) -> str:
    return conversation.get("system") or data.config.language.system


def _most_tokens(data: Examined, conversation: Conversation) -> int:
    """An upper bound of the conversation's tokens: its bytes, what is around each turn, and the visual tokens."""
    turns = _longest_turns(conversation)
    texts = [_system(data, conversation)]
    for turn in turns:
        texts += [turn.question.replace(IMAGE_TOKEN, ""), turn.answer or ""]
    written = sum(len(unicodedata.normalize("NFC", text).encode("utf-8", "replace")) for text in texts)
    visual = sum(turn.question.count(IMAGE_TOKEN) for turn in turns) * data.config.vision.image_context_length
    return written + _FRAME * (len(turns) + 1) + visual
