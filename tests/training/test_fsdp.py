"""FSDP: processes that share one model have the losses of a single process, and any number of them resumes."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from safetensors.torch import load_file

from common.errors import UserError
from model.checkpoint import load_checkpoint
from tests.helpers.runs import assert_same, last_state, losses, runs_of
from tests.helpers.tiny import save_qwen3
from training import fsdp as sharded
from training.setup import build_loop

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX processes")

OPTIONS = [
    "language.train=full",
    "train.max_steps=-1",
    "train.num_train_epochs=2",
    "train.per_device_train_batch_size=1",
    "train.save_steps=3",
    "train.eval_strategy=steps",
    "train.eval_steps=3",
    "train.load_best_model_at_end=true",
    "data.progress=false",
]
TEXT = [
    {"source": "test", "language": "en", "split": "train", "turns": [{"q": f"Is {n} even?", "a": ["yes", "no"]}]}
    for n in range(3)
]


@pytest.fixture
def start(make_config, tmp_path):
    return runs_of(make_config, tmp_path, OPTIONS)


def assert_close(run: Path, reference: Path, rel: float) -> None:
    """The log to ``rel`` (gradient norms to 100 times that), weights and moments to what Adam makes of it."""
    (_, found, rest), (_, wanted, wanted_rest) = last_state(run), last_state(reference)
    curve, expected = (losses({"log_history": one["log"]}) for one in (rest, wanted_rest))
    assert curve.keys() == expected.keys() and curve
    for key, value in expected.items():
        assert curve[key] == pytest.approx(value, rel=rel * (100 if key[1] == "grad_norm" else 1)), key
    for name in (name for name in wanted if not name.startswith("random")):
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-3, atol=1e-4)


def test_two_processes_learn_what_one_with_twice_the_accumulation_learns(start):
    one, alone = start("one", "train.gradient_accumulation_steps=2")
    two, shared = start("two", "train.fsdp=true")
    whole = one()
    assert whole["codes"] == [0]
    result = two(ranks=2)
    assert result["codes"] == [0, 0], result["output"]
    parts = re.findall(r"of +([\d,]+) parameters trained", whole["output"])
    (shares,) = re.findall(r"sharded +([\d,]+) of ([\d,]+) parameters", result["output"])
    own, total = (int(number.replace(",", "")) for number in shares)
    assert total == sum(int(number.replace(",", "")) for number in parts) and 0.5 <= own / total < 0.51
    assert_close(shared, alone, rel=1e-6)


def test_so_do_tied_embeddings_a_trained_tower_recomputed_activations_and_batches_without_an_image(
    make_config, tmp_path
):
    qwen = save_qwen3(tmp_path / "qwen3", tie_word_embeddings=True)
    more = [f"language.path={qwen}", "vision.train=full", "train.gradient_checkpointing=true"]
    # The features of plain pictures hardly differ: made 100 times as large, their rounding moved a bias by 1.03e-4.
    more += ["projector.standardize=false"]
    start = runs_of(make_config, tmp_path, [*OPTIONS, *more], {"text": TEXT})
    one, alone = start("one", "train.gradient_accumulation_steps=4")
    two, shared = start("two", "train.gradient_accumulation_steps=2", "train.fsdp=true")
    assert one()["codes"] == [0]
    result = two(ranks=2)
    assert result["codes"] == [0, 0], result["output"]
    assert_close(shared, alone, rel=1e-6)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("language.train=lora", "language.train is lora, which needs no shards"),
        ("vision.train=lora", "vision.train is lora, which needs no shards"),
        ("train.optim=paged_adamw_8bit", "use adamw_torch"),
        ("train.torch_compile=true", "train.torch_compile does not go with FSDP"),
    ],
)
def test_what_does_not_go_with_it_is_refused(make_config, monkeypatch, override, message):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match=message):
        build_loop(make_config("language.train=full", override), Path("never"))


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("FSDP_VERSION", "1", "fsdp_version is 1, and only 2 can be used"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "fsdp_activation_checkpointing is true, and only false can be used"),
        (
            "FSDP_CPU_RAM_EFFICIENT_LOADING",
            "true",
            "fsdp_cpu_ram_efficient_loading is true, and only false can be used",
        ),
    ],
)
def test_what_accelerate_launch_asks_for_must_be_what_we_have(make_config, monkeypatch, variable, value, message):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=message):
        build_loop(make_config("language.train=full"), Path("never"))


@pytest.mark.skipif(not os.environ.get("VLM_SOAK"), reason="make soak: three processes for each kind, half a minute")
@pytest.mark.parametrize(
    "settings",
    [
        ("linear",),
        ("pool", "projector.pool=2", "vision.drop_first_token=false", "vision.image_context_length=4"),
        ("resampler", "projector.queries=4", "vision.image_context_length=4"),
        ("qformer", "projector.queries=4", "projector.layers=2", "vision.image_context_length=4"),
    ],
    ids=lambda settings: settings[0],
)
def test_so_does_each_connector(make_config, tmp_path, settings):
    kind, *more = settings
    start = runs_of(make_config, tmp_path, [*OPTIONS, f"projector.kind={kind}", *more])
    one, alone = start("one", "train.gradient_accumulation_steps=4")
    two, shared = start("two", "train.gradient_accumulation_steps=2", "train.fsdp=true")
    assert one()["codes"] == [0]
    result = two(ranks=2)
    assert result["codes"] == [0, 0], result["output"]
    if kind != "qformer":  # a Q-Former drops out a tenth, and each process draws its own
        assert_close(shared, alone, rel=1e-5)


@pytest.mark.skipif(not os.environ.get("VLM_SOAK"), reason="make soak: three processes, half a minute")
def test_so_does_cross_attention_in_batches_without_an_image(make_config, tmp_path):
    more = ["projector.kind=cross_attention", "projector.every=1", "vision.image_context_length=1"]
    more += ["train.gradient_checkpointing=true", "projector.standardize=false"]
    start = runs_of(make_config, tmp_path, [*OPTIONS, *more], {"text": TEXT})
    one, alone = start("one", "train.gradient_accumulation_steps=4")
    two, shared = start("two", "train.gradient_accumulation_steps=2", "train.fsdp=true")
    assert one()["codes"] == [0]
    result = two(ranks=2)
    assert result["codes"] == [0, 0], result["output"]
    assert_close(shared, alone, rel=1e-5)


def test_one_process_alone_is_refused(make_config):
    with pytest.raises(UserError, match="only one process; start several"):
        build_loop(make_config("language.train=full", "train.fsdp=true"), Path("never"))


def test_bf16_rounds_neither_the_loss_nor_the_sum_of_gradients():
    accelerator = SimpleNamespace(state=SimpleNamespace())
    sharded.prepare(accelerator, FullyShardedDataParallelPlugin(fsdp_version=2), torch.bfloat16)
    policy = accelerator.state.fsdp_plugin.mixed_precision_policy
    assert (policy.param_dtype, policy.reduce_dtype, policy.output_dtype) == (torch.bfloat16, torch.float32, None)


def test_shared_or_alone_any_number_of_processes_goes_on_from_a_checkpoint(start):
    """Two are killed in the second epoch and end bit-equal; one continues them to 1e-5, and three finish the run."""
    two, reference = start("two", "train.fsdp=true")
    assert two(ranks=2)["codes"] == [0, 0]
    broken, run = start("broken", "train.fsdp=true")
    result = broken(ranks=2, kill={"event": "step", "count": 8})
    assert result["codes"][1] == -9 and result["codes"][0] == 2, result["output"]
    advice = "another one has ended; see its message, then continue with: torchrun --nproc-per-node 2 train.py"
    assert advice in result["output"]
    assert result["seconds"] < 60 and "Traceback" not in result["output"]
    shutil.copytree(run, run.with_name("three"))
    shutil.copytree(run, run.with_name("alone"))
    assert broken("--resume", ranks=2)["codes"] == [0, 0]
    assert_same(run, reference)

    alone, run = start("alone", "train.gradient_accumulation_steps=2")
    result = alone("--resume")
    assert result["codes"] == [0] and "resuming from" in result["output"], result["output"]
    assert_close(run, reference, rel=1e-5)

    three, run = start("three", "train.fsdp=true")
    result = three("--resume", ranks=3)
    assert result["codes"] == [0, 0, 0] and "resuming from" in result["output"], result["output"]
    assert last_state(run)[0] == "checkpoint-7"  # 6, and one for the 3 batches of 7 that are left

    saved = load_file(reference / "checkpoint-8" / "language" / "model.safetensors")
    model = load_checkpoint(reference / "checkpoint-8")[0]
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.language.state_dict().items())
