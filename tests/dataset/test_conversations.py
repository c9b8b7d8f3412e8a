"""Reading what process_image.py wrote."""

from __future__ import annotations

import json

import pytest

from common.errors import UserError
from dataset.conversations import checked
from tests.helpers.conversations import conversation


def test_files_of_different_runs_are_noticed(open_dataset, tmp_path):
    with pytest.raises(UserError, match="1 images that .* lacks .*run process_image.py again"):
        open_dataset(conversations={"77": [conversation(("x", "y"))]})


def test_splits_share_no_conversation(open_dataset):
    train, validation = open_dataset(), open_dataset(split="validation")
    assert (len(train), len(validation)) == (5, 1)
    assert {name for name, _ in train.conversations}.isdisjoint(name for name, _ in validation.conversations)


def test_data_order_follows_the_annotation_file(open_dataset, tmp_path):
    dataset = open_dataset()
    annotations = json.loads((tmp_path / "annotations.json").read_text(encoding="utf-8"))
    assert [name for name, _ in dataset.conversations] == [f"{key}/0" for key in annotations][:5]


@pytest.mark.parametrize(
    "wrong",
    [
        {"turns": []},
        {"turns": [{"q": 3, "a": ["x"]}]},
        {"turns": [{"q": "x", "a": "y"}]},
        {"turns": [{"q": "x", "a": []}]},
        {"turns": [{"q": "x"}]},
        {"turns": [{"q": "x", "a": ["y"]}], "images": ["0"]},
        {"turns": [{"q": "x", "a": ["y"]}], "images": [True]},
        {},
    ],
)
def test_what_process_image_does_not_write_is_refused(wrong, open_dataset):
    with pytest.raises((TypeError, LookupError)):
        checked(wrong)
    with pytest.raises(UserError, match="cannot be read as what process_image.py writes .*; run it again"):
        open_dataset(conversations={"0": [{"split": "train", **wrong}]})
