"""Which checkpoint is offered and opened, before torch is imported."""

from __future__ import annotations

import os
import re
import shutil

import pytest

from answering.checkpoints import checkpoints_under, first_choice, is_demo, open_config
from common.errors import UserError


def test_checkpoints_are_listed_newest_first_and_a_demo_is_chosen_last(checkpoint, tmp_path):
    folder = tmp_path / "checkpoints"
    demo, cut_short = folder / "demo" / "checkpoint-9", folder / "test" / "checkpoint-2"
    shutil.copytree(checkpoint, demo)
    cut_short.mkdir()
    text = (demo / "config.yaml").read_text(encoding="utf-8")
    (demo / "config.yaml").write_text(re.sub(r"path: .*qwen.*", "path: demo/backbones/qwen", text), encoding="utf-8")
    os.utime(checkpoint / "manifest.json", (1, 1))
    assert checkpoints_under(folder) == [demo, checkpoint]
    assert is_demo(demo) and is_demo(demo.parent) and not is_demo(checkpoint)
    assert first_choice(folder) == checkpoint
    shutil.rmtree(checkpoint)
    assert first_choice(folder) == demo and first_choice(folder / "demo") is None


def test_the_config_of_a_checkpoint_or_a_run_is_read_with_overrides(checkpoint):
    for path in (checkpoint, checkpoint.parent):
        config = open_config(path, ["generate.max_new_tokens=3"])
        assert (config.train.run, config.generate.max_new_tokens) == ("test", 3)
    assert open_config(checkpoint).generate.max_new_tokens == 8
    with pytest.raises(UserError, match="nearest valid key: generate.batch_size"):
        open_config(checkpoint, ["generate.batchsize=4"])


def test_no_checkpoint_and_a_damaged_manifest_are_one_line(checkpoint, tmp_path):
    with pytest.raises(UserError, match="no checkpoint at"):
        open_config(tmp_path / "nowhere")
    (checkpoint / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="manifest.json"):
        open_config(checkpoint)


@pytest.mark.parametrize("file", ["manifest.json", "config.yaml"])
def test_of_a_run_a_damaged_checkpoint_is_passed_over(checkpoint, file):
    newer = checkpoint.with_name("checkpoint-2")
    shutil.copytree(checkpoint, newer)
    (newer / file).write_text("{}", encoding="utf-8")
    assert open_config(checkpoint.parent).train.run == "test"
    with pytest.raises(UserError, match=file):
        open_config(newer)
