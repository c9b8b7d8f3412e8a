"""Training: each model learns what it can, resuming repeats an uninterrupted run, and captions are refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from baselines.loop import Loop
from baselines.train import NAMES, main
from dataset.conversations import SPLITS
from model.run_checkpoints import checkpoints, choices_of
from settings import Config


def train(config: Config, name: str, *arguments: str, status: int = 0) -> Path:
    """Run the command; returns the run's folder."""
    file = config.train.output.parent / "baseline.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json"), allow_unicode=True), encoding="utf-8")
    assert main(["--config", str(file), "--model", name, *arguments]) == status
    return config.train.output / f"{config.train.run}-{name}"


def accuracies(run: Path) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line["eval_accuracy"] for line in lines if "eval_accuracy" in line]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "question"])
def test_a_model_with_the_picture_learns_a_rule_that_needs_it(colors, name, capsys):
    run = train(colors(), name)
    assert max(accuracies(run)) == 1.0
    printed = capsys.readouterr().out
    assert "answers   6 (at most baselines.answers = 3,000); they cover 100.0% of the held-out questions" in printed
    assert (run / "loss.svg").is_file()


def test_the_question_alone_does_not(colors):
    assert max(accuracies(train(colors(), "question"))) <= 0.5  # three colours, evenly spread


def test_the_best_epoch_is_kept_and_patience_ends_the_run(colors, capsys):
    run = train(colors("baselines.patience=2", "baselines.epochs=50"), "ibowimg")
    found = accuracies(run)
    best = found.index(max(found)) + 1
    assert len(found) == best + 2 < 50 and "baselines.patience = 2" in capsys.readouterr().out
    assert choices_of(run)[0].name == f"checkpoint-{6 * best}"  # 96 questions in batches of 16
    assert len(checkpoints(run)) == 2  # the best and the last


def test_concatenated_is_another_model(colors):
    run = train(colors("baselines.fusion=concatenated", "baselines.epochs=1"), "lstm")
    assert load_file(choices_of(run)[0] / "model.safetensors")["classifier.1.weight"].shape == (32, 64)


def test_a_run_that_was_stopped_within_an_epoch_ends_as_an_uninterrupted_one(colors, monkeypatch, capsys):
    changes = ["baselines.epochs=2", "baselines.dropout=0.3"]
    whole = train(colors(*changes, "train.run=whole"), "attention")
    step, done = Loop._step, []

    def stopping(self, batch):
        done.append(1)
        self.stop.asked = len(done) == 4
        return step(self, batch)

    config = colors(*changes, "train.run=parts")
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", stopping)
        run = train(config, "attention")
    assert [folder.name for folder in checkpoints(run)] == ["checkpoint-4"]
    assert "stopped at step 4; continue with:" in capsys.readouterr().out
    train(config, "attention", "--resume")
    wanted, found = (load_file(folder / "checkpoint-12" / "model.safetensors") for folder in (whole, run))
    assert all((found[name] == tensor).all() for name, tensor in wanted.items())
    assert accuracies(run) == accuracies(whole)


def test_resuming_with_another_size_is_refused(colors, capsys):
    train(colors("baselines.epochs=1"), "question")
    train(colors("baselines.hidden_size=8"), "question", "--resume", status=2)
    assert "baselines.hidden_size = 8, but checkpoint-6 was trained with 32" in capsys.readouterr().err


def edit_answers(config: Config, answer) -> None:
    content = json.loads(config.data.annotations.read_text(encoding="utf-8"))
    for conversations in content.values():
        for conversation in conversations:
            for turn in conversation["turns"]:
                turn["a"] = [answer(turn)]
    config.data.annotations.write_text(json.dumps(content), encoding="utf-8")


CAPTION = "a man on a red bicycle rides down the street"


@pytest.mark.parametrize("answer", [lambda turn: CAPTION, lambda turn: "the", lambda turn: "a dog" + " runs" * 4])
def test_captions_where_answers_belong_are_refused(colors, capsys, answer):
    config = colors()
    edit_answers(config, answer)
    run = train(config, "lstm", status=2)
    error = capsys.readouterr().err
    assert 'every answer would be "the"' in error and len(error.splitlines()) == 1
    assert not run.exists()


def test_a_set_without_validation_is_refused(colors, capsys):
    config = colors()
    content = json.loads(config.data.annotations.read_text(encoding="utf-8"))
    for conversations in content.values():
        for conversation in conversations:
            conversation["split"] = SPLITS[0]
    config.data.annotations.write_text(json.dumps(content), encoding="utf-8")
    train(config, "lstm", status=2)
    assert "no short question about one picture in the validation split" in capsys.readouterr().err


def test_a_mistake_is_found_before_torch_is_imported(tmp_path):
    import subprocess

    code = "import sys; from baselines.train import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, "--config", str(tmp_path / "none.yaml"), "--model", "lstm"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "False" and "no such file" in done.stderr
