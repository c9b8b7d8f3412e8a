"""A run that is killed, again and again, ends as the run that never was: to the bit."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from settings import save_config
from tests.forked import Forks

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX processes")

KILLS = int(os.environ.get("VLM_KILLS", "20"))  # `make soak` asks for 200
TIMINGS = {"tokens_per_second", "text_tokens_per_second", "waiting_for_data"}

OPTIONS = [
    "train.num_train_epochs=3",
    "train.max_steps=-1",
    "train.per_device_train_batch_size=1",
    "train.gradient_accumulation_steps=2",
    "train.save_steps=2",
    "train.save_total_limit=2",
    "train.logging_steps=3",
    "train.eval_strategy=steps",
    "train.eval_steps=3",
    "lora.lora_dropout=0.2",
    "data.progress=false",
]


@pytest.fixture(scope="module")
def forks():
    server = Forks()
    yield server
    server.close()


def conversations(pictures: int) -> dict:
    """Several conversations about each picture, so that they are trees, each answer one of three."""
    talks = {}
    for number in range(pictures):
        split = "held_out" if number >= pictures - 2 else "train"
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


@pytest.fixture
def start(forks, make_config, tmp_path):
    """A function that writes the config of a run and gives one that runs it."""

    def prepare(name: str, *overrides: str):
        config = make_config(*OPTIONS, f"train.run={name}", *overrides, pictures=9, conversations=conversations(9))
        file = tmp_path / f"{name}.yaml"
        save_config(config, file)

        def run(*arguments: str, **options) -> dict:
            return forks.run("--config", str(file), *arguments, log=tmp_path / f"{name}.log", **options)

        return run, Path(config.train.output) / name

    return prepare


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


def random_kill(rng: random.Random, seconds: float) -> dict:
    kind = rng.choice(["after", "step", "evaluate", "file", "file"])
    if kind == "after":
        return {"after": rng.uniform(0.1, 1.0) * seconds}
    return {"event": kind, "count": rng.randint(1, {"step": 12, "evaluate": 4, "file": 110}[kind])}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_killed_at_random_moments_it_ends_bit_equal(start, dtype):
    overrides = ["train.bf16=true"] if dtype == "bf16" else []
    whole, reference = start("whole", *overrides)
    done = whole()
    assert done["codes"] == [0], done["output"]
    assert ("bfloat16" in done["output"]) == (dtype == "bf16")
    broken, run = start("broken", *overrides)
    rng, killed, finished = random.Random(f"{dtype} 7"), [], 0
    while len(killed) < KILLS // 2 or not finished:
        if len(killed) >= KILLS // 2:
            result = broken("--resume")
        else:
            kill = random_kill(rng, done["seconds"])
            result = broken("--resume", kill=kill)
            killed += [kill] if result["codes"] == [-9] else []
        assert result["codes"] in ([0], [-9]), result["output"]
        if result["codes"] == [0]:
            finished += 1
            assert_same(run, reference)
            broken, run = start(f"broken-{finished}", *overrides)
    assert len(killed) == KILLS // 2
