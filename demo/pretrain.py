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

from dataset.collate import collate
from dataset.prompt import IGNORE_INDEX, Turn, build_prompt, encode_text
from dataset.trees import grow_tree, root_length
from demo import scenes
from qwen.tree_mask import tree_mask

BACKBONES = Path(__file__).parent / "backbones"
LANGUAGES = ("en", "zh")
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

PRACTICE = (*scenes.KINDS, "yes/no")  # which compares instead of looking up, and comes last
# (share of the steps after which it ends, languages, ChatML). With both languages from the start, no word of the answer
# came from the caption after 500 steps; in English alone four of five do after 250.
PHASES = ((0.3, ("en",), False), (0.5, ("en", "zh"), False), (1.0, ("en", "zh"), True))


def reading_tree(tokenizer, rng: random.Random, languages, chat: bool, questions: int, folds) -> dict:
    """A caption and questions about it as one message tree, in ChatML or as bare lines: the caption is the root.

    In ChatML, some questions ask for the caption itself, and some follow another question with its answer. Not in
    bare lines: a caption's 30 tokens are a fourth of the loss at 2 % of the questions, and with them, after 250 steps,
    one colour in five was right where without them three in four were.
    """
    # With one object there is nothing to look up: every word of its caption belongs to it.
    scene = scenes.draw_scene(rng, folds=folds, fewest=1 if rng.random() < 0.15 else 2)
    shown = scenes.caption(scene, rng.choice(languages), style=int(rng.random() < 0.3))
    language = rng.choice(languages)
    rows = []
    for _ in range(questions):
        turns = [_turn(scene, language, rng, chat) for _ in range(1 + (chat and rng.random() < 0.1))]
        turns[0].question = f"{shown}\n{turns[0].question}"
        rows.append(build_prompt(tokenizer, turns, system=SYSTEM) if chat else bare_lines(tokenizer, turns))
    tree = grow_tree(rows, root_length(rows, image_token_id=-1, image_context_length=0))
    return {**tree, "pixel_values": [], "images": [], "visual_tokens": 0, "id": "", "skipped": []}


def bare_lines(tokenizer, turns: list[Turn]) -> tuple[list[int], list[int]]:
    """``input_ids`` and ``labels`` of "question answer" lines, 8 tokens each where ChatML takes 17."""
    input_ids, labels = [], []
    for turn in turns:
        *lines, question = turn.question.split("\n")
        asked = [token for line in lines for token in encode_text(tokenizer, line + "\n")]
        asked += encode_text(tokenizer, question + " ")
        answer = [*encode_text(tokenizer, turn.answer), tokenizer.eos_token_id]
        input_ids += asked + answer
        labels += [IGNORE_INDEX] * len(asked) + answer
    return input_ids, labels


def _turn(scene: scenes.Scene, language: str, rng: random.Random, describe: bool) -> Turn:
    if describe and rng.random() < 0.02:
        return Turn(rng.choice(scenes.DESCRIBE[language]), scenes.caption(scene, language))
    qa = scenes.ask(scene, language, rng, PRACTICE)
    return Turn(qa.question, qa.answer)


