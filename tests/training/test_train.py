"""train.py as people run it: a run, a resumed run, an interrupted run, a dry run."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import train
from settings import save_config
from tests.helpers.forked import forks
from tests.helpers.tiny import REPO


def run_train(config, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    file = Path(config.train.output).parent / "config.yaml"
    save_config(config, file)
    result = forks().run("--config", str(file), *arguments, log=file.with_suffix(".log"))
    done = subprocess.CompletedProcess(arguments, result["codes"][0], result["stdout"], result["stderr"])
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONIOENCODING": "utf-8", "HF_HUB_OFFLINE": "1"}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = ("projector.safetensors", "language/adapter_model.safetensors", "optimizer.safetensors")
    return {f"{file}:{name}": t for file in files for name, t in load_file(folder / file).items()}


def test_a_resumed_run_ends_bit_equal_to_one_that_never_stopped(make_config, tmp_path):
    """Into the second epoch, with accumulation and drawn answers; LoRA dropout exercises the random state."""
    options = ["train.max_steps=6", "train.gradient_accumulation_steps=2", "lora.lora_dropout=0.2"]
    config = make_config(*options, "train.per_device_train_batch_size=1", "train.save_steps=4")
    run = Path(config.train.output) / "test"
    run_train(config)
    whole = weights(run / "checkpoint-6")
    assert any(t.abs().max() > 0 for name, t in whole.items() if "lora_B" in name)
    for file in (run / "checkpoint-6").rglob("*"):
        if file.is_file():
            file.unlink()
    done = run_train(config, "--resume")
    assert f"resuming from {run / 'checkpoint-4'}" in done.stdout
    resumed = weights(run / "checkpoint-6")
    assert resumed.keys() == whole.keys()
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


def test_start_says_what_is_trained_and_a_second_start_refuses_to_overwrite(make_config):
    config = make_config("train.max_steps=1")
    done = run_train(config)
    assert "no CUDA GPU was found" in done.stdout or "use_cpu is set" in done.stdout
    assert "vision                0 of" in done.stdout and "parameters trained (lora)" in done.stdout
    assert "about" in done.stdout and "tokens" in done.stdout
    again = run_train(config, check=False)
    assert again.returncode == 2
    assert "already holds checkpoint-1; to continue it: python train.py --config" in again.stderr
    assert len(again.stderr.strip().splitlines()) == 1
    run_train(config, "--overwrite")


def test_checkpoint_folder_is_complete_and_free_of_pickle(make_config):
    config = make_config("train.max_steps=1")
    run_train(config)
    folder = Path(config.train.output) / "test" / "checkpoint-1"
    suffixes = {p.suffix for p in folder.rglob("*") if p.is_file()}
    assert suffixes <= {".safetensors", ".json", ".yaml", ".jinja"}
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["step"] == 1 and manifest["seed"] == 42
    saved = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert saved["train"]["max_steps"] == 1 and saved["lora"]["r"] == 4


def test_validation_loss_is_the_mean_over_tokens_and_the_best_checkpoint_is_kept(make_config, capsys):
    options = ["train.eval_strategy=steps", "train.eval_steps=2", "train.load_best_model_at_end=true"]
    config = make_config(*options, "train.save_total_limit=1", "train.learning_rate=0.5", "train.max_steps=6")
    run = Path(config.train.output) / "test"
    run_train(config)
    last = max(run.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    state = json.loads((last / "trainer_state.json").read_text(encoding="utf-8"))
    losses = {entry["step"]: entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry}
    assert set(losses) == {2, 4, 6}
    best = min(losses, key=losses.get)
    assert state["best_global_step"] == best and (run / f"checkpoint-{best}" / "manifest.json").is_file()


def test_the_log_counts_real_tokens_and_padding(make_config):
    config = make_config("train.max_steps=2", "train.logging_steps=2")
    run_train(config)
    state = json.loads((Path(config.train.output) / "test" / "checkpoint-2" / "trainer_state.json").read_text())
    (entry,) = [entry for entry in state["log_history"] if "loss" in entry]
    assert entry["tokens_per_second"] > entry["text_tokens_per_second"] > 0
    assert entry["padding"] == 0.0 and 0 < entry["waiting_for_data"] < 1  # all samples are equally long


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(make_config, number):
    config = make_config("train.max_steps=100000", "train.save_steps=100000", "train.logging_steps=1")
    file = Path(config.train.output).parent / "config.yaml"
    save_config(config, file)
    command = [sys.executable, "-u", "train.py", "--config", str(file), "data.progress=false"]
    process = subprocess.Popen(
        command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
    )
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "loss" in line:
                break
        process.send_signal(number)
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    output = "".join(lines) + rest
    assert process.returncode == 0, output
    assert "stopped at step" in rest and "--resume" in rest
    (folder,) = (Path(config.train.output) / "test").glob("checkpoint-*")
    assert (folder / "manifest.json").is_file()


def test_a_missing_data_file_is_one_line_that_says_what_to_run(make_config, tmp_path):
    config = make_config()
    (tmp_path / "annotations.json").unlink()
    done = run_train(config, check=False)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert "data.annotations" in done.stderr and "process_image.py" in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_tracker_that_is_not_installed_is_one_line_and_overwrites_nothing(make_config):
    run_train(make_config("train.max_steps=1"))
    config = make_config("train.report_to=wandb")
    run = Path(config.train.output) / "test"
    before = sorted(run.rglob("*"))
    done = run_train(config, "--overwrite", check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "train.report_to = wandb: it is not installed; pip install wandb" in done.stderr
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize("wrong", ["lora.target_modules=[nothing]", "lora.exclude_modules=.*_proj"])
def test_a_mistake_that_only_building_finds_overwrites_nothing(make_config, wrong):
    run_train(make_config("train.max_steps=1"))
    config = make_config(wrong)
    run = Path(config.train.output) / "test"
    before = sorted(run.rglob("*"))
    done = run_train(config, "--overwrite", check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert sorted(run.rglob("*")) == before


def test_base_models_that_have_moved_are_named_with_resume(qwen_folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "--base-language", str(qwen_folder)])
    with pytest.raises(SystemExit):
        train.parse_arguments()
    assert "--base-language, --base-vision and --base-model go with --resume" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--resume"])
    assert train.base_overrides(train.parse_arguments()) == [f'language.path="{qwen_folder}"']
