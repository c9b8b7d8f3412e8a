"""Which checkpoint is offered and opened, before torch is imported."""

from __future__ import annotations

import os
import re
import shutil

from answering.checkpoints import checkpoints_under, first_choice, is_demo


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
