"""Pretrain the demo's two backbones, once, so that everybody else can train only projector and LoRA.

    python -m demo.pretrain tokenizer
    python -m demo.pretrain vision      # pictures with captions
    python -m demo.pretrain language    # text alone: captions, then questions about them

writes ``demo/backbones/siglip`` and ``demo/backbones/qwen`` in the formats of the real ones. No scene of fold 0 (the
demo's held-out pictures) is ever drawn here; the accuracies printed on the way are on fold 1.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import pre_tokenizers, trainers
from torch import nn
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from dataset.prompt import IGNORE_INDEX, Turn, build_prompt
from demo import scenes

BACKBONES = Path(__file__).parent / "backbones"
SYSTEM = "You are a helpful assistant."
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


# ---------------------------------------------------------------------------------------------- tokenizer


def train_tokenizer() -> None:
    """A byte-level BPE with Qwen2's normaliser and split pattern, in Qwen2's file format."""
    backend = Qwen2Tokenizer().backend_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, min_frequency=2, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(_tokenizer_corpus(), trainer)
    bpe = json.loads(backend.to_str())["model"]
    merges = [tuple(pair) for pair in bpe["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=bpe["vocab"], merges=merges, eos_token="<|im_end|>", model_max_length=2048)
    tokenizer.add_tokens(list(CONTROL_TOKENS), special_tokens=True)
    tokenizer.save_pretrained(BACKBONES / "qwen")
    print(f"tokenizer: {len(tokenizer)} tokens")


def _tokenizer_corpus():
    """Chinese as single words: a run of Chinese is one pre-token, so whole sentences would become single tokens."""
    rng = random.Random(0)
    words = "图中 有 没有 几个 一个 的 大的 小的 大 小 是 不是 还是 在 哪里 什么 颜色 形状 图形 吗 请描述 这张 图片 yes no large small"
    for _ in range(20):
        for table in (scenes.SHAPES, scenes.COLORS, scenes.PLACES):
            yield from [*table, *table.values()]
        yield from words.split()
        yield from "，。？！、：；"
    for _ in range(2000):
        scene = scenes.draw_scene(rng)
        yield scenes.caption(scene, "en", rng.randint(0, 1))
        yield scenes.ask(scene, "en", rng).question
    for _ in range(100):
        yield from (SYSTEM, "system\n", "user\n", "assistant\n", *scenes.DESCRIBE["en"])


# ---------------------------------------------------------------------------------------------- language


class CachedTokenizer:
    """The tokenizer with a memory: the little world has few distinct texts, and each is encoded many times."""

    def __init__(self, tokenizer) -> None:
        self.tokenizer = tokenizer
        self.encode = lru_cache(maxsize=100_000)(tokenizer.encode)

    def __getattr__(self, name: str):
        return getattr(self.tokenizer, name)

    def __len__(self) -> int:
        return len(self.tokenizer)


def reading_conversation(rng: random.Random, most: int, questions: int, folds) -> list[Turn]:
    """A caption in either language, then questions about it in either language; some ask for the caption itself."""
    scene = scenes.draw_scene(rng, most, folds)
    shown = scenes.caption(scene, rng.choice(("en", "zh")), style=int(rng.random() < 0.1))
    language = rng.choice(("en", "zh"))
    turns = []
    for _ in range(questions):
        if rng.random() < 0.08:
            turns.append(Turn(rng.choice(scenes.DESCRIBE[language]), scenes.caption(scene, language)))
        else:
            qa = scenes.ask(scene, language, rng)
            turns.append(Turn(qa.question, qa.answer))
    turns[0].question = f"{shown}\n{turns[0].question}"
    return turns


def plain_text(tokenizer, turns: list[Turn]) -> tuple[list[int], list[int]]:
    """Ids and labels of bare lines, "question answer", without ChatML: 8 tokens a question instead of 17."""
    input_ids, labels = [], []
    for turn in turns:
        question, answer = tokenizer.encode(turn.question + " "), tokenizer.encode(turn.answer)
        input_ids += [*question, *answer, *tokenizer.encode("\n")]
        labels += [*[IGNORE_INDEX] * len(question), *answer, IGNORE_INDEX]
    return input_ids, labels


def text_batch(tokenizer, rng, size: int, chat: bool, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """``input_ids`` and ``labels``, both [size, T] int64, padded on the right."""
    talks = [reading_conversation(rng, **options) for _ in range(size)]
    rows = [build_prompt(tokenizer, t, system=SYSTEM) if chat else plain_text(tokenizer, t) for t in talks]
    longest = max(len(ids) for ids, _ in rows)
    pad = tokenizer.pad_token_id
    input_ids = torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows])
    labels = torch.tensor([lab + [IGNORE_INDEX] * (longest - len(lab)) for _, lab in rows])
    return input_ids, labels


def labelled_logits(trunk, head, input_ids, labels) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [L, V] where a label follows, and those labels [L]. Right padding needs no mask under causal attention."""
    hidden = trunk(input_ids=input_ids, use_cache=False).last_hidden_state  # [B, T, D]
    targets = labels[:, 1:]  # [B, T-1]
    kept = targets != IGNORE_INDEX
    return head(hidden[:, :-1][kept]), targets[kept]


