"""Several processes: the losses of one, any number resumes where another stopped, none waits for one that has died."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

from model.run_checkpoints import newest_undamaged
from settings import save_config
from tests.helpers.forked import REPO, forks, free_port
from tests.helpers.runs import assert_same, conversations, last_state, losses, runs_of, state_of
from training import fsdp as sharded

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX processes")

OPTIONS = [
    "train.max_steps=-1",
    "train.num_train_epochs=3",
    "train.per_device_train_batch_size=1",
    "train.save_steps=3",
    "train.eval_strategy=steps",
    "train.eval_steps=3",
    "lora.lora_dropout=0.0",
    "data.progress=false",
]


# ---------------------------------------------------------------------------------------------- whole runs


@pytest.fixture
def start(make_config, tmp_path):
    return runs_of(make_config, tmp_path, OPTIONS)


TEXT = [
    {"source": "test", "language": "en", "split": "train", "turns": [{"q": f"Is {n} even?", "a": ["yes", "no"]}]}
    for n in range(7)
]


@posix
@pytest.mark.parametrize(("text", "tower"), [([], "frozen"), (TEXT, "frozen"), (TEXT, "full")])
def test_two_processes_learn_what_one_with_twice_the_accumulation_learns(make_config, tmp_path, text, tower):
    """7 batches, or 14: the last step of an epoch has one for two processes, or steps have an image in one of them
    only, or in none. 1e-6 on losses of about 7."""
    start = runs_of(make_config, tmp_path, [*OPTIONS, f"vision.train={tower}"], {"text": text} if text else {})
    one, alone = start("one", "train.gradient_accumulation_steps=2")
    two, shared = start("two", "train.gradient_accumulation_steps=1")
    for run, ranks in ((one, 1), (two, 2)):
        result = run(ranks=ranks)
        assert result["codes"] == [0] * ranks and "find_unused_parameters" not in result["output"], result["output"]
    (name, theirs, wanted), (same, ours, found) = last_state(alone), last_state(shared)
    assert name == same == ("checkpoint-21" if text else "checkpoint-12")
    wanted, found = (losses({"log_history": rest["log"]}) for rest in (wanted, found))
    assert wanted.keys() == found.keys() and len(wanted) == (49 if text else 28)
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, rel=1e-6 if key[1] != "grad_norm" else 1e-4), key
    for name in (name for name in theirs if name.startswith(("projector", "optimizer"))):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-5)  # float32 through Adam's division


@posix
@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_without_a_gpu_processes_find_each_other_unasked(start):
    """Left alone, accelerate lets each train by itself there, and write over the other's checkpoints."""
    run, folder = start("two", "train.use_cpu=false", "data.progress=true")
    result = run(ranks=2)
    assert result["codes"] == [0, 0] and "batch     2.0 samples a step" in result["output"], result["output"]
    assert len(json.loads((folder / "checkpoint-12" / "progress.json").read_text(encoding="utf-8"))["losses"]) == 2
    assert result["stderr"] == ""  # no bars without a terminal, from neither process


@posix
def test_two_processes_killed_in_the_second_epoch_go_on_to_the_bit(start):
    overrides = ["lora.lora_dropout=0.2", "train.logging_steps=2"]
    whole, reference = start("whole", *overrides)
    broken, run = start("broken", *overrides)
    assert whole(ranks=2)["codes"] == [0, 0]
    result = broken(ranks=2, kill={"event": "step", "count": 8})  # of 4 steps an epoch; saved at 3 and 6
    assert result["codes"][1] == -9 and result["codes"][0] == 2, result["output"]
    advice = "another one has ended; see its message, then continue with: torchrun --nproc-per-node 2 train.py"
    assert advice in result["output"]
    assert result["seconds"] < 60 and "Traceback" not in result["output"]
    result = broken("--resume", ranks=2)
    assert result["codes"] == [0, 0] and "resuming from" in result["output"]
    assert_same(run, reference)


