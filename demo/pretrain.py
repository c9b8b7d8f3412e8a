"""Pretrain the demo's two backbones, once, so that everybody else can train only projector and LoRA.

    python -m demo.pretrain tokenizer
    python -m demo.pretrain vision      # pictures with captions
    python -m demo.pretrain language    # text alone: English captions, then questions about them
    python -m demo.pretrain bilingual   # and in Chinese
    python -m demo.pretrain chat        # and in ChatML

writes ``demo/backbones/siglip`` and ``demo/backbones/qwen`` in the formats of the real ones. No scene of fold 0 (the
demo's held-out pictures) is ever drawn here; the accuracies printed on the way are on fold 1.
"""

from __future__ import annotations

import argparse
import json
import math
import os
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
MOST_SEEN = 3  # objects in the pictures that the encoder is shown; one more than the demo asks about
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
    words = "图中 有 没有 几个 一个 的 大的 小的 大 小 是 不是 还是 在 哪里 什么 颜色 形状 图形 吗"
    words += " 请描述 这张 图片 yes no large small"
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


# Yes/no has to compare, which is learnt long after looking up: it is practised most.
PRACTICE = (*scenes.KINDS, "color", "shape", "yes/no", "yes/no")


def reading_conversation(rng: random.Random, most: int, languages: tuple, questions: int, folds) -> list[Turn]:
    """A caption in one of the languages, then questions about it in one; a few ask for the caption itself."""
    scene = scenes.draw_scene(rng, most, folds)
    shown = scenes.caption(scene, rng.choice(languages), style=int(rng.random() < 0.1))
    language = rng.choice(languages)
    turns = []
    for _ in range(questions):
        if rng.random() < 0.02:  # each counts 30 tokens in the loss, an answer one or two
            turns.append(Turn(rng.choice(scenes.DESCRIBE[language]), scenes.caption(scene, language)))
        else:
            qa = scenes.ask(scene, language, rng, PRACTICE)
            turns.append(Turn(qa.question, qa.answer))
    turns[0].question = f"{shown}\n{turns[0].question}"
    return turns


def plain_text(tokenizer, turns: list[Turn]) -> tuple[list[int], list[int], list[int]]:
    """Ids, labels and segments of bare lines, "question answer", without ChatML: 8 tokens a question, not 17.

    The caption is segment 0 and each question one of its own, for :func:`branch_mask`.
    """
    caption, first = turns[0].question.split("\n")
    input_ids = [*tokenizer.encode(caption + "\n")]  # a copy: the tokenizer remembers its lists
    labels, segments = [IGNORE_INDEX] * len(input_ids), [0] * len(input_ids)
    for number, turn in enumerate(turns, start=1):
        question = tokenizer.encode((first if number == 1 else turn.question) + " ")
        answer = tokenizer.encode(turn.answer)
        input_ids += question + answer
        labels += [IGNORE_INDEX] * len(question) + answer
        segments += [number] * (len(question) + len(answer))
    return input_ids, labels, segments


def chat_text(tokenizer, turns: list[Turn]) -> tuple[list[int], list[int], list[int]]:
    """The same in ChatML: system text and caption are segment 0, and each question a branch with its own ending."""
    caption, first = turns[0].question.split("\n")
    questions = [first, *(turn.question for turn in turns[1:])]
    talks = [
        build_prompt(tokenizer, [Turn(f"{caption}\n{question}", turn.answer)], system=SYSTEM)
        for question, turn in zip(questions, turns, strict=True)
    ]
    bare, _ = build_prompt(tokenizer, [Turn(f"{caption}\n", "")], system=SYSTEM)
    root = len(os.path.commonprefix([bare, *(ids for ids, _ in talks)]))
    input_ids, labels, segments = [*talks[0][0][:root]], [IGNORE_INDEX] * root, [0] * root
    for number, (ids, kept) in enumerate(talks, start=1):
        input_ids += ids[root:]
        labels += kept[root:]
        segments += [number] * (len(ids) - root)
    return input_ids, labels, segments


