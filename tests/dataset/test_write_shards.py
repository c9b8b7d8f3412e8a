"""Shards of what process_image.py wrote."""

from __future__ import annotations

import json
import sys

import pytest

from dataset.shards import read_shard
from dataset.write_shards import main, write_shards
from settings import save_config
from tests.helpers.conversations import ask, conversation

TALKS = {
    "0": [conversation(ask("What?", "red")), conversation(ask("Where?", "here"))],
    "1": [conversation(("<|extra_0|><|extra_0|>\nAlike?", "no"), images=[1, 0])],
    "3": [conversation(ask("Who?", "我"), split="validation")],
    "text": [conversation(("1+1?", "2"))],
}


def test_a_record_is_an_image_or_several_with_all_its_conversations(make_config, tmp_path):
    config = make_config(pictures=4, conversations=TALKS)
    (tmp_path / "2.png").rename(tmp_path / "2.unknown")
    text = config.data.image_map.read_text(encoding="utf-8").replace("/2.png", "/2.unknown")
    config.data.image_map.write_text(text, encoding="utf-8")
    written = write_shards(config, tmp_path, 3)
    assert [path.name for path in written] == ["train-000000.tar", "train-000001.tar", "validation-000000.tar"]
    assert not list(tmp_path.glob("*.tmp"))
    train = [row for path in written[:2] for row in read_shard(path)]
    assert [list(row) for row in train] == [
        ["__key__", "0.png", "json"],
        ["__key__", "0.png", "1.png", "json"],
        ["__key__", "0.jpg", "json"],  # an extension that says nothing; the content decides
        ["__key__", "json"],
    ]
    assert [row["__key__"] for row in train] == [f"{number:09}" for number in range(4)]
    assert [json.loads(train[n]["json"]) for n in (0, 1, 3)] == [
        [{key: value for key, value in talk.items() if key != "images"} for talk in TALKS[name]]
        for name in ("0", "1", "text")
    ]
    pictures = [(tmp_path / name).read_bytes() for name in ("1.png", "0.png")]
    assert [train[1]["0.png"], train[1]["1.png"]] == pictures
    (validation,) = read_shard(written[2])
    assert json.loads(validation["json"])[0]["turns"][0]["a"] == ["我"]


def test_the_command_lists_what_it_wrote_and_a_mistake_is_one_line(make_config, tmp_path, monkeypatch, capsys):
    save_config(make_config(pictures=4, conversations=TALKS), tmp_path / "saved.yaml")
    command = ["write_shards", "--config", str(tmp_path / "saved.yaml"), "--output", str(tmp_path / "deep" / "out")]
    monkeypatch.setattr(sys, "argv", [*command, "--size", "2"])
    main()
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    shards = ["train-000000.tar", "train-000001.tar", "validation-000000.tar"]
    assert names == [str(tmp_path / "deep" / "out" / shard) for shard in shards]
    (tmp_path / "1.png").unlink()
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/1.png: No such file or directory\n"
    assert sorted(path.name for path in (tmp_path / "deep" / "out").iterdir()) == sorted(shards)


def test_boxes_are_refused_since_shards_would_lose_them(make_config, tmp_path, monkeypatch, capsys):
    save_config(make_config("data.sources.0.boxes=pixels", pictures=4, conversations=TALKS), tmp_path / "saved.yaml")
    command = ["write_shards", "--config", str(tmp_path / "saved.yaml"), "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err.startswith("error: data.sources: boxes cannot be written to shards")
