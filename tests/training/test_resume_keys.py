"""What a changed key means on --resume, through the command line: one test for each row of training/resume.py.

All of them resume the same checkpoint, of step 2 of 4, each in a copy of its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from settings import save_config
from tests.conftest import write_config
from tests.helpers.forked import forks
from tests.helpers.runs import conversations
from tests.helpers.tiny import REPO, save_qwen, save_siglip
from training.resume import RESUME_RULES, STREAM_RULE, Rule

SETTINGS = [
    "train.max_steps=4",
    "train.save_steps=2",
    "train.per_device_train_batch_size=2",
    "train.learning_rate=1e-2",
    "projector.learning_rate=2e-2",
    "data.progress=false",
]
FACTORS = {3: 0.5, 4: 0.25}  # of the linear schedule over four steps


@pytest.fixture(scope="module")
def trained(tmp_path_factory, siglip_folder, qwen_folder) -> Path:
    """A folder with config.yaml and a run of four steps, of which the checkpoint of step 2 is kept."""
    folder = tmp_path_factory.mktemp("trained")
    config = write_config(folder, siglip_folder, qwen_folder, SETTINGS, pictures=9, conversations=conversations(9))
    save_config(config, folder / "config.yaml")
    result = forks().run("--config", str(folder / "config.yaml"), log=folder / "log")
    assert result["codes"] == [0], result["output"]
    shutil.rmtree(folder / "checkpoints" / "test" / "checkpoint-4")
    return folder


class Resumed:
    """What a resumed run printed and left."""

    def __init__(self, result: dict, run: Path) -> None:
        self.code, self.stdout, self.stderr = result["codes"][0], result["stdout"], result["stderr"]
        self.run = run

    def checkpoint(self) -> Path:
        return max(self.run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))

    def config(self) -> dict:
        return yaml.safe_load((self.checkpoint() / "config.yaml").read_text(encoding="utf-8"))

    def group(self) -> dict:
        """The first of the optimiser's groups: matrices of the language model."""
        return json.loads((self.checkpoint() / "optimizer.json").read_text(encoding="utf-8"))["groups"][0]

    def log(self, key: str) -> dict[int, float]:
        """The values of a key after step 2, by step."""
        entries = map(json.loads, (self.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        return {entry["step"]: entry[key] for entry in entries if key in entry and entry["step"] > 2}


@pytest.fixture
def resume(trained, tmp_path) -> Callable[..., Resumed]:
    def go(*changes: str) -> Resumed:
        shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints")
        arguments = ["--config", str(trained / "config.yaml"), "--resume", f"train.output={tmp_path}/checkpoints"]
        result = forks().run(*arguments, *changes, log=tmp_path / "log")
        return Resumed(result, tmp_path / "checkpoints" / "test")

    return go


@pytest.fixture
def applied(resume) -> Callable[..., Resumed]:
    """Resume to the end; each change is printed."""

    def go(*changes: str) -> Resumed:
        run = resume(*changes)
        assert run.code == 0 and not [line for line in run.stderr.splitlines() if "error" in line], run.stderr
        printed = [line for line in run.stdout.splitlines() if line.startswith("changed   ")]
        assert {line.split()[1].rstrip(":") for line in printed} >= {change.partition("=")[0] for change in changes}
        return run

    return go


# ---------------------------------------------------------------------------------------------- what applies


def test_learning_rates_apply_from_the_next_step_on_and_are_saved(applied):
    run = applied("train.learning_rate=1e-4", "projector.learning_rate=null", "language.learning_rate=3e-4")
    assert run.log("learning_rate") == pytest.approx({step: 3e-4 * factor for step, factor in FACTORS.items()})
    config = run.config()
    rates = [config["train"], config["projector"], config["language"]]
    assert [section["learning_rate"] for section in rates] == [1e-4, None, 3e-4]


def test_a_schedule_is_computed_again_and_the_run_keeps_its_step_in_it(applied):
    run = applied("train.lr_scheduler_type=polynomial", "train.lr_scheduler_kwargs={power: 2, lr_end: 0}")
    assert run.log("learning_rate") == pytest.approx({step: 1e-2 * factor**2 for step, factor in FACTORS.items()})
    assert run.config()["train"]["lr_scheduler_type"] == "polynomial"


def test_warm_up_steps_apply(applied):
    assert applied("train.warmup_steps=4").log("learning_rate") == pytest.approx({3: 5e-3, 4: 7.5e-3})


def test_the_run_and_its_schedule_end_at_the_new_number_of_steps(applied):
    run = applied("train.max_steps=6")
    assert run.checkpoint().name == "checkpoint-6"
    assert run.log("learning_rate") == pytest.approx({step: 1e-2 * (7 - step) / 6 for step in (3, 4, 5, 6)})


def test_epochs_take_the_place_of_steps(applied):
    """Seven samples in batches of two are four steps an epoch."""
    run = applied("train.max_steps=null", "train.num_train_epochs=2")
    assert run.checkpoint().name == "checkpoint-8" and run.log("epoch")[8] == 2


def test_decay_and_betas_apply(applied):
    group = applied("train.weight_decay=0.1", "train.adam_beta2=0.95", "train.max_grad_norm=null").group()
    assert group["weight_decay"] == 0.1 and group["betas"] == [0.9, 0.95]


def test_dropout_applies(applied):
    assert applied("lora.lora_dropout=0.5").config()["lora"]["lora_dropout"] == 0.5


def test_accumulation_applies_at_the_same_batch(applied):
    """Two of four batches were taken; a step of two ends the epoch."""
    run = applied("train.gradient_accumulation_steps=2", "train.max_steps=3")
    assert run.log("epoch") == {3: 1.0} and "of which samples may come twice" not in run.stderr


def test_another_batch_size_continues_at_the_same_share_of_the_epoch(applied):
    """Half of four batches, so half of seven; three more end the epoch."""
    run = applied("train.per_device_train_batch_size=1", "train.max_steps=5")
    assert "going on at 57 % of epoch 1" in run.stderr or "continuing at 57 % of epoch 1" in run.stderr
    assert run.log("epoch")[5] == 1.0


def test_other_data_continues_at_the_same_share_of_the_epoch(applied, trained, tmp_path):
    talks = json.loads((trained / "annotations.json").read_text(encoding="utf-8"))
    del talks["0"], talks["1"]
    (tmp_path / "fewer.json").write_text(json.dumps(talks), encoding="utf-8")
    run = applied(f"data.annotations={tmp_path}/fewer.json")
    assert "% of epoch 1" in run.stderr and run.checkpoint().name == "checkpoint-4"


def test_an_optimiser_that_keeps_the_same_states_may_follow(resume):
    run = resume("train.optim=adamw_torch")
    assert run.code == 0 and run.config()["train"]["optim"] == "adamw_torch", run.stderr


def test_logging_evaluating_and_saving_apply(applied):
    run = applied("train.logging_steps=2", "train.eval_strategy=steps", "train.eval_steps=1", "train.save_steps=3")
    assert list(run.log("loss")) == [4] and list(run.log("eval_loss")) == [3, 4]
    assert {path.name for path in run.run.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-3", "checkpoint-4"}


def test_where_and_how_fast_it_computes_applies_at_once(applied):
    run = applied("train.gradient_checkpointing=true", "train.dataloader_num_workers=1", "train.bf16=true")
    assert "bfloat16" in run.stdout


def test_a_base_model_may_have_moved(applied, qwen_folder, tmp_path):
    shutil.copytree(qwen_folder, tmp_path / "moved")
    assert applied(f"language.path={tmp_path}/moved").config()["language"]["path"] == f"{tmp_path}/moved"


def test_prompts_and_answers_apply(applied):
    run = applied("language.system=Hello.", "generate.max_new_tokens=3", "data.keep_all_captions=true")
    assert run.config()["language"]["system"] == "Hello."


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("train.optim=adamw_8bit", "was trained with adamw_torch_fused, and the moments of one optimiser mean nothing"),
        ("language.train=full", "was trained with lora, and other weights would be trained, which have no moments"),
        ("vision.train=full", "was trained with frozen, and other weights would be trained, which have no moments"),
        ("vision.layer=-2", "was trained with -1, and the weights of the checkpoint were trained on other visual tok"),
        ("projector.hidden_size=99", "was trained with null, and the checkpoint's projector has another form"),
        ("lora.lora_alpha=32", "was trained with 8, and it would rescale the trained adapters"),
        ("train.start_from=elsewhere", "was trained with null, and the run has begun; --resume takes its weights from"),
        ("lora.r=8", "was trained with 4, and the checkpoint's adapters have another shape or another start"),
    ],
)
def test_a_refused_key_is_one_line_with_both_values_and_the_reason_and_changes_nothing(resume, trained, change, line):
    run = resume(change)
    key, value = change.split("=")
    assert run.code == 2 and run.stderr.startswith(f"error: --resume: {key} = {value}, but checkpoint-2 {line}")
    assert run.stderr.count("\n") == 1 and run.stdout == ""  # before anything is loaded
    before, after = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (trained / "checkpoints" / "test", run.run)
    )
    assert before == after


