"""Pretrain the demo's two backbones. They are in the repository, so a user trains only the projector and LoRA.

    python -m demo.pretrain tokenizer
    python -m demo.pretrain vision      # pictures with captions
    python -m demo.pretrain language    # text alone: captions, then questions about them

writes ``demo/backbones/siglip`` and ``demo/backbones/qwen`` in the formats of the real models. No scene of fold 0 (the
demo's test pictures) is drawn here. The accuracies that are printed during training are on fold 1.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

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

from dataset.collate import collate
from dataset.prompt import IGNORE_INDEX, Turn, build_prompt, encode_text
from dataset.trees import Row, grow_tree, root_length
from demo import scenes
from qwen.tokenizer import Tokenizer
from qwen.tree_mask import tree_mask

BACKBONES = Path(__file__).parent / "backbones"
LANGUAGES = ("en", "zh")
SYSTEM = "You are a helpful assistant."
MOST_SEEN = 3  # objects in a picture for the encoder; one more than the demo asks about
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


def _tokenizer_corpus() -> Iterator[str]:
    """Texts of the demo, with Chinese as single words: a run of Chinese is one pre-token, so that whole sentences would
    become single tokens."""
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

PRACTICE = (*scenes.KINDS, "yes/no")  # twice, because it is learnt last: it compares, the others look something up
# (share of the steps at which the phase ends, languages, ChatML). With both languages from the start, no word of the
# answer came from the caption after 500 steps. In English alone, four of five did after 250.
PHASES = ((0.3, ("en",), False), (0.5, ("en", "zh"), False), (1.0, ("en", "zh"), True))


def reading_tree(
    tokenizer: Tokenizer,
    rng: random.Random,
    languages: Sequence[str],
    chat: bool,
    questions: int,
    folds: Sequence[int],
) -> dict[str, Any]:
    """A caption and questions about it as one message tree, in ChatML or as plain lines. The caption is the root.

    In ChatML, some questions ask for the caption itself, and some follow another question and its answer. Plain lines
    have neither: the 30 tokens of a caption would be a fourth of the loss at 2 % of the questions, and after 250 steps
    one colour in five was right instead of three in four.
    """
    # With one object there is nothing to look up, because every word of the caption belongs to it.
    scene = scenes.draw_scene(rng, folds=folds, fewest=1 if rng.random() < 0.15 else 2)
    shown = scenes.caption(scene, rng.choice(languages), style=int(rng.random() < 0.3))
    language = rng.choice(languages)
    rows: list[Row] = []
    for _ in range(questions):
        turns = [_turn(scene, language, rng, chat) for _ in range(1 + (chat and rng.random() < 0.1))]
        turns[0].question = f"{shown}\n{turns[0].question}"
        rows.append(build_prompt(tokenizer, turns, system=SYSTEM) if chat else bare_lines(tokenizer, turns))
    tree = grow_tree(rows, root_length(rows, image_token_id=-1, image_context_length=0))
    return {**tree, "pixel_values": [], "images": [], "visual_tokens": 0, "id": "", "skipped": []}


def bare_lines(tokenizer: Tokenizer, turns: list[Turn]) -> Row:
    """``input_ids`` and ``labels`` of "question answer" lines of about 8 tokens each; ChatML takes 17."""
    input_ids: list[int] = []
    labels: list[int] = []
    for turn in turns:
        *lines, question = turn.question.split("\n")
        asked = [token for line in lines for token in encode_text(tokenizer, line + "\n")]
        asked += encode_text(tokenizer, question + " ")
        answer = [*encode_text(tokenizer, turn.answer or ""), tokenizer.eos_token_id]
        input_ids += asked + answer
        labels += [IGNORE_INDEX] * len(asked) + answer
    return input_ids, labels


def _turn(scene: scenes.Scene, language: str, rng: random.Random, describe: bool) -> Turn:
    if describe and rng.random() < 0.02:
        return Turn(rng.choice(scenes.DESCRIBE[language]), scenes.caption(scene, language))
    qa = scenes.ask(scene, language, rng, PRACTICE)
    return Turn(qa.question, qa.answer)


def answer_logits(
    model: Qwen2ForCausalLM, trunk: Callable[..., Any], tokenizer: Tokenizer, rng: random.Random, size: int, **options
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [L, V] at the positions that an answer's token follows, and those tokens [L], of ``size`` new trees.

    ``trunk`` is ``model.model`` or its compiled form; ``options`` are those of :func:`reading_tree`.
    """
    trees = [reading_tree(tokenizer, rng, **options) for _ in range(size)]
    batch = collate(trees, tokenizer.pad_token_id)
    segments = batch.get("segments", batch["attention_mask"])
    inputs = {"input_ids": batch["input_ids"], "attention_mask": tree_mask(segments)}
    if "position_ids" in batch:
        inputs["position_ids"] = batch["position_ids"]
    hidden = trunk(use_cache=False, **inputs).last_hidden_state  # [B, T, D]
    targets = batch["labels"][:, 1:]  # [B, T-1]
    kept = targets != IGNORE_INDEX
    return model.lm_head(hidden[:, :-1][kept]), targets[kept]


