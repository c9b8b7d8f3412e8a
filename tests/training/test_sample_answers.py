"""A few validation questions are asked while a model trains, and the run is the same as without them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from answering.assistant import Assistant
from dataset.image import load_image, load_image_processor
from dataset.image_caption_dataset import ImageCaptionDataset
from dataset.prompt import IMAGE_TOKEN, Request, Turn
from model.model import MMultiModal
from qwen.tokenizer import load_tokenizer
from tests.helpers.conversations import conversation
from tests.helpers.runs import assert_same
from training import sample_answers
from training.sample_answers import LONGEST, accuracy, ask_samples, draw_questions
from training.setup import build_loop

PICTURE = f"{IMAGE_TOKEN}\n"
LONG = "It is a picture that shows a single colour from one side to the other side"
TALKS = {
    "0": [conversation((f"{PICTURE}What color is it?", "red"), split="train")],
    "1": [conversation((f"{PICTURE}Describe it.", LONG), split="validation")],
    "2": [
        conversation((f"{PICTURE}What color is it?", "red"), ("And its shape?", "round"), split="validation"),
        conversation((f"Is it blue? {IMAGE_TOKEN}", "no"), split="validation"),
    ],
    "3": [conversation((f"{PICTURE}Is it green?", "no"), split="validation")],
    "text": [conversation(("Is 4 even?", "yes"), split="validation")],
}
EVALUATES = ["train.eval_strategy=steps", "train.eval_steps=2", "train.max_steps=4", "train.save_steps=4"]


@pytest.fixture
def dataset(make_config):
    def build(*overrides: str) -> ImageCaptionDataset:
        config = make_config(*overrides, pictures=4, conversations=TALKS)
        tools = load_tokenizer(config.language.path), load_image_processor(config.vision.path)
        return ImageCaptionDataset(config, *tools, "validation")

    return build


def test_first_questions_about_pictures_with_short_answers_come_first(dataset):
    drawn = draw_questions(dataset(), 20)
    assert {q.text for q in drawn[:3]} == {"What color is it?", "Is it blue?", "Is it green?"}
    assert [(q.text, q.scored) for q in drawn[3:]] == [("Describe it.", False), ("Is 4 even?", True)]
    assert [len(q.pixel_values) for q in drawn] == [1, 1, 1, 1, 0]
    assert [q.name for q in draw_questions(dataset(), 2)] == [q.name for q in drawn[:2]]
    assert {tuple(q.name for q in draw_questions(dataset(f"data.seed={seed}"), 3)) for seed in range(9)} != {
        tuple(q.name for q in drawn[:3])
    }


def test_a_question_that_is_too_long_or_whose_picture_is_damaged_is_not_drawn(dataset, tmp_path):
    whole = dataset()
    (tmp_path / "3.png").write_bytes(b"damaged")
    lengths = {q.name: len(q.prompt) for q in draw_questions(whole, 9)}
    assert lengths.keys() == {"1/0", "2/0", "2/1", "text/0"}
    whole.max_length = lengths["2/0"] - 1 + LONGEST
    assert {q.name for q in draw_questions(whole, 9)} == {"1/0", "2/1", "text/0"}


def test_the_answers_are_those_of_the_assistant(make_config, tmp_path):
    """In one batch with padding, two pictures and a text, as `evaluate.py` would have them."""
    config = make_config(
        *EVALUATES, "generate.max_new_tokens=32", "language.max_length=256", pictures=4, conversations=TALKS
    )
    loop = build_loop(config, Path(config.train.output) / "a")
    loop.train()
    kept = [json.loads(line) for line in (loop.run / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [entry["step"] for entry in kept] == [2] * 5 + [4] * 5
    assistant = Assistant.load(loop.run / "checkpoint-4", "cpu")
    for entry in kept[5:]:
        number, _, talk = entry["name"].partition("/")
        said = TALKS[number][int(talk)]["turns"][0]["q"]
        images = [] if number == "text" else [load_image(tmp_path / f"{number}.png", 50_000_000)]
        assert assistant.answer([Request([Turn(said)], images)]) == [entry["answer"]]
    scores = [entry["eval_accuracy"] for entry in loop.progress.log_history if "eval_accuracy" in entry]
    right = [entry["right"] for entry in kept[5:] if entry["right"] is not None]
    assert len(scores) == 2 and len(right) == 4 and scores[1] == sum(right) / 4


def test_a_run_is_bit_equal_with_and_without_questions(make_config):
    """Weights, moments, random states and every loss; with dropout, which draws random numbers in each step."""
    runs = []
    for count in (0, 3):
        options = [*EVALUATES, "lora.lora_dropout=0.2", f"train.eval_questions={count}", f"train.run=run{count}"]
        config = make_config(*options, pictures=4, conversations=TALKS)
        loop = build_loop(config, Path(config.train.output) / config.train.run)
        loop.train()
        runs.append(loop)
    without, asked = runs
    assert not (without.run / "answers.jsonl").exists() and (asked.run / "answers.jsonl").exists()
    state = asked.run / "checkpoint-4" / "trainer_state.json"
    content = json.loads(state.read_text(encoding="utf-8"))
    assert sum("eval_accuracy" in entry for entry in content["log_history"]) == 2
    for entry in content["log_history"]:
        entry.pop("eval_accuracy", None)
    state.write_text(json.dumps(content), encoding="utf-8")
    assert_same(asked.run, without.run)


def test_asking_leaves_attention_and_mode_as_they_were(make_config, monkeypatch):
    config = make_config(*EVALUATES, pictures=4, conversations=TALKS)
    loop = build_loop(config, Path(config.train.output) / "a")
    loop.model.set_attention("eager")
    seen = []
    generate = MMultiModal.generate

    def watched(model, **options):
        seen.append((model.language.config._attn_implementation, model.training, options["do_sample"]))
        return generate(model, **options)

    monkeypatch.setattr(MMultiModal, "generate", watched)
    loop.prepare()
    loop.model.eval()
    assert len(ask_samples(loop)) == 5
    assert set(seen) == {("sdpa", False, False)}
    assert loop.model.language.config._attn_implementation == "eager"


def test_processes_share_the_questions(make_config, monkeypatch):
    config = make_config(*EVALUATES, pictures=4, conversations=TALKS)
    loop = build_loop(config, Path(config.train.output) / "a")
    loop.prepare()
    loop.model.eval()
    alone = [entry["name"] for entry in ask_samples(loop)]
    monkeypatch.setattr(sample_answers, "world_size", lambda: 2)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(sample_answers, "rank", lambda rank=rank: rank)
        shares.append([entry["name"] for entry in ask_samples(loop)])
    assert shares == [alone[::2], alone[1::2]]


def test_accuracy_is_over_what_can_be_scored():
    answers = [{"right": True}, {"right": None}, {"right": False}, {"right": False}, {"right": False}]
    assert accuracy(answers) == {"eval_accuracy": 0.25}
    assert accuracy([{"right": None}]) == {} == accuracy([])
