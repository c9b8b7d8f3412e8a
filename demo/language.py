"""The demo's language model, pretrained on text alone: made-up words, captions, and questions about them."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from transformers import Qwen2Config, Qwen2ForCausalLM

from demo import BACKBONES, optimizing, scenes
from demo.imitation import imitate
from demo.lessons import KINDS, PHASES, Batch, Lessons, Progress, batch_of, caption_lesson
from demo.made_up import Level
from demo.recall import start_as_recall, tie_languages
from qwen.tokenizer import Tokenizer, load_tokenizer
from qwen.tree_mask import tree_mask

LOOK = 10  # steps after which the level may rise
MEMORY = 0.95  # of the shares of right answers, for each step


def answer_logits(model: Qwen2ForCausalLM, trunk: Callable[..., Any], batch: Batch) -> torch.Tensor:
    """Logits [L, V] of the answers' tokens. ``trunk`` is ``model.model`` or its compiled form."""
    embedded = model.get_input_embeddings()(batch.input_ids)  # [B, T, D]
    if batch.pictures is not None:
        tokens = imitate(batch.pictures, model.get_input_embeddings().weight.detach())  # [P, 63, D]
        tokens = tokens.flatten(0, 1).to(embedded.dtype)  # [K, D]
        embedded = embedded.flatten(0, 1).index_copy(0, batch.images, tokens).view_as(embedded)
    hidden = trunk(
        inputs_embeds=embedded,
        attention_mask=tree_mask(batch.segments),
        position_ids=batch.position_ids,
        use_cache=False,
    ).last_hidden_state  # [B, T, D]
    return model.lm_head(hidden.flatten(0, 1)[batch.before])


def answers_right(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """For each answer, whether all its tokens are the likeliest ones: bool [A]."""
    wrong = (logits.argmax(-1) != batch.targets).long()
    return torch.zeros_like(batch.kinds).index_add(0, batch.answers, wrong) == 0


@torch.no_grad()
def reading_accuracy(
    model: Qwen2ForCausalLM, tokenizer: Tokenizer, languages: Sequence[str], chat: bool, count: int = 1000
) -> float:
    """The share of questions about captions of fold 1 that are answered exactly, each asked alone."""
    rng, right = random.Random(1), []
    folds = (scenes.VALIDATION_FOLD,)
    for _ in range(count // 100):
        lessons = [caption_lesson(tokenizer, rng, languages, chat, 1, folds) for _ in range(100)]
        batch = batch_of(lessons, tokenizer).to(model.device)
        right.append(answers_right(answer_logits(model, model.model, batch), batch))
    return torch.cat(right).float().mean().item()  # a conversation of two questions counts as two


class Shares:
    """Moving averages of the shares of right answers of each kind, kept on the model's device."""

    def __init__(self, device: torch.device) -> None:
        self.right, self.seen = torch.zeros(2, len(KINDS), device=device)

    def add(self, right: torch.Tensor, kinds: torch.Tensor) -> None:
        """``right`` bool [A], ``kinds`` int64 [A]."""
        self.right.mul_(MEMORY).index_add_(0, kinds, right.float())
        self.seen.mul_(MEMORY).index_add_(0, kinds, torch.ones_like(right, dtype=torch.float))

    def read(self) -> dict[str, float]:
        shares = (self.right / self.seen.clamp(min=1e-9)).tolist()
        return {kind: share for kind, share, seen in zip(KINDS, shares, self.seen.tolist(), strict=True) if seen > 1}


def train_language(steps: int, device: str = "cpu", output: Path = BACKBONES, workers: int = 1) -> None:
    """Teach a Qwen2 of 1.7 M parameters to answer questions, in two languages, and write it to ``output``/qwen.

    It has texts and imitated pictures, which ``workers`` processes draw. First come made-up words, which teach it to
    find, compare and copy; then also captions in plain English lines, in which the word asked about is next to the
    answer; then Chinese; then ChatML.
    """
    tokenizer = load_tokenizer(str(BACKBONES / "qwen"))
    (output / "qwen").mkdir(parents=True, exist_ok=True)
    for file in (BACKBONES / "qwen").glob("tokenizer*"):  # as they are: the loaded one has <|extra_0|> as well
        if output != BACKBONES:
            shutil.copy(file, output / "qwen")
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(language_config(tokenizer))
    start_as_recall(model)
    model.to(device)
    print(f"language: {model.num_parameters():,} parameters, {steps} steps on {device}")
    trunk = torch.compile(model.model, dynamic=True) if device == "cpu" else model.model  # 1.8 times as fast on a core
    optimizers, schedules = optimizing.optimizer(model, steps)
    progress, level, phase = Progress(), Level(), 0
    batches = iter(loader(Lessons(tokenizer, progress), workers))
    start, shares = time.time(), Shares(model.device)
    for step in range(1, steps + 1):
        if step > PHASES[phase].end * steps:
            phase += 1
            if phase == 2:  # Chinese is new
                tie_languages(model.get_input_embeddings().weight.data, tokenizer)
            progress.set(phase, level)
        batch = next(batches).to(model.device)
        with torch.autocast(model.device.type, torch.bfloat16):
            logits = answer_logits(model, trunk, batch)
        optimizing.step(F.cross_entropy(logits.float(), batch.targets), model, optimizers, schedules)
        shares.add(answers_right(logits, batch), batch.kinds)
        if step % LOOK == 0:
            level.rise(right := shares.read())
            progress.set(phase, level)
            if step % 100 == 0:
                listed = "  ".join(f"{kind} {share:.3f}" for kind, share in right.items())
                print(f"{step:6d}  {listed}  {level}  {time.time() - start:6.0f} s", flush=True)
        if step % 1000 == 0 or step == steps:
            if languages := PHASES[phase].languages:
                accuracy = reading_accuracy(model, tokenizer, languages, PHASES[phase].chat)
                print(f"{step:6d}  reads {accuracy:.3f} on fold 1", flush=True)
            model.save_pretrained(output / "qwen")


def loader(lessons: Lessons, workers: int) -> DataLoader[Batch]:
    """Batches that ``workers`` processes draw, some 10 a second each. One worker is this process.

    They are spawned: a fork of a process with threads can wait for ever.
    """
    if workers == 1:
        return DataLoader(lessons, batch_size=None)
    return DataLoader(lessons, batch_size=None, num_workers=workers, multiprocessing_context="spawn")


def language_config(tokenizer: Tokenizer) -> Qwen2Config:
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    return Qwen2Config(
        vocab_size=-(-len(tokenizer) // 256) * 256,  # more rows than tokens, as in Qwen2.5
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=tokenizer.pad_token_id,
    )