@torch.no_grad()
def reading_accuracy(
    model: Qwen2ForCausalLM, tokenizer: Tokenizer, languages: Sequence[str], chat: bool, count: int = 1000
) -> float:
    """The share of questions about captions of fold 1 that are answered exactly, each asked alone."""
    rng, end, right = random.Random(1), tokenizer.eos_token_id, 0
    options = {"languages": languages, "chat": chat, "questions": 1, "folds": (scenes.VALIDATION_FOLD,)}
    for _ in range(count // 100):
        logits, targets = answer_logits(model, model.model, tokenizer, rng, 100, **options)
        wrong = (logits.argmax(-1) != targets).long()
        answers = (targets == end).long().cumsum(0) - (targets == end).long()  # which answer each token belongs to
        right += int((torch.zeros(int(answers.max()) + 1, dtype=torch.long).index_add(0, answers, wrong) == 0).sum())
        count += int(answers.max()) + 1 - 100  # a conversation of two questions counts as two
    return right / count


def train_language(steps: int, batch: int = 8) -> None:
    """Teach a Qwen2 of 1.1 M parameters to answer questions about a caption, in two languages, from text alone.

    First come plain English lines, in which the word asked about is next to the answer; then Chinese; then ChatML.
    """
    tokenizer = AutoTokenizer.from_pretrained(BACKBONES / "qwen")
    torch.manual_seed(0)
    rng = random.Random(0)
    model = Qwen2ForCausalLM(_language_config(tokenizer))
    start_as_recall(model)
    print(f"language: {model.num_parameters():,} parameters, {steps} steps")
    trunk = torch.compile(model.model, dynamic=True)  # 1.8 times as fast on one CPU core
    optimizers, schedules = _optimizer(model, steps)
    start, accuracy, phases = time.time(), 0.0, list(PHASES)
    for step in range(1, steps + 1):
        while step > phases[0][0] * steps:
            phases.pop(0)
            if not phases[0][2]:
                tie_languages(model.get_input_embeddings().weight.data, tokenizer)
        _, languages, chat = phases[0]
        options = {
            "languages": languages,
            "chat": chat,
            "questions": 6 if chat else 12,
            "folds": range(2, scenes.FOLDS),
        }
        logits, targets = answer_logits(model, trunk, tokenizer, rng, batch, **options)
        loss = F.cross_entropy(logits, targets)
        _step(loss, model, optimizers, schedules)
        accuracy = 0.95 * accuracy + 0.05 * (logits.argmax(-1) == targets).float().mean().item()
        if step % 50 == 0:
            seconds = time.time() - start
            print(f"{step:6d}  loss {loss.item():.4f}  tokens right {accuracy:.3f}  {seconds:6.0f} s", flush=True)
        if step % 250 == 0 or step == steps:
            print(f"{step:6d}  reads {reading_accuracy(model, tokenizer, languages, chat):.3f} on fold 1", flush=True)
            model.save_pretrained(BACKBONES / "qwen")


def tie_languages(table: torch.Tensor, tokenizer: Tokenizer) -> None:
    """Start each Chinese word as its English one plus one vector that is the same for all; ``table`` is [V, D].

    Both languages then use the same circuits, and one direction says which language to answer in. Starting from
    unrelated vectors, in a model that knew English, Chinese was at 78 % after 1,500 steps, and English fell.
    """
    chinese = 0.5 * table.std() * torch.randn(table.shape[1])
    for words in (scenes.SHAPES, scenes.COLORS, scenes.PLACES, {"large": "大的", "small": "小的"}, scenes.SIZES):
        for english, other in words.items():
            (new,) = tokenizer.encode(other)
            table[new] = table[tokenizer.encode(" " + english)].mean(0) + chinese


# "a large red circle at the top left": the place is 4 tokens after the shape and 6 after the size. With 1 to 4 only,
# places were a coin flip between two objects (53 %). One head each for 1 to 8 was slower.
OFFSETS = (1, 2, 3, 4, 5, 6, 1, 2)


@torch.no_grad()
def start_as_recall(model: Qwen2ForCausalLM) -> None:
    """Start the attention close to looking something up, which was never learnt from the usual start.

    "What color is the circle?" needs heads that copy a word to its neighbours, and then heads that find the position of
    the word asked about. From random weights, the model knew after 3,500 steps which colours exist, but not which
    object has which. So, following "Mimetic Initialization of Self-Attention Layers" (Trockman and Kolter, 2023,
    arXiv:2305.09828):

    - in layer 0, biases make each head attend OFFSETS tokens back whatever is there: the rotary embedding turns a query
      and a key that are ``offset`` apart into the same vector;
    - in layers 1 and 2, query and key matrices are equal, so that equal words find each other;
    - in these layers, output times value is half the identity on the 16 dimensions of each head.

    Everything stays trainable.
    """
    config = model.config
    width = config.hidden_size // config.num_attention_heads
    theta = config.rope_parameters["rope_theta"]
    angles = theta ** (-torch.arange(width // 2) * 2 / width)  # radians a token, [width / 2]
    for number, layer in enumerate(model.model.layers[:3]):
        attention = layer.self_attn
        basis = torch.linalg.qr(torch.randn(config.hidden_size, config.hidden_size))[0]
        attention.v_proj.weight.copy_(basis)
        attention.o_proj.weight.copy_(0.5 * basis.T)
        if number:
            basis = torch.linalg.qr(torch.randn(config.hidden_size, config.hidden_size))[0]
            attention.q_proj.weight.copy_(basis)
            attention.k_proj.weight.copy_(basis)
            continue
        attention.q_proj.weight.mul_(0.1)
        attention.k_proj.weight.mul_(0.1)
        for head in range(config.num_attention_heads):
            query = torch.zeros(width // 2)
            query[:4] = 2.4  # the four fastest angles: a score of 5.8 at the offset, 5.0 one token off
            turn = angles * OFFSETS[head % len(OFFSETS)]
            rows = slice(head * width, (head + 1) * width)
            attention.q_proj.bias[rows] = torch.cat([query, torch.zeros(width // 2)])
            attention.k_proj.bias[rows] = torch.cat([query * turn.cos(), query * turn.sin()])


def _language_config(tokenizer: Tokenizer) -> Qwen2Config:
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    return Qwen2Config(
        vocab_size=768,  # more rows than tokens, as in Qwen2.5: <|extra_0|> takes a spare one
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


class Muon(torch.optim.Optimizer):
    """Momentum with updates that Newton-Schulz steps orthogonalise (Keller Jordan's Muon), in fp32.

    torch.optim.Muon does it in bf16, which takes 2.8 s a step for this model on a CPU without bf16 units. Here all
    matrices of one shape are computed together in fp32, in 0.1 s.
    """

    def __init__(self, params: Iterable[torch.Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure: the loss is not needed again
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.Tensor]] = {}
            for parameter in group["params"]:
                by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                updates = torch.stack([self._momentum(p, group["momentum"]) for p in parameters])  # [n, rows, cols]
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, update in zip(parameters, _orthogonal(updates), strict=True):
                    parameter.add_(update, alpha=-group["lr"] * scale)

    def _momentum(self, parameter: torch.Tensor, momentum: float) -> torch.Tensor:
        gradient = parameter.grad
        assert gradient is not None  # every matrix of the model takes part in every step
        buffer = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
        buffer.lerp_(gradient, 1 - momentum)
        return gradient.lerp(buffer, momentum)  # Nesterov


def _orthogonal(x: torch.Tensor) -> torch.Tensor:
    """[n, rows, cols] with all singular values moved close to 1; the coefficients are Muon's."""
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x if wide else x.mT


def _optimizer(
    model: nn.Module, steps: int
) -> tuple[list[torch.optim.Optimizer], list[torch.optim.lr_scheduler.LRScheduler]]:
    """Muon for the matrices of the layers, AdamW for the rest; one cosine schedule for both."""
    inside = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    names = {id(p) for p in inside}
    rest = [p for p in model.parameters() if id(p) not in names]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(inside, lr=0.01),
        torch.optim.AdamW(rest, lr=1.5e-3, weight_decay=0.0, betas=(0.9, 0.98)),
    ]
    return optimizers, [torch.optim.lr_scheduler.LambdaLR(o, _cosine(steps, 50)) for o in optimizers]


def _cosine(steps: int, warm_up: int) -> Callable[[int], float]:
    return lambda step: min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))


def _step(
    loss: torch.Tensor,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    schedules: Sequence[torch.optim.lr_scheduler.LRScheduler],
) -> None:
    model.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer, schedule in zip(optimizers, schedules, strict=True):
        optimizer.step()
        schedule.step()


# ---------------------------------------------------------------------------------------------- vision


ATTRIBUTES = ("shape", "color", "size", "place")
WORDS = (*scenes.SHAPES, *scenes.COLORS, *scenes.SIZES, *scenes.PLACES)  # 17, which each patch has to name
PATCH = 14


class Captioner(nn.Module):
    """A SigLIP vision tower with two heads for its training: a decoder that captions, and a linear layer for patches.

    With the decoder alone, a linear probe of a patch in the middle of an object found the shape in 82 % of cases, and
    the colour had 13 % of the variance: a projector took 1,000 steps to find the colours. Neither head sees patch 0.
    The main model drops it, so the tower must not store anything there.
    """

    def __init__(self, tower: SiglipVisionModel, vocabulary: int, longest: int = 96) -> None:
        super().__init__()
        width = tower.config.hidden_size
        self.tower = tower
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(longest, width)
        # The words' table is also the output matrix. From torch's N(0, 1), the loss would start at 18.
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.02)
        layer = nn.TransformerDecoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.decoder = nn.TransformerDecoder(layer, 2, norm=nn.LayerNorm(width))
        self.words = nn.Linear(width, len(WORDS))

    def forward(self, pixel_values: torch.Tensor, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, 3, 112, 112] float, [B, T] int64 -> hidden states [B, T, D], logits of each patch's words [B, 63, 17]."""
        patches = self.tower(pixel_values=pixel_values).last_hidden_state[:, 1:]  # [B, 63, D]
        length = input_ids.shape[1]
        hidden = self.tokens(input_ids) + self.positions(torch.arange(length))
        causal = nn.Transformer.generate_square_subsequent_mask(length)
        return self.decoder(hidden, patches, tgt_mask=causal, tgt_is_causal=True), self.words(patches)


def words_of_patches(scene: scenes.Scene) -> torch.Tensor:
    """[64, 17] float: 1 for the four words of the object that covers, or almost covers, a patch's middle; else 0."""
    side = scenes.PICTURE_SIZE // PATCH
    middles = (torch.arange(side) + 0.5) * PATCH  # pixels
    words = torch.zeros(side, side, len(WORDS))
    for thing in scene:
        x, y = scenes.CENTERS[thing.place]
        distance = ((middles[:, None] - y) ** 2 + (middles[None, :] - x) ** 2).sqrt()  # [8, 8], row by column
        own = torch.zeros(len(WORDS))
        own[[WORDS.index(getattr(thing, attribute)) for attribute in ATTRIBUTES]] = 1
        words[distance < scenes.RADIUS[thing.size] + 2] = own  # 2 pixels more, as a small one may lie between middles
    return words.flatten(0, 1)


def picture_batch(
    tokenizer: Tokenizer, processor: SiglipImageProcessorPil, rng: random.Random, size: int, folds: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """New pictures: ``pixel_values`` [B, 3, 112, 112], ``input_ids`` and ``labels`` [B, T], words [B, 63, 17]."""
    start, end = (tokenizer.convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>"))
    drawn = [scenes.draw_scene(rng, MOST_SEEN, folds) for _ in range(size)]
    pictures = [scenes.render(scene, rng) for scene in drawn]
    pixel_values = processor(images=pictures, return_tensors="pt")["pixel_values"]
    rows = [[start, *encode_text(tokenizer, scenes.caption(s, rng.choice(LANGUAGES))), end] for s in drawn]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows])
    kept = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]).bool()
    words = torch.stack([words_of_patches(scene)[1:] for scene in drawn])
    return pixel_values, ids, ids.masked_fill(~kept, IGNORE_INDEX), words


def train_vision(steps: int, batch: int = 48) -> None:
    """Teach a SigLIP tower of 1.3 M parameters to see, by captioning (SigLIP 2 has this loss for the same reason)."""
    tokenizer = AutoTokenizer.from_pretrained(BACKBONES / "qwen")
    torch.manual_seed(0)
    rng = random.Random(0)
    tower = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=6,
            num_attention_heads=4,
            image_size=scenes.PICTURE_SIZE,
            patch_size=PATCH,
            vision_use_head=False,
        )
    )
    processor = SiglipImageProcessorPil(size={"height": scenes.PICTURE_SIZE, "width": scenes.PICTURE_SIZE})
    processor.save_pretrained(BACKBONES / "siglip")
    model = Captioner(tower, len(tokenizer))
    print(f"vision: {tower.num_parameters():,} parameters, {steps} steps")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _cosine(steps, 200))
    start = time.time()
    for step in range(1, steps + 1):
        batch_now = picture_batch(tokenizer, processor, rng, batch, range(2, scenes.FOLDS))
        caption, words, *_ = _vision_losses(model, *batch_now)
        _step(caption + words, model, [optimizer], [schedule])
        if step % 50 == 0:
            losses = f"captions {caption.item():.4f}  words {words.item():.4f}"
            print(f"{step:6d}  {losses}  {time.time() - start:6.0f} s", flush=True)
        if step % 500 == 0 or step == steps:
            with torch.no_grad():
                held = picture_batch(tokenizer, processor, random.Random(1), 256, (scenes.VALIDATION_FOLD,))
                loss, _, exact, named = (float(number) for number in _vision_losses(model, *held))
            print(
                f"{step:6d}  fold 1: caption loss {loss:.4f}, {exact:.3f} exact; patches right {named:.3f}",
                flush=True,
            )
            tower.save_pretrained(BACKBONES / "siglip")