@pytest.mark.parametrize("part", ["language", "vision"])
def test_another_base_model_is_refused_by_its_hash(resume, tmp_path, part):
    if part == "language":
        save_qwen(tmp_path / "other", rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    else:
        save_siglip(tmp_path / "other", width=32)
    run = resume(f"{part}.path={tmp_path}/other")
    assert run.code == 2 and f"{part}.path: {tmp_path}/other is not the model that " in run.stderr
    assert run.stderr.count("\n") == 1


def test_a_run_on_files_does_not_continue_on_a_stream(resume, tmp_path):
    (tmp_path / "a.tar").write_bytes(b"")
    run = resume(f"data.stream={tmp_path}/a.tar")
    assert run.code == 2 and "was trained without data.stream; set it as it was" in run.stderr


# ---------------------------------------------------------------------------------------------- the docs


def table(rules: tuple[Rule, ...]) -> list[str]:
    rows = []
    for rule in rules:
        keys = ", ".join(f"`{key}`" for key in rule.keys)
        rows.append(f"| {keys} | {'applies' if rule.applies else '**refused**'} | {rule.meaning} |")
    return rows


def test_the_docs_show_the_rules():
    lines = (REPO / "docs" / "training.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if "| applies |" in line or "| **refused** |" in line] == [
        *table(RESUME_RULES),
        *table((STREAM_RULE,)),
    ]


def test_the_chinese_docs_show_the_same_keys_with_the_same_verdict():
    def rows(name: str, applies: str, refused: str) -> list[tuple[str, bool]]:
        lines = (REPO / "docs" / name).read_text(encoding="utf-8").splitlines()
        cells = [line.split(" | ") for line in lines]
        return [(row[0], row[1] == applies) for row in cells if len(row) == 3 and row[1] in (applies, refused)]

    english = rows("training.md", "applies", "**refused**")
    assert english == rows("training.zh-CN.md", "生效", "**拒绝**") and len(english) == len(RESUME_RULES) + 1