@posix
def test_two_processes_are_followed_by_one_and_by_three(start):
    """One process with twice the accumulation continues the losses of two as if they had not been killed."""
    overrides = ["train.gradient_accumulation_steps=2"]
    whole, reference = start("whole", *overrides)
    assert whole()["codes"] == [0]
    two, run = start("two", "train.gradient_accumulation_steps=1")
    assert two(ranks=2, kill={"event": "step", "count": 8})["codes"][1] == -9
    result = two("--resume", "train.gradient_accumulation_steps=2")
    assert result["codes"] == [0], result["output"]
    wanted, found = losses(state_of(reference, 12)), losses(state_of(run, 12))
    assert wanted.keys() == found.keys()
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, rel=1e-5 if key[1] != "grad_norm" else 1e-3), key

    two, run = start("three", "train.gradient_accumulation_steps=1")
    assert two(ranks=2, kill={"event": "step", "count": 8})["codes"][1] == -9
    progress = json.loads((run / "checkpoint-6" / "progress.json").read_text(encoding="utf-8"))
    assert (progress["epoch"], progress["batches"]) == (1, 4) and len(progress["losses"]) == 2
    result = two("--resume", ranks=3)
    assert result["codes"] == [0, 0, 0], result["output"]
    last = max(run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert last.name == "checkpoint-10"  # 6, one for the 3 batches left in epoch 1, three for the 7 of epoch 2
    progress = json.loads((last / "progress.json").read_text(encoding="utf-8"))
    assert (progress["epoch"], progress["batches"]) == (3, 0)


BUSY_TO_THE_END = """
import torch, torch.distributed as group
from training.distributed import leave_together
group.init_process_group("gloo")
for _ in range(50):
    group.all_reduce(torch.ones(1000), async_op=True)
leave_together()
"""


@posix
def test_processes_exit_cleanly_while_gloo_threads_hold_tensors():
    """Without leaving together nine of ten such pairs are aborted, pytorch's PR 179291."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    ranks = ({**os.environ, **address, "RANK": str(rank)} for rank in range(2))
    command = [sys.executable, "-c", BUSY_TO_THE_END]
    processes = [subprocess.Popen(command, cwd=REPO, env=env, stderr=subprocess.PIPE) for env in ranks]
    errors = [process.communicate(timeout=120)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors


# ---------------------------------------------------------------------------------------------- launchers

ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch"]


@pytest.fixture
def launched(monkeypatch):
    """What ``accelerate launch`` of a file would start: torchrun's arguments and the environment."""

    def launch(file: str, *flags: str) -> tuple[argparse.Namespace, dict[str, str]]:
        from accelerate.commands.launch import launch_command, launch_command_parser

        started = []
        monkeypatch.setattr("torch.distributed.run.run", lambda args: started.append((args, dict(os.environ))))
        monkeypatch.setattr("accelerate.utils.launch.is_port_in_use", lambda port: False)
        command = ["--config_file", f"configs/accelerate/{file}.yaml", *flags, "train.py", "--config", "run.yaml"]
        launch_command(launch_command_parser().parse_args(command))
        return started[0]

    monkeypatch.chdir(REPO)
    return launch


@pytest.mark.parametrize(
    ("file", "flags", "processes"),
    [("cpu", [], 2), ("ddp", [], 8), ("ddp", ["--num_processes", "4"], 4), ("fsdp", [], 8)],
)
def test_accelerates_files_start_as_many_processes_as_they_say(launched, file, flags, processes):
    args, environment = launched(file, *flags)
    assert (args.nproc_per_node, args.training_script) == (str(processes), "train.py")
    assert args.training_script_args == ["--config", "run.yaml"]
    assert environment["ACCELERATE_MIXED_PRECISION"] == "no"  # else it would overrule train.bf16
    assert environment.get("ACCELERATE_USE_FSDP") == ("true" if file == "fsdp" else None)


def test_the_file_for_two_machines_starts_half_the_processes_on_each(launched):
    for machine in ("0", "1"):
        args, _ = launched("two_machines", "--main_process_ip", "127.0.0.1", "--machine_rank", machine)
        assert (args.nproc_per_node, args.nnodes, args.node_rank) == ("8", "2", int(machine))
        assert args.rdzv_endpoint == "127.0.0.1:29500"


def test_the_file_for_fsdp_is_what_training_takes(launched, monkeypatch, make_config):
    _, environment = launched("fsdp")
    for name in [name for name in environment if name.startswith("FSDP_")]:
        monkeypatch.setenv(name, environment[name])
    monkeypatch.setenv("WORLD_SIZE", "8")
    sharded.require_fit(make_config("language.train=full"))
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.reshard_after_forward is True and plugin.auto_wrap_policy is transformer_auto_wrap_policy
    assert plugin.transformer_cls_names_to_wrap is None  # left to the model, which knows its own


def test_accelerate_launches_fsdp(make_config, tmp_path):
    config = make_config("language.train=full", "train.max_steps=2")
    save_config(config, tmp_path / "run.yaml")
    flags = ["--config_file", "configs/accelerate/fsdp.yaml", "--num_processes", "2", "--main_process_port", "0"]
    command = [*ACCELERATE, *flags, "train.py", "--config", str(tmp_path / "run.yaml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    assert "of 2 processes (FSDP)" in result.stdout and "done: 2 steps" in result.stdout
    assert newest_undamaged(Path(config.train.output) / "test").name == "checkpoint-2"


@pytest.mark.skipif(not os.environ.get("VLM_SOAK"), reason="starting a launcher takes long; `make soak` does")
@pytest.mark.parametrize("launcher", ["torchrun", "cpu", "fsdp"])
def test_a_launcher_starts_it_and_ends_it_when_one_process_is_killed(make_config, tmp_path, launcher):
    part = "language.train=" + ("full" if launcher == "fsdp" else "lora")
    config = make_config(*OPTIONS, part, "train.num_train_epochs=2000", pictures=9, conversations=conversations(9))
    file = tmp_path / "run.yaml"
    save_config(config, file)
    port = str(free_port())
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]
    if launcher != "torchrun":
        flags = ["--config_file", f"configs/accelerate/{launcher}.yaml", "--num_processes", "2"]
        command = [*ACCELERATE, *flags, "--main_process_port", port]
    command += ["train.py", "--config", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, cwd=REPO, env=environment, stderr=subprocess.STDOUT, stdout=subprocess.PIPE)
    try:
        run, end = Path(config.train.output) / "test", time.monotonic() + 240
        while not (run / "checkpoint-6").exists():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.2)
        children = training_children(process.pid)
        assert len(children) == 2
        os.kill(children[-1], signal.SIGKILL)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode != 0 and newest_undamaged(run) is not None, output.decode()[-2000:]


def training_children(parent: int) -> list[int]:
    """The processes below ``parent`` that run train.py themselves."""
    tree = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            tree[int(entry.parent.name)] = int(entry.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue  # it has ended
    below = [pid for pid in tree if pid != parent and parent in ancestors(pid, tree)]
    return sorted(pid for pid in below if pid not in tree.values())


def ancestors(pid: int, tree: dict[int, int]) -> list[int]:
    found = []
    while pid in tree and len(found) < 50:
        pid = tree[pid]
        found.append(pid)
    return found


@posix
def test_evaluation_shared_by_two_processes_is_that_of_one(checkpoint, tmp_path):
    results = []
    for ranks in (1, 2):
        output = tmp_path / f"{ranks}.json"
        arguments = ("--checkpoint", str(checkpoint), "--split", "train", "--output", str(output), "--device", "cpu")
        result = forks().run(
            *arguments, "generate.batch_size=2", script="evaluate", log=tmp_path / f"{ranks}.log", ranks=ranks
        )
        assert result["codes"] == [0] * ranks, result["output"]
        assert result["output"].count("Every prediction is in") == 1
        results.append({k: v for k, v in json.loads(output.read_text(encoding="utf-8")).items() if k != "seconds"})
    assert results[0] == results[1] and results[0]["answered"] == 10
