"""The checkpoints of a run: which is used, which are deleted, and what a crash leaves."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from common.errors import UserError
from model.checkpoint import load_undamaged
from model.manifest import Damaged, read_manifest
from model.run_checkpoints import (
    checkpoints,
    choices_of,
    finalize,
    latest_checkpoint,
    newest_undamaged,
    prune,
    remove_stale,
    step_of,
    temp_dir,
)
from tests.helpers.models import build_with_batch, save
from tests.helpers.tiny import REPO


@pytest.fixture
def built(make_config):
    """(config, model, tokenizer, a batch of two rows) of a tiny LoRA run."""
    config = make_config()
    return (config, *build_with_batch(config))


def test_a_runs_folder_stands_for_its_best_checkpoint(tmp_path):
    for step in (2, 10, 30):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "manifest.json").write_text("{}")
        (folder / "trainer_state.json").write_text(json.dumps({"best_global_step": 2 if step > 2 else None}))
    (tmp_path / "checkpoint-30" / "manifest.json").unlink()  # a save that was cut short
    assert latest_checkpoint(tmp_path).name == "checkpoint-10"
    assert [folder.name for folder in choices_of(tmp_path)] == ["checkpoint-2", "checkpoint-10"]
    assert [folder.name for folder in choices_of(tmp_path / "checkpoint-10")] == ["checkpoint-10"]


def test_where_a_runs_best_checkpoint_is_damaged_another_answers_and_a_warning_says_so(built, tmp_path, caplog):
    config, model, *_ = built
    folders = [save(config, model, tmp_path / f"checkpoint-{step}") for step in (1, 2, 3)]
    (folders[2] / "config.yaml").write_text("data: {}", encoding="utf-8")
    (folders[1] / "projector.safetensors").unlink()
    folder, (restored, *_) = load_undamaged(tmp_path)
    assert folder == folders[0]
    assert torch.equal(*(m.projector.state_dict()["0.weight"] for m in (restored, model)))
    assert [record.getMessage().split(" is damaged")[0] for record in caplog.records] == [
        "checkpoint-3",
        "checkpoint-2",
    ]
    (folder / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(Damaged, match="checkpoint-1.*not what was saved"):
        load_undamaged(tmp_path)


# ---------------------------------------------------------------------------------------------- without a model


def make(run, *steps: int):
    """Folders that count as checkpoints of these steps."""
    for step in steps:
        folder = run / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "manifest.json").write_text("{}")


def names(run) -> list[str]:
    return sorted(path.name for path in run.iterdir())


def test_checkpoints_are_in_the_order_of_their_steps_and_nothing_else_counts(tmp_path):
    make(tmp_path, 100, 20, 3)
    for name in ("checkpoint-7", "checkpoint-x", ".checkpoint-9", "checkpoint-1-copy"):
        (tmp_path / name).mkdir()
    for name in ("checkpoint-x", ".checkpoint-9", "checkpoint-1-copy"):
        (tmp_path / name / "manifest.json").write_text("{}")
    assert [folder.name for folder in checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-20", "checkpoint-100"]
    assert step_of(tmp_path / "checkpoint-20") == 20
    assert latest_checkpoint(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("most", "best", "left"),
    [
        (None, None, [1, 2, 3, 4]),
        (2, None, [3, 4]),
        (2, "checkpoint-1", [1, 4]),
        (1, "checkpoint-1", [1, 4]),
        (1, "checkpoint-4", [4]),
        (9, "checkpoint-1", [1, 2, 3, 4]),
    ],
)
def test_the_oldest_are_deleted_but_never_the_newest_or_the_best(tmp_path, most, best, left):
    make(tmp_path, 1, 2, 3, 4)
    prune(tmp_path, most, best and str(tmp_path / best))
    assert names(tmp_path) == [f"checkpoint-{step}" for step in left]


def test_a_checkpoint_appears_when_it_is_complete(tmp_path):
    folder = tmp_path / "checkpoint-5"
    temporary = temp_dir(folder)
    (temporary / "weights").write_text("abc")
    assert names(tmp_path) == [".checkpoint-5.tmp"] and checkpoints(tmp_path) == []
    finalize(temporary, folder, {"base_models": {}, "step": 5})
    assert names(tmp_path) == ["checkpoint-5"] and newest_undamaged(tmp_path) == folder
    assert read_manifest(folder)["step"] == 5


def test_what_a_crash_left_is_not_part_of_the_next_save_and_can_be_removed(tmp_path):
    stale = temp_dir(tmp_path / "checkpoint-5")
    (stale / "old").write_text("half")
    assert list(temp_dir(tmp_path / "checkpoint-5").iterdir()) == []
    make(tmp_path, 4)
    (tmp_path / ".checkpoint-3.old").mkdir()
    remove_stale(tmp_path)
    assert names(tmp_path) == ["checkpoint-4"]


def test_a_runs_folder_that_is_gone_is_not_made_again(tmp_path):
    with pytest.raises(FileNotFoundError):
        temp_dir(tmp_path / "run" / "checkpoint-5")


def test_a_run_resumes_from_the_newest_undamaged_checkpoint(tmp_path, caplog):
    for step in (1, 2):
        folder = tmp_path / f"checkpoint-{step}"
        finalize(temp_dir(folder), folder, {"base_models": {}})
    (tmp_path / "checkpoint-2" / "manifest.json").write_text("{}")
    assert newest_undamaged(tmp_path) == tmp_path / "checkpoint-1"
    assert "checkpoint-2 is damaged" in caplog.text
    (tmp_path / "checkpoint-1" / "manifest.json").write_text("{}")
    assert newest_undamaged(tmp_path) is None


def test_a_run_without_a_checkpoint_is_one_line(tmp_path):
    with pytest.raises(UserError, match="holds no complete checkpoint; train one with train.py"):
        choices_of(tmp_path)


def test_they_are_found_without_torch():
    code = "import sys, model.run_checkpoints; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0
