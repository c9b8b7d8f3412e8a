"""Reading what process_image.py wrote."""

from __future__ import annotations

import json

import pytest

from common.errors import UserError
from dataset.conversations import checked, count_pictures, describe_pictures
from settings import Source
from tests.helpers.conversations import conversation


def test_files_of_different_runs_are_noticed(open_dataset, tmp_path):
    with pytest.raises(UserError, match="1 images that .* lacks .*run process_image.py again"):
        open_dataset(conversations={"77": [conversation(("x", "y"))]})


def source(name: str) -> Source:
    return Source(name=name, format="llava", annotations=["a.json"], images=["photos"])


def test_a_source_whose_conversations_show_no_picture_is_named_loudly():
    talks = [{"source": name, "images": images} for name, images in (("a", [3]), ("a", []), ("b", []), ("b", []))]
    counts = count_pictures(talks)
    assert counts == {"a": (1, 1), "b": (0, 2)}
    first, *others = describe_pictures(counts, [source("a"), source("b"), source("unused")])
    assert first == "pictures  1 conversations show pictures, 3 show none"
    assert [line.partition(" shows a picture")[0] for line in others] == [
        "WARNING: none of the 2 conversations of source b"
    ]


def test_training_without_any_picture_is_said_loudly_where_no_source_is_named():
    """A stream has no sources in the config."""
    assert describe_pictures(count_pictures([{"images": []}, {"images": [1]}]), [])[1:] == []
    (line,) = describe_pictures(count_pictures([{"images": []}]), [])[1:]
    assert line.startswith("WARNING: no conversation shows a picture")


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
        {"turns": [{"q": "x", "a": ["y"]}], "system": 3},
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