def branch_mask(segments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Boolean mask [B, 1, T, T] and position ids [B, T] under which each question sees the caption and itself only.

    With all earlier questions and answers in sight every colour has been named already, and "is there a red one?" was
    still a guess after 2,000 steps. Positions restart behind the caption.
    """
    length = segments.shape[1]
    same = segments[:, :, None] == segments[:, None, :]  # [B, T, T]
    seen = torch.ones(length, length, dtype=torch.bool).tril() & (same | (segments == 0)[:, None, :])
    root = (segments == 0).sum(1, keepdim=True)  # [B, 1]
    before = (same & torch.ones(length, length, dtype=torch.bool).tril(-1)).sum(-1)  # [B, T], tokens of the own segment
    return seen[:, None], torch.where(segments == 0, before, root + before)


def text_batch(tokenizer, rng, size: int, chat: bool, **options) -> dict[str, torch.Tensor]:
    """``input_ids`` and ``labels`` [size, T] int64, padded on the right, with mask and positions of the branches."""
    write = chat_text if chat else plain_text
    rows = [write(tokenizer, reading_conversation(rng, **options)) for _ in range(size)]
    longest = max(len(row[0]) for row in rows)

    def padded(column: int, fill: int) -> torch.Tensor:
        return torch.tensor([row[column] + [fill] * (longest - len(row[column])) for row in rows])

    batch = {"input_ids": padded(0, tokenizer.pad_token_id), "labels": padded(1, IGNORE_INDEX)}
    batch["attention_mask"], batch["position_ids"] = branch_mask(padded(2, -1))
    return batch


def labelled_logits(trunk, head, labels: torch.Tensor, **inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [L, V] where a label follows, and those labels [L]. Right padding needs no mask under causal attention."""
    hidden = trunk(use_cache=False, **inputs).last_hidden_state  # [B, T, D]
    targets = labels[:, 1:]  # [B, T-1]
    kept = targets != IGNORE_INDEX
    return head(hidden[:, :-1][kept]), targets[kept]


@torch.no_grad()
def reading_accuracy(model, tokenizer, rng, chat: bool, count: int = 1000) -> float:
    """Share of first questions on fold-1 captions answered exactly."""
    right = total = 0
    options = {
        "most": scenes.MOST_OBJECTS,
        "languages": ("en", "zh"),
        "questions": 1,
        "folds": (scenes.VALIDATION_FOLD,),
    }
    model.eval()
    while total < count:
        batch = text_batch(tokenizer, rng, 100, chat, **options)
        labels = batch.pop("labels")
        hidden = model.model(use_cache=False, **batch).last_hidden_state
        guess = model.lm_head(hidden[:, :-1]).argmax(-1)
        targets = labels[:, 1:]
        right += int(((guess == targets) | (targets == IGNORE_INDEX)).all(1).sum())
        total += len(labels)
    model.train()
    return right / total


# (most objects, share of answer tokens right at which the next level begins). Every batch is fresh, so this is accuracy
# on unseen scenes. Thrown at several objects from the start, the model stays at 70 % for thousands of steps.
LEVELS = ((1, 0.97), (scenes.MOST_OBJECTS, 2.0))


def train_language(steps: int) -> None:
    """Teach a Qwen2 of 1.3 M parameters to read English, on plain lines: half the tokens that ChatML takes."""
    tokenizer = AutoTokenizer.from_pretrained(BACKBONES / "qwen")
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(_language_config(tokenizer))
    _read(model, tokenizer, steps, LEVELS, ("en",))


def train_bilingual(steps: int) -> None:
    """Chinese beside English, captions in one and questions in the other included.

    Each Chinese word starts mostly as its English one, so that it finds the circuits made for that: from random
    vectors it took 1,500 steps to reach 78 % and English fell to 86 %.
    """
    tokenizer = AutoTokenizer.from_pretrained(BACKBONES / "qwen")
    model = _saved_language()
    table = model.get_input_embeddings().weight.data  # [V, D]
    for words in (scenes.SHAPES, scenes.COLORS, scenes.PLACES, {"large": "大的", "small": "小的"}, scenes.SIZES):
        for english, chinese in words.items():
            known = tokenizer.encode(" " + english)
            (new,) = tokenizer.encode(chinese)
            table[new] = 0.7 * table[known].mean(0) + 0.3 * table[new]
    _read(model, tokenizer, steps, LEVELS[1:], ("en", "zh"), rate=0.5)


def train_chat(steps: int) -> None:
    """Carry what it can read into ChatML, the layout of every prompt from here on."""
    tokenizer = AutoTokenizer.from_pretrained(BACKBONES / "qwen")
    _read(_saved_language(), tokenizer, steps, LEVELS[1:], ("en", "zh"), chat=True, questions=6, rate=0.3)


def _saved_language() -> Qwen2ForCausalLM:
    return Qwen2ForCausalLM.from_pretrained(BACKBONES / "qwen", dtype=torch.float32)


def _read(model, tokenizer, steps: int, levels, languages, *, chat=False, questions=10, rate=1.0, batch=24) -> None:
    """The training loop of all stages; loss on answers only."""
    tokenizer = CachedTokenizer(tokenizer)
    rng = random.Random(len(languages) + 2 * chat)
    print(f"language: {model.num_parameters():,} parameters, {steps} steps")
    trunk = torch.compile(model.model, dynamic=True)  # 1.8 times as fast on one CPU core
    optimizers, schedules = _optimizer(model, rate, steps)
    level, accuracy = 0, 0.0
    start = time.time()
    for step in range(1, steps + 1):
        most, enough = levels[level]
        options = {"most": most, "languages": languages, "questions": questions, "folds": range(2, scenes.FOLDS)}
        logits, targets = labelled_logits(trunk, model.lm_head, **text_batch(tokenizer, rng, batch, chat, **options))
        loss = F.cross_entropy(logits, targets)
        _step(loss, model, optimizers, schedules)
        accuracy = 0.98 * accuracy + 0.02 * (logits.argmax(-1) == targets).float().mean().item()
        if step % 50 == 0:
            seconds = time.time() - start
            print(
                f"{step:6d}  level {level}  loss {loss.item():.4f}  right {accuracy:.3f}  {seconds:6.0f} s", flush=True
            )
        if accuracy > enough:
            level, accuracy = level + 1, 0.0
        if step % 250 == 0 or step == steps:
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
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},  # as Qwen2.5: slow angles leave room for content
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=tokenizer.pad_token_id,
    )


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised by Newton-Schulz steps (Keller Jordan's Muon), in fp32.

    torch.optim.Muon does the same in bf16, which on a CPU without bf16 units takes 2.8 s a step for this model; here
    matrices of one shape go together in fp32 and take 0.1 s.
    """

    def __init__(self, params, lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            by_shape: dict[torch.Size, list] = {}
            for parameter in group["params"]:
                by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                updates = torch.stack([self._momentum(p, group["momentum"]) for p in parameters])  # [n, rows, cols]
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, update in zip(parameters, _orthogonal(updates), strict=True):
                    parameter.add_(update, alpha=-group["lr"] * scale)

    def _momentum(self, parameter: torch.Tensor, momentum: float) -> torch.Tensor:
        buffer = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
        buffer.lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(buffer, momentum)  # Nesterov


def _orthogonal(x: torch.Tensor) -> torch.Tensor:
    """[n, rows, cols] with all singular values pulled to about 1; coefficients of the Muon reference."""
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x if wide else x.mT


def _optimizer(model: nn.Module, rate: float, steps: int):
    """Muon for the matrices of the layers, AdamW for the rest; one schedule for both, ``rate`` times the full rates."""
    inside = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    names = {id(p) for p in inside}
    rest = [p for p in model.parameters() if id(p) not in names]
    optimizers = [
        Muon(inside, lr=0.02 * rate),
        torch.optim.AdamW(rest, lr=3e-3 * rate, weight_decay=0.0, betas=(0.9, 0.98)),
    ]

    def scale(step: int) -> float:
        return min(1.0, (step + 1) / 100) * min(1.0, 2.0 * (1 - step / steps) + 0.01)

    return optimizers, [torch.optim.lr_scheduler.LambdaLR(o, scale) for o in optimizers]


def _step(loss, model, optimizers, schedules) -> None:
    model.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer, schedule in zip(optimizers, schedules, strict=True):
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
    drawn = [scenes.draw_scene(rng, MOST_SEEN, folds) for _ in range(size)]
    pictures = [scenes.render(scene, rng) for scene in drawn]
    pixel_values = processor(images=pictures, return_tensors="pt")["pixel_values"]
    rows = [[start, *tokenizer.encode(scenes.caption(s, rng.choice(("en", "zh")))), end] for s in drawn]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows])
    kept = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]).bool()
    return pixel_values, ids, ids.masked_fill(~kept, IGNORE_INDEX)


def train_vision(steps: int, batch: int = 48) -> None:
    """Teach a SigLIP tower of 1.3 M parameters to see, by captioning (SigLIP 2 adds this loss for the same end)."""
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
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, betas=(0.9, 0.98))

    def scale(step: int) -> float:
        return min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
    begin = time.time()
    for step in range(1, steps + 1):
        batch_now = picture_batch(tokenizer, processor, rng, batch, range(2, scenes.FOLDS))
        loss, _ = _caption_loss(model, *batch_now)
        _step(loss, model, [optimizer], [schedule])
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
    stages = {
        "tokenizer": (lambda steps: train_tokenizer(), 0),
        "vision": (train_vision, 3000),
        "language": (train_language, 3000),
        "bilingual": (train_bilingual, 1500),
        "chat": (train_chat, 500),
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=stages)
    parser.add_argument("--steps", type=int, help="optimiser steps (default: 3000, bilingual 1500, chat 500)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    train, steps = stages[args.stage]
    train(args.steps or steps)


if __name__ == "__main__":
    main()
