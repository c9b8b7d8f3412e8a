"""Whole runs of train.py on a few pictures, and the checkpoints that they write."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from settings import save_config
from tests.helpers.forked import forks

TIMINGS = {"tokens_per_second", "text_tokens_per_second", "waiting_for_data"}


def conversations(pictures: int) -> dict:
    """Several conversations about each picture, so that they are trees, each answer one of three."""
    talks = {}
    for number in range(pictures):
        split = "validation" if number >= pictures - 2 else "train"
        talks[str(number)] = [
            {
                "source": "test",
                "language": "en",
                "split": split,
                "turns": [{"q": f"<|extra_0|>\nWhat is {n} of {number}?", "a": ["red", "a blue one", str(number)]}],
            }
            for n in range(1 + number % 3)
        ]
    return talks


def runs_of(make_config, tmp_path: Path, settings: list[str], talks: dict | None = None):
    """A function that writes the config of a run and gives one that runs it."""
    talks = {**conversations(9), **(talks or {})}

    def prepare(name: str, *overrides: str):
        config = make_config(*settings, f"train.run={name}", *overrides, pictures=9, conversations=talks)
        file = tmp_path / f"{name}.yaml"
        save_config(config, file)

        def run(*arguments: str, **options) -> dict:
            return forks().run("--config", str(file), *arguments, log=tmp_path / f"{name}.log", **options)

        return run, Path(config.train.output) / name

    return prepare


def state_of(run: Path, step: int) -> dict:
    return json.loads((run / f"checkpoint-{step}" / "trainer_state.json").read_text(encoding="utf-8"))


def losses(state: dict) -> dict[tuple, float]:
    return {(e["step"], k): e[k] for e in state["log_history"] for k in ("loss", "eval_loss", "grad_norm") if k in e}


def last_state(run: Path) -> tuple[str, dict[str, torch.Tensor], dict]:
    """What the newest checkpoint holds: its name, every tensor, and the log without what a clock wrote."""
    folder = max(run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    tensors = {
        f"{file.relative_to(folder).as_posix()}:{name}": tensor
        for file in folder.rglob("*.safetensors")
        for name, tensor in load_file(file).items()
    }
    state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    log = [{key: value for key, value in entry.items() if key not in TIMINGS} for entry in state["log_history"]]
    optimizer = json.loads((folder / "optimizer.json").read_text(encoding="utf-8"))
    return folder.name, tensors, {"log": log, "optimizer": optimizer, "best": state["best_global_step"]}


def assert_same(run: Path, reference: Path) -> None:
    name, tensors, rest = last_state(run)
    expected, wanted, expected_rest = last_state(reference)
    assert name == expected and rest == expected_rest
    assert tensors.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert torch.equal(tensors[key], tensor), key


def evaluated(losses: list[float], monkeypatch, loop) -> None:
    """Let the evaluations of a loop find these losses, one after the other."""
    left = iter(losses)

    def evaluate() -> None:
        loss = next(left)
        loop.note({"eval_loss": loss})
        loop.note_best(loss)

    monkeypatch.setattr(loop, "evaluate", evaluate)
