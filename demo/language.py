"""The demo's language model, pretrained on text alone: captions, and questions about them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from dataset.collate import collate
from dataset.prompt import IGNORE_INDEX, Turn, build_prompt, encode_text
from dataset.trees import Row, grow_tree, root_length
from demo import BACKBONES, SYSTEM, optimizing, scenes
from demo.recall import start_as_recall, tie_languages
from qwen.tokenizer import IMAGE_TOKEN, Tokenizer, token_id
from qwen.tree_mask import tree_mask

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
    return plain_tree(tree)


def plain_tree(tree: dict[str, Any]) -> dict[str, Any]:
    """A tree without pictures, as :func:`dataset.collate.collate` takes it."""
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
    model: Qwen2ForCausalLM,
    trunk: Callable[..., Any],
    tokenizer: Tokenizer,
    trees: Sequence[dict[str, Any]],
    vectors: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [L, V] at the positions that an answer's token follows, and those tokens [L].

    ``trunk`` is ``model.model`` or its compiled form. ``vectors`` [K, D] replace the K image tokens of the trees.
    """
    batch = collate(trees, tokenizer.pad_token_id)
    ids, segments = batch["input_ids"], batch.get("segments", batch["attention_mask"])  # [B, T]
    embedded = model.get_input_embeddings()(ids)  # [B, T, D]
    if vectors is not None:
        images = ids == token_id(tokenizer, IMAGE_TOKEN)
        embedded = embedded.masked_scatter(images[..., None], vectors)
    inputs = {"inputs_embeds": embedded, "attention_mask": tree_mask(segments)}
    if "position_ids" in batch:
        inputs["position_ids"] = batch["position_ids"]
    hidden = trunk(use_cache=False, **inputs).last_hidden_state  # [B, T, D]
    targets = batch["labels"][:, 1:]  # [B, T-1]
    kept = targets != IGNORE_INDEX
    return model.lm_head(hidden[:, :-1][kept]), targets[kept]


def answers_right(logits: torch.Tensor, targets: torch.Tensor, end: int) -> torch.Tensor:
    """For each answer, whether all its tokens are the likeliest ones: bool [answers]; each ends with ``end``."""
    wrong = (logits.argmax(-1) != targets).long()
    answers = (targets == end).long().cumsum(0) - (targets == end).long()  # which answer each token belongs to
    return torch.zeros(int(answers.max()) + 1, dtype=torch.long).index_add(0, answers, wrong) == 0


@torch.no_grad()
def reading_accuracy(
    model: Qwen2ForCausalLM, tokenizer: Tokenizer, languages: Sequence[str], chat: bool, count: int = 1000
) -> float:
    """The share of questions about captions of fold 1 that are answered exactly, each asked alone."""
    rng, right = random.Random(1), []
    folds = (scenes.VALIDATION_FOLD,)
    for _ in range(count // 100):
        trees = [reading_tree(tokenizer, rng, languages, chat, 1, folds) for _ in range(100)]
        right.append(answers_right(*answer_logits(model, model.model, tokenizer, trees), tokenizer.eos_token_id))
    return torch.cat(right).float().mean().item()  # a conversation of two questions counts as two


def train_language(steps: int, batch: int = 8) -> None:
    """Teach a Qwen2 of 1.1 M parameters to answer questions about a caption, in two languages, from text alone.

    First come plain English lines, in which the word asked about is next to the answer; then Chinese; then ChatML.
    """
    tokenizer = AutoTokenizer.from_pretrained(BACKBONES / "qwen")
    torch.manual_seed(0)
    rng = random.Random(0)
    model = Qwen2ForCausalLM(language_config(tokenizer))
    start_as_recall(model)
    print(f"language: {model.num_parameters():,} parameters, {steps} steps")
    trunk = torch.compile(model.model, dynamic=True)  # 1.8 times as fast on one CPU core
    optimizers, schedules = optimizing.optimizer(model, steps)
    start, accuracy, phases = time.time(), 0.0, list(PHASES)
    for step in range(1, steps + 1):
        while step > phases[0][0] * steps:
            phases.pop(0)
            if not phases[0][2]:
                tie_languages(model.get_input_embeddings().weight.data, tokenizer)
        _, languages, chat = phases[0]
        questions, folds = (6 if chat else 12), range(2, scenes.FOLDS)
        trees = [reading_tree(tokenizer, rng, languages, chat, questions, folds) for _ in range(batch)]
        logits, targets = answer_logits(model, trunk, tokenizer, trees)
        loss = F.cross_entropy(logits, targets)
        optimizing.step(loss, model, optimizers, schedules)
        accuracy = 0.95 * accuracy + 0.05 * (logits.argmax(-1) == targets).float().mean().item()
        if step % 50 == 0:
            seconds = time.time() - start
            print(f"{step:6d}  loss {loss.item():.4f}  tokens right {accuracy:.3f}  {seconds:6.0f} s", flush=True)
        if step % 250 == 0 or step == steps:
            print(f"{step:6d}  reads {reading_accuracy(model, tokenizer, languages, chat):.3f} on fold 1", flush=True)
            model.save_pretrained(BACKBONES / "qwen")


def language_config(tokenizer: Tokenizer) -> Qwen2Config:
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