def answer_logits(model, trunk, tokenizer, rng, size: int, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [L, V] where an answer's token follows, and those tokens [L], for ``size`` fresh trees."""
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
def reading_accuracy(model, tokenizer, languages, chat: bool, count: int = 1000) -> float:
    """Share of questions on fold-1 captions answered exactly, each alone with its caption."""
    rng, end, right = random.Random(1), tokenizer.eos_token_id, 0
    options = {"languages": languages, "chat": chat, "questions": 1, "folds": (scenes.VALIDATION_FOLD,)}
    for _ in range(count // 100):
        logits, targets = answer_logits(model, model.model, tokenizer, rng, 100, **options)
        wrong = (logits.argmax(-1) != targets).long()
        answers = (targets == end).long().cumsum(0) - (targets == end).long()  # which answer each token belongs to
        right += int((torch.zeros(int(answers.max()) + 1, dtype=torch.long).index_add(0, answers, wrong) == 0).sum())
        count += int(answers.max()) + 1 - 100  # a question that follows another is one more
    return right / count


def train_language(steps: int, batch: int = 8) -> None:
    """Teach a Qwen2 of 1.1 M parameters to read: answer questions about a caption, in two languages, from text alone.

    Bare lines come first: there the asked word stands next to the answer. Then Chinese, then the same in ChatML.
    """
    tokenizer = AutoTokenizer.from_pretrained(BACKBONES / "qwen")
    torch.manual_seed(0)
    rng = random.Random(0)
    model = Qwen2ForCausalLM(_language_config(tokenizer))
    start_as_recall(model)
    print(f"language: {model.num_parameters():,} parameters, {steps} steps")
    trunk = torch.compile(model.model, dynamic=True)  # 1.8 times as fast on one CPU core
    optimizers, schedules = _optimizer(model, steps)
    begin, accuracy, phases = time.time(), 0.0, list(PHASES)
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
            seconds = time.time() - begin
            print(f"{step:6d}  loss {loss.item():.4f}  tokens right {accuracy:.3f}  {seconds:6.0f} s", flush=True)
        if step % 250 == 0 or step == steps:
            print(f"{step:6d}  reads {reading_accuracy(model, tokenizer, languages, chat):.3f} on fold 1", flush=True)
            model.save_pretrained(BACKBONES / "qwen")


def tie_languages(table: torch.Tensor, tokenizer) -> None:
    """Start each Chinese word as its English one plus what is the same for all of them; ``table`` is [V, D].

    So both languages use the same circuits, and which to answer in is one direction. From unrelated vectors, Chinese
    was at 78 % after 1,500 steps on top of a model that knew English, and English fell.
    """
    chinese = 0.5 * table.std() * torch.randn(table.shape[1])
    for words in (scenes.SHAPES, scenes.COLORS, scenes.PLACES, {"large": "大的", "small": "小的"}, scenes.SIZES):
        for english, other in words.items():
            (new,) = tokenizer.encode(other)
            table[new] = table[tokenizer.encode(" " + english)].mean(0) + chinese


# "a large red circle at the top left": the place is 4 tokens from its shape, 6 from its size. With 1 to 4 only, places
# were a coin flip between two objects (53 %); one head each for 1 to 8 was slower.
OFFSETS = (1, 2, 3, 4, 5, 6, 1, 2)


@torch.no_grad()
def start_as_recall(model: Qwen2ForCausalLM) -> None:
    """Start the attention near what looking something up takes; from the usual start it was never learnt.

    "What color is the circle?" takes heads that bring a word to its neighbours, and then heads that find the place
    where the asked word stands. From random weights the model knew which colours there are, but not whose, and stayed
    there for 3,500 steps. So, after "Mimetic Initialization of Self-Attention Layers" (Trockman and Kolter, 2023):

    - in layer 0, biases make each head look OFFSETS tokens back, whatever stands there (the rotary embedding turns a
      query and a key that are ``offset`` apart into the same vector);
    - in layers 1 and 2, query and key matrices are equal, so like finds like;
    - in all of these, output times value is half the identity of each head's 16 dimensions.

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
            query[:4] = 2.4  # the four fastest angles; a score of 5.8 at the offset, 5.0 one token beside it
            turn = angles * OFFSETS[head % len(OFFSETS)]
            place = slice(head * width, (head + 1) * width)
            attention.q_proj.bias[place] = torch.cat([query, torch.zeros(width // 2)])
            attention.k_proj.bias[place] = torch.cat([query * turn.cos(), query * turn.sin()])


def _language_config(tokenizer) -> Qwen2Config:
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


def _optimizer(model: nn.Module, steps: int):
    """Muon for the matrices of the layers, AdamW for the rest; one cosine schedule for both."""
    inside = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    names = {id(p) for p in inside}
    rest = [p for p in model.parameters() if id(p) not in names]
    optimizers = [Muon(inside, lr=0.01), torch.optim.AdamW(rest, lr=1.5e-3, weight_decay=0.0, betas=(0.9, 0.98))]
    return optimizers, [torch.optim.lr_scheduler.LambdaLR(o, _cosine(steps, 50)) for o in optimizers]


def _cosine(steps: int, warm_up: int):
    return lambda step: min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))


def _step(loss, model, optimizers, schedules) -> None:
    model.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer, schedule in zip(optimizers, schedules, strict=True):
        optimizer.step()
        schedule.step()


# ---------------------------------------------------------------------------------------------- vision


ATTRIBUTES = ("shape", "color", "size", "place")
WORDS = (*scenes.SHAPES, *scenes.COLORS, *scenes.SIZES, *scenes.PLACES)  # 17, what a patch is asked for
PATCH = 14


class Captioner(nn.Module):
    """A SigLIP vision tower with two throw-away readers: a decoder that tells the picture, a line that tells a patch.

    The decoder alone left a patch in the middle of an object with 82 % of the shapes for a linear probe, and 13 % of
    its variance for the colour: a projector took 1,000 steps to find the colours. Neither reader ever sees patch 0:
    the main model drops that token, so nothing may be kept in it.
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
        self.words = nn.Linear(width, len(WORDS))

    def forward(self, pixel_values: torch.Tensor, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, 3, 112, 112] float, [B, T] int64 -> hidden states [B, T, D], logits of each patch's words [B, 63, 17]."""
        patches = self.tower(pixel_values=pixel_values).last_hidden_state[:, 1:]  # [B, 63, D]
        length = input_ids.shape[1]
        hidden = self.tokens(input_ids) + self.positions(torch.arange(length))
        causal = nn.Transformer.generate_square_subsequent_mask(length)
        return self.decoder(hidden, patches, tgt_mask=causal, tgt_is_causal=True), self.words(patches)


def words_of_patches(scene: scenes.Scene) -> torch.Tensor:
    """[64, 17] float: 1 for the four words of the object that a patch's middle lies in, or nearly; else all 0."""
    side = scenes.PICTURE_SIZE // PATCH
    middles = (torch.arange(side) + 0.5) * PATCH  # pixels
    words = torch.zeros(side, side, len(WORDS))
    for thing in scene:
        x, y = scenes.CENTERS[thing.place]
        distance = ((middles[:, None] - y) ** 2 + (middles[None, :] - x) ** 2).sqrt()  # [8, 8], row by column
        own = torch.zeros(len(WORDS))
        own[[WORDS.index(getattr(thing, attribute)) for attribute in ATTRIBUTES]] = 1
        words[distance < scenes.RADIUS[thing.size] + 2] = own  # 2 pixels more: a small one may lie between middles
    return words.flatten(0, 1)


def picture_batch(tokenizer, processor, rng, size: int, folds):
    """Fresh pictures: ``pixel_values`` [B, 3, 112, 112], ``input_ids`` and ``labels`` [B, T], words [B, 63, 17]."""
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
    """Teach a SigLIP tower of 1.3 M parameters to see, by captioning (SigLIP 2 adds this loss for the same end)."""
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
    begin = time.time()
    for step in range(1, steps + 1):
        batch_now = picture_batch(tokenizer, processor, rng, batch, range(2, scenes.FOLDS))
        caption, words, *_ = _vision_losses(model, *batch_now)
        _step(caption + words, model, [optimizer], [schedule])
        if step % 50 == 0:
            losses = f"captions {caption.item():.4f}  words {words.item():.4f}"
            print(f"{step:6d}  {losses}  {time.time() - begin:6.0f} s", flush=True)
        if step % 500 == 0 or step == steps:
            with torch.no_grad():
                held = picture_batch(tokenizer, processor, random.Random(1), 256, (scenes.VALIDATION_FOLD,))
                caption, _, exact, told = (float(number) for number in _vision_losses(model, *held))
            print(
                f"{step:6d}  fold 1: caption loss {caption:.4f}, {exact:.3f} exact; patches right {told:.3f}",
                flush=True,
            )
            tower.save_pretrained(BACKBONES / "siglip")


def _vision_losses(model: Captioner, pixel_values, input_ids, labels, words) -> tuple[torch.Tensor, ...]:
    """Mean cross entropy of the next caption token; of the patches' words; shares of captions and objects right.

    The words' loss is SigLIP's sigmoid one, summed over words, averaged over patches on objects and over the others.
    """
    hidden, said = model(pixel_values, input_ids[:, :-1])  # [B, T-1, D], [B, 63, 17]
    logits = hidden @ model.tokens.weight.T  # [B, T-1, V]
    targets = labels[:, 1:]
    right = (logits.argmax(-1) == targets) | (targets == IGNORE_INDEX)
    each = F.binary_cross_entropy_with_logits(said, words, reduction="none").sum(-1)  # [B, 63]
    on = words.any(-1)  # [B, 63]
    told = ((said > 0) == (words > 0)).all(-1)[on]
    caption = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    return caption, each[on].mean() + each[~on].mean(), right.all(1).float().mean(), told.float().mean()


def main() -> None:
    stages = {
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