@torch.no_grad()
def reading_accuracy(model, tokenizer, rng, chat: bool, count: int = 1000) -> float:
    """Share of first questions on fold-1 captions of one to three objects answered exactly."""
    right = total = 0
    model.eval()
    while total < count:
        input_ids, labels = text_batch(tokenizer, rng, 100, chat, most=3, questions=1, folds=(scenes.VALIDATION_FOLD,))
        hidden = model.model(input_ids=input_ids, use_cache=False).last_hidden_state
        guess = model.lm_head(hidden[:, :-1]).argmax(-1)
        targets = labels[:, 1:]
        right += int(((guess == targets) | (targets == IGNORE_INDEX)).all(1).sum())
        total += len(labels)
    model.train()
    return right / total


def train_language(steps: int, batch: int, questions: int, lr: float) -> None:
    """Teach a Qwen2 of about 1.4 M parameters to read: loss on answers only, curriculum from one object to three."""
    tokenizer = CachedTokenizer(AutoTokenizer.from_pretrained(BACKBONES / "qwen"))
    torch.manual_seed(0)
    rng = random.Random(0)
    model = Qwen2ForCausalLM(_language_config(tokenizer))
    print(f"language: {model.num_parameters():,} parameters, {steps} steps")
    trunk = torch.compile(model.model, dynamic=True)  # 1.8 times as fast on one CPU core
    optimizer, schedule = _optimizer(model.parameters(), lr, steps)
    start = time.time()
    for step in range(1, steps + 1):
        most = 1 if step < 0.08 * steps else 2 if step < 0.25 * steps else 3
        chat = step > 0.75 * steps  # reading is learnt on plain lines at half the cost, then carried into ChatML
        options = {"most": most, "questions": questions, "folds": range(2, scenes.FOLDS)}
        input_ids, labels = text_batch(tokenizer, rng, batch, chat, **options)
        logits, targets = labelled_logits(trunk, model.lm_head, input_ids, labels)
        loss = F.cross_entropy(logits, targets)
        _step(loss, model, optimizer, schedule)
        if step % 100 == 0:
            print(f"{step:6d}  loss {loss.item():.4f}  {time.time() - start:6.0f} s", flush=True)
        if step % 1000 == 0 or step == steps:
            reads = reading_accuracy(model, tokenizer, random.Random(1), chat)
            print(f"{step:6d}  reads {reads:.3f} on fold 1", flush=True)
            model.save_pretrained(BACKBONES / "qwen")


def _language_config(tokenizer) -> Qwen2Config:
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    return Qwen2Config(
        vocab_size=768,  # more rows than tokens, as in Qwen2.5: <|extra_0|> takes a spare one
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=tokenizer.pad_token_id,
    )


def _optimizer(parameters, lr: float, steps: int):
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
    warmup = 200

    def scale(step: int) -> float:
        return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, scale)


def _step(loss, model, optimizer, schedule) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()


# ---------------------------------------------------------------------------------------------- vision


