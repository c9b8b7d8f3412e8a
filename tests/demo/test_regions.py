"""The demo's boxes: they are where the objects are drawn, and a name means one object."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from dataset.converters import FORMATS
from dataset.converters.base import File
from demo.regions import box_of, name_of, records, write_regions
from demo.scenes import SHAPES, Thing, arrange, drawn_scenes, render


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", ["small", "large"])
def test_a_box_is_around_the_pixels_of_its_object(shape, size):
    scene = (Thing(shape, "blue", size, "center"),)
    picture = np.asarray(render(scene, random.Random(5))).astype(int)  # [112, 112, 3]
    _, (placed,) = arrange(scene, random.Random(5))
    drawn = np.abs(picture - picture[0, 0]).sum(2) > 60
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    assert np.abs(found - box_of(placed)).max() <= 1.5  # edges are half covered pixels, and a tip may be thinner


def test_a_name_means_one_object():
    circle, other = Thing("circle", "red", "small", "center"), Thing("circle", "blue", "small", "top left")
    names = {name_of(circle, [other], False, random.Random(seed)) for seed in range(20)}
    assert names == {"the red object", "the red circle"}
    assert {name_of(circle, [other], True, random.Random(seed)) for seed in range(20)} == {"红色的图形", "红色的圆形"}
    assert name_of(circle, [], False, random.Random(1)) in ("the circle", "the red object")
    alike = [arrange((circle, Thing("circle", "red", "large", "top left")), random.Random(0))[1]]
    assert len(records("a.png", alike[0], "en", random.Random(0))) == 1  # nothing asks for one of two red circles


def test_the_questions_are_of_the_pictures_that_the_demo_draws(tmp_path):
    write_regions(tmp_path, train=6, validation=2, test=2)
    scenes = {name: scene for _, _, name, scene, _ in drawn_scenes({"train": 6, "validation": 2, "test": 2}, 0)}
    for file in ("regions_zh.json", "regions_en.json"):
        content = json.loads((tmp_path / file).read_text(encoding="utf-8"))
        assert {record["image"] for record in content} <= scenes.keys() and len(content) >= 5
        examples = [FORMATS["llava"].example(record) for record in FORMATS["llava"].read(File(tmp_path / file))]
        assert all(example.messages[0].text.startswith("<image>\n") for example in examples)
    first = (tmp_path / "regions_en.json").read_bytes()
    write_regions(tmp_path, train=6, validation=2, test=2)
    assert (tmp_path / "regions_en.json").read_bytes() == first