def _vision_losses(
    model: Captioner, pixel_values: torch.Tensor, input_ids: torch.Tensor, labels: torch.Tensor, words: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The losses of captions and of patches' words, and the shares of captions and of patches that are right.

    The captions' loss is the cross entropy of the next token. The words' is SigLIP's sigmoid loss, summed over words
    and averaged over patches on objects, plus the same over all other patches.
    """
    hidden, said = model(pixel_values, input_ids[:, :-1])  # [B, T-1, D], [B, 63, 17]
    logits = hidden @ model.tokens.weight.T  # [B, T-1, V]
    targets = labels[:, 1:]
    right = (logits.argmax(-1) == targets) | (targets == IGNORE_INDEX)
    each = F.binary_cross_entropy_with_logits(said, words, reduction="none").sum(-1)  # [B, 63]
    on = words.any(-1)  # [B, 63]
    named = ((said > 0) == (words > 0)).all(-1)[on]
    caption = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    return caption, each[on].mean() + each[~on].mean(), right.all(1).float().mean(), named.float().mean()


def main() -> None:
    stages: dict[str, tuple[Callable[[int], None], int]] = {
        "tokenizer": (lambda steps: train_tokenizer(), 0),
        "vision": (train_vision, 1500),
        "language": (train_language, 4500),
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=stages)
    parser.add_argument("--steps", type=int, help="optimiser steps (default: vision 1500, language 4500)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    train, steps = stages[args.stage]
    train(args.steps or steps)


if __name__ == "__main__":
    main()
