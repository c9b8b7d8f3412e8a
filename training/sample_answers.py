"""What the model says while it trains: a few validation questions, asked at each evaluation.

A loss can fall while every answer is still the same. The questions are drawn once, so that the answers of different
steps can be compared. Asking draws no random number and changes no weight: a run is the same with and without it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from dataset.collate import Position
from dataset.conversations import Conversation
from dataset.converters.base import is_chinese
from dataset.image import ImageError, load_image, prepare_image
from dataset.image_caption_dataset import ImageCaptionDataset
from dataset.normalise import normalise
from dataset.prompt import (
    IMAGE_TOKEN,
    PromptError,
    Turn,
    decode_said,
    encode_text,
    fit_prompt,
    images_first,
    without_thoughts,
)
from model.adapters import base_of
from model.model import MMultiModal
from training.distributed import gather, rank, world_size

if TYPE_CHECKING:
    from training.loop import Loop

SHORT = 8  # tokens of an answer; another wording of a longer one is not wrong, so exact match does not score it
LONGEST = 32  # new tokens of an answer at most: this bounds the time of an evaluation
TRIED = 2000  # conversations in which short answers are looked for, each at 0.1 ms


@dataclass(frozen=True)
class SampleQuestion:
    """The first question of a validation conversation."""

    name: str  # of its conversation
    text: str  # without placeholders
    references: list[str]
    language: str
    scored: bool  # a reference is short
    prompt: list[int]
    pixel_values: torch.Tensor  # [n, 3, H, W] float32, n pictures


def draw_questions(dataset: ImageCaptionDataset, count: int) -> list[SampleQuestion]:
    """At most ``count`` questions: first those about a picture and with a short answer, each group in random order."""
    tried = min(TRIED, len(dataset.conversations))
    drawn = [
        dataset.conversations[i] for i in random.Random(dataset.seed).sample(range(len(dataset.conversations)), tried)
    ]
    drawn.sort(key=lambda named: (not named[1]["images"], not has_short_answer(dataset, named[1])))
    questions: list[SampleQuestion] = []
    for name, conversation in drawn:
        if len(questions) == count:
            break
        try:
            questions.append(first_question(dataset, name, conversation))
        except (PromptError, ImageError):
            continue  # training leaves it out too, and says so
    return questions


def has_short_answer(dataset: ImageCaptionDataset, conversation: Conversation) -> bool:
    return any(len(encode_text(dataset.tokenizer, text)) <= SHORT for text in conversation["turns"][0]["a"])


def first_question(dataset: ImageCaptionDataset, name: str, conversation: Conversation) -> SampleQuestion:
    """The question as training asks it.

    Raises:
        PromptError: it is too long.
        ImageError: a picture cannot be read.
    """
    turn = conversation["turns"][0]
    turns = [Turn(turn["q"])]
    prompt, _ = fit_prompt(
        dataset.tokenizer,
        images_first(turns) if dataset.images_first else turns,
        max_length=dataset.max_length - LONGEST,
        system=conversation.get("system") or dataset.system,
        image_context_length=dataset.image_context_length,
        thinking=dataset.thinking,
        picture_numbers=dataset.picture_numbers,
    )
    shown = conversation["images"][: turn["q"].count(IMAGE_TOKEN)]
    pictures = [load_image(dataset.paths[image], dataset.max_pixels) for image in shown]
    pixels = [prepare_image(picture, dataset.image_processor) for picture in pictures]
    return SampleQuestion(
        name=name,
        text=" ".join(turn["q"].replace(IMAGE_TOKEN, " ").split()),
        references=list(turn["a"]),
        language=conversation.get("language") or ("zh" if is_chinese(turn["q"]) else "en"),
        scored=has_short_answer(dataset, conversation),
        prompt=prompt,
        pixel_values=torch.stack(pixels) if pixels else torch.zeros(0),
    )


# ---------------------------------------------------------------------------------------------- asking


def ask_samples(loop: Loop) -> list[dict[str, Any]]:
    """Ask each process's share of ``train.eval_questions`` questions; the answers to all of them, in order.

    All processes must call it. FSDP's shards are gathered for a whole forward pass of training only, so a sharded model
    is not asked. An answer is a dict with "name", "question", "references", "answer" and "right", which is None where
    no reference is short.
    """
    if not loop.config.train.eval_questions or loop.sharded:
        return []
    if loop.sample_questions is None:
        loop.sample_questions = draw_questions(validation_data(loop), loop.config.train.eval_questions)
    numbers = range(rank(), len(loop.sample_questions), world_size())
    own = [loop.sample_questions[number] for number in numbers]
    size = loop.config.train.eval_batch_size
    with loop.accelerator.autocast(), plain_layers(loop.model, loop.config.train.torch_compile):
        texts = [
            text for i in range(0, len(own), size) for text in answer(loop.model, own[i : i + size], loop.tokenizer)
        ]
    entries = map(entry_of, own, texts)
    answered = list(zip(numbers, entries, strict=True))
    return [entry for _, entry in sorted(gather(answered), key=lambda numbered: numbered[0])]


def validation_data(loop: Loop) -> ImageCaptionDataset:
    """The validation split; of a stream the first window that holds something."""
    dataset = loop.feed.validation_dataset
    assert dataset is not None, "only where train.eval_strategy is not no"
    if isinstance(dataset, ImageCaptionDataset):
        return dataset
    return next(window.dataset for window in dataset.windows(Position(), None) if window.dataset.trees)


@contextmanager
def plain_layers(model: MMultiModal, compiled: bool) -> Iterator[None]:
    """SDPA, and no compiled layers: decoding would compile them again for shapes that training does not have."""
    language = base_of(model.language)
    attention = language.config._attn_implementation
    model.set_attention("sdpa")
    stance = torch.compiler.set_stance("force_eager") if compiled else None
    try:
        if stance is None:
            yield
        else:
            with stance:
                yield
    finally:
        model.set_attention(attention)


@torch.no_grad()
def answer(model: MMultiModal, questions: Sequence[SampleQuestion], tokenizer: Any) -> list[str]:
    """Greedy answers of at most ``LONGEST`` tokens to a batch of questions."""
    width = max(len(question.prompt) for question in questions)
    padding = [width - len(question.prompt) for question in questions]
    ids = [[tokenizer.pad_token_id] * pad + question.prompt for pad, question in zip(padding, questions, strict=True)]
    mask = [[0] * pad + [1] * (width - pad) for pad in padding]
    shown = [question.pixel_values for question in questions if len(question.pixel_values)]
    new = model.generate(
        input_ids=torch.tensor(ids, device=model.device),  # [B, T]
        attention_mask=torch.tensor(mask, device=model.device),  # [B, T]
        pixel_values=torch.cat(shown).to(model.device) if shown else None,  # [K, 3, H, W]
        images_per_row=torch.tensor([len(question.pixel_values) for question in questions]),  # [B]
        max_new_tokens=LONGEST,
        do_sample=False,
    )  # [B, new]
    return [without_thoughts(decode_said(tokenizer, ids.tolist())).strip() for ids in new]


def entry_of(question: SampleQuestion, text: str) -> dict[str, Any]:
    said = normalise(text, question.language)
    right = any(said == normalise(reference, question.language) for reference in question.references)
    return {
        "name": question.name,
        "question": question.text,
        "references": question.references,
        "answer": text,
        "right": right if question.scored else None,
    }


def accuracy(answers: Sequence[dict[str, Any]]) -> dict[str, float]:
    """``eval_accuracy``, the share of right answers; nothing where none can be scored."""
    scored = [entry["right"] for entry in answers if entry["right"] is not None]
    return {"eval_accuracy": sum(scored) / len(scored)} if scored else {}
