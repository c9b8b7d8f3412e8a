"""The two worlds that test whether the backbones travel: right answers, nothing in common with the pretraining."""

from __future__ import annotations

import json
import random
from collections import Counter

import numpy as np
import pytest
import yaml

from demo import scenes
from demo.elsewhere import KITCHEN, SIGNS, WORLDS, Sight, draw_sight, questions, write_world
from settings import load_config

SIGN = Sight("heart", "teal", "hollow", "left")


def asked(world, sight, zh: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    for seed in range(300):
        for question, answer in questions(world, sight, zh, random.Random(seed)):
            assert found.setdefault(question, answer) == answer
    return found


def test_questions_have_the_answers_that_the_picture_gives():
    english, chinese = asked(SIGNS, SIGN, False), asked(SIGNS, SIGN, True)
    assert english["Name the symbol."] == "heart" and chinese["说出符号的名称。"] == "爱心"
    assert english["Which paint was used?"] == "teal" and chinese["用了哪种颜料？"] == "青色"
    assert english["Is the symbol filled or hollow?"] == "hollow" and chinese["符号靠哪边？"] == "左边"
    shows = "Does the board show a symbol like this: {}?"
    assert english[shows.format("teal heart")] == "yes" and english[shows.format("pink heart")] == "no"
    assert chinese["牌子上画的是青色爱心吗？"] == "是" and chinese["牌子上画的是青色箭头吗？"] == "不是"


def test_yes_and_no_are_equally_common():
    rng, said = random.Random(0), Counter()
    for _ in range(1500):
        sight = draw_sight(KITCHEN, rng, range(10))
        said.update(answer for _, answer in questions(KITCHEN, sight, False, rng)[-2:])
    assert set(said) == {"yes", "no"} and 0.46 < said["yes"] / said.total() < 0.54


@pytest.mark.parametrize("name", WORLDS)
def test_each_word_changes_the_picture_where_it_should(name):
    world = WORLDS[name]
    first = Sight(*(next(iter(table)) for table in world.words.values()))
    pixels = np.asarray(world.draw(first, random.Random(4))).astype(int)
    assert np.array_equal(pixels, np.asarray(world.draw(first, random.Random(4))))
    for attribute, table in world.words.items():
        for word in list(table)[1:]:
            other = Sight(**{**vars(first), attribute: word})
            moved = np.abs(np.asarray(world.draw(other, random.Random(4))).astype(int) - pixels).max(-1) > 25
            assert moved.mean() > 0.003, (attribute, word)


@pytest.mark.parametrize("name", WORLDS)
def test_no_combination_is_in_two_splits(name):
    rng = random.Random(1)
    drawn = {
        split: {draw_sight(WORLDS[name], rng, folds) for _ in range(300)} for split, folds in scenes.FOLDS_OF.items()
    }
    assert not drawn["test"] & drawn["train"] and not drawn["test"] & drawn["validation"]
    for sights in (drawn["train"], drawn["test"]):
        for attribute, table in WORLDS[name].words.items():
            assert {getattr(sight, attribute) for sight in sights} == set(table)


def test_the_commands_can_read_what_is_written(tmp_path):
    write_world("kitchen", tmp_path, train=8, validation=2, test=4)
    config = load_config(str(tmp_path / "config.yaml"), [])
    assert config.train.run == "kitchen" and config.train.max_steps == 2 and config.projector.align_steps == 300
    records = json.loads((tmp_path / "annotations.json").read_text(encoding="utf-8"))
    names = {record["image"] for record in records}
    assert names == {path.name for path in (tmp_path / "images").iterdir()} and len(names) == 14
    assert (tmp_path / "test.txt").read_text().split() == [f"test_{n:05d}.jpg" for n in range(4)]
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["language"]["path"] == "demo/backbones/qwen"


def test_the_worlds_share_no_word_with_each_other_or_with_the_demo():
    tables = [scenes.SHAPES, scenes.COLORS, scenes.SIZES]
    demo = {word for table in tables for pair in table.items() for word in pair}
    worlds = [
        {w for table in world.words.values() for pair in table.items() for w in pair} for world in WORLDS.values()
    ]
    assert not worlds[0] & worlds[1] and not (worlds[0] | worlds[1]) & demo