class Captioner(nn.Module):
    """A SigLIP vision tower and a throw-away decoder that must tell the picture from the patch tokens alone.

    The decoder never sees patch 0: the main model drops that token, so nothing may be kept in it.
    """

    def __init__(self, tower: SiglipVisionModel, vocabulary: int, longest: int = 96) -> None:
        super().__init__()
        width = tower.config.hidden_size
        self.tower = tower
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(longest, width)
        for table in (self.tokens, self.positions):  # tied to the output: torch's N(0, 1) would start at a loss of 18
            nn.init.normal_(table.weight, std=0.02)
        layer = nn.TransformerDecoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.decoder = nn.TransformerDecoder(layer, 2, norm=nn.LayerNorm(width))

    def forward(self, pixel_values: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
        """[B, 3, 112, 112] float, [B, T] int64 -> hidden states [B, T, D]."""
        patches = self.tower(pixel_values=pixel_values).last_hidden_state[:, 1:]  # [B, 63, D]
        length = input_ids.shape[1]
        hidden = self.tokens(input_ids) + self.positions(torch.arange(length))
        causal = nn.Transformer.generate_square_subsequent_mask(length)
        return self.decoder(hidden, patches, tgt_mask=causal, tgt_is_causal=True)


def picture_batch(tokenizer, processor, rng, size: int, folds):
    """``pixel_values`` [B, 3, 112, 112], ``input_ids`` [B, T] and ``labels`` [B, T] of freshly drawn pictures."""
    start, end = (tokenizer.convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>"))
    drawn = [scenes.draw_scene(rng, folds=folds) for _ in range(size)]
    pictures = [scenes.render(scene, rng) for scene in drawn]
    pixel_values = processor(images=pictures, return_tensors="pt")["pixel_values"]
    rows = [[start, *tokenizer.encode(scenes.caption(s, rng.choice(("en", "zh")))), end] for s in drawn]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows])
    kept = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]).bool()
    return pixel_values, ids, ids.masked_fill(~kept, IGNORE_INDEX)


def train_vision(steps: int, batch: int, lr: float) -> None:
    """Teach a SigLIP tower of about 1.2 M parameters to see, by captioning (SigLIP 2 adds this loss for the same end)."""
    tokenizer = CachedTokenizer(AutoTokenizer.from_pretrained(BACKBONES / "qwen"))
    torch.manual_seed(0)
    rng = random.Random(0)
    tower = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=6,
            num_attention_heads=4,
            image_size=scenes.PICTURE_SIZE,
            patch_size=14,
            vision_use_head=False,
        )
    )
    processor = SiglipImageProcessorPil(size={"height": scenes.PICTURE_SIZE, "width": scenes.PICTURE_SIZE})
    processor.save_pretrained(BACKBONES / "siglip")
    model = Captioner(tower, len(tokenizer))
    print(f"vision: {tower.num_parameters():,} parameters, {steps} steps")
    optimizer, schedule = _optimizer(model.parameters(), lr, steps)
    begin = time.time()
    for step in range(1, steps + 1):
        batch_now = picture_batch(tokenizer, processor, rng, batch, range(2, scenes.FOLDS))
        loss, _ = _caption_loss(model, *batch_now)
        _step(loss, model, optimizer, schedule)
        if step % 50 == 0:
            print(f"{step:6d}  loss {loss.item():.4f}  {time.time() - begin:6.0f} s", flush=True)
        if step % 500 == 0 or step == steps:
            with torch.no_grad():
                held = picture_batch(tokenizer, processor, random.Random(1), 256, (scenes.VALIDATION_FOLD,))
                loss, exact = _caption_loss(model, *held)
            print(f"{step:6d}  fold 1: loss {loss.item():.4f}, captions exact {exact:.3f}", flush=True)
            tower.save_pretrained(BACKBONES / "siglip")


def _caption_loss(model: Captioner, pixel_values, input_ids, labels) -> tuple[torch.Tensor, float]:
    """Mean cross entropy of the next caption token, and the share of captions with every token right."""
    hidden = model(pixel_values, input_ids[:, :-1])  # [B, T-1, D]
    logits = hidden @ model.tokens.weight.T  # [B, T-1, V]
    targets = labels[:, 1:]
    right = (logits.argmax(-1) == targets) | (targets == IGNORE_INDEX)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten()), right.all(1).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tokenizer", "vision", "language"))
    parser.add_argument("--steps", type=int, help="optimiser steps (default: 3000 for vision, 7000 for language)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.what == "tokenizer":
        train_tokenizer()
    elif args.what == "vision":
        train_vision(args.steps or 3000, batch=48, lr=1e-3)
    else:
        train_language(args.steps or 7000, batch=24, questions=10, lr=1.5e-3)


if __name__ == "__main__":
    main()
