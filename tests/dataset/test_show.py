"""One sample as text."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from dataset.show import show_sample
from qwen.tokenizer import IMAGE_TOKEN
from tests.helpers.conversations import ask, conversation
from tests.helpers.tiny import REPO


def test_a_shown_sample_marks_supervised_tokens(open_dataset):
    dataset = open_dataset()
    text = show_sample(dataset, 0, color=False)
    assert f"user\n{IMAGE_TOKEN} x 8\nWhat color" in text
    assert "[0<|im_end|>]" in text and ("[red<|im_end|>]" in text or "[blue<|im_end|>]" in text)
    assert "\033[32m0<|im_end|>\033[0m" in show_sample(dataset, 0, color=True)


def test_branches_of_a_tree_are_separated(open_dataset):
    dataset = open_dataset(conversations={"0": [conversation(ask(f"{n}?", "red")) for n in range(2)]}, pictures=1)
    text = show_sample(dataset, 0, color=False)
    root, first, second = (part.strip() for part in re.split(r"-- branch \d:", text))
    assert root.endswith(f"{IMAGE_TOKEN} x 8") and first.startswith("0?") and second.startswith("1?")
    assert "[red<|im_end|>]" in first and "[red<|im_end|>]" in second and "[" not in root


@pytest.mark.parametrize(
    ("old", "new"), [("dataset.image_caption_dataset", "dataset.show"), ("dataset.streaming", "dataset.write_shards")]
)
def test_a_command_that_moved_names_its_successor(old, new):
    done = subprocess.run(
        [sys.executable, "-m", old, "--config", "demo.yaml"], cwd=REPO, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == f"error: this command is python -m {new} now, with the same options\n"
