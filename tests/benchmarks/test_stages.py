"""The presets of the stages, and their small copies on the demo's backbones."""

from __future__ import annotations

import json

import pytest
import yaml

from benchmarks.architectures import VARIANTS
from benchmarks.stages import PRESETS, RECIPES, load, run_recipe, stage_keys, write_data
from settings import load_config
from tests.conftest import write_data as write_pictures
from tests.helpers.tiny import REPO

NAMES = [stage.preset for stages in RECIPES.values() for stage in stages]


@pytest.fixture
def demo(tmp_path):
    """The demo's config with a few pictures."""
    captioned = {
        str(number): [
            {**{"source": "t", "language": "en", "split": "train"}, "turns": [{"q": f"<|extra_0|>\n{q}", "a": [a]}]}
            for q, a in (("Describe it.", f"There is a picture of colour {number}."), ("What number?", str(number)))
        ]
        for number in range(6)
    }
    write_pictures(tmp_path, 6, captioned)
    content = yaml.safe_load((REPO / "demo.yaml").read_text(encoding="utf-8"))
    content["data"] |= {name: str(tmp_path / f"{name}.json") for name in ("image_map", "annotations", "skipped")}
    for part, folder in (("vision", "siglip"), ("language", "qwen")):
        content[part]["path"] = str(REPO / "demo" / "backbones" / folder)
    content["train"]["use_cpu"] = True
    file = tmp_path / "demo.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_valid_says_what_it_does_and_starts_where_the_one_before_ended(name):
    file = PRESETS / f"{name}.yaml"
    config = load_config(file)
    text = file.read_text(encoding="utf-8")
    assert all(word in text for word in ("# Trains ", "# Data: ", " px", "# Card: ")) and config.train.run == name
    recipe, number = name.rsplit("-", 1)
    start = None if number == "1" else f"checkpoints/{recipe}-{int(number) - 1}"
    assert (config.train.start_from and config.train.start_from.as_posix()) == start
    assert {file.stem for file in PRESETS.glob("*.yaml")} == set(NAMES)


def test_the_data_of_the_stages_are_captions_questions_and_text(demo, tmp_path):
    files = write_data(load_config(demo), tmp_path)
    content = {kind: json.loads(file.read_text(encoding="utf-8")) for kind, file in files.items()}
    assert [talk["turns"][0]["a"] for talk in content["captions"]["3"]] == [["There is a picture of colour 3."]]
    assert [talk["turns"][0]["a"] for talk in content["instructions"]["3"]] == [["3"]]
    assert len(content["mixed"]["3"]) == 2 and content["dialogues"]["text"][0]["turns"][0]["q"] == "What is 0 and 0?"


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_recipe_trains_what_its_presets_say_one_stage_after_the_other(recipe, demo, tmp_path):
    data = write_data(load_config(demo), tmp_path)
    trained = []
    for loop, stage in run_recipe(str(demo), RECIPES[recipe], 1, 0, tmp_path / "runs", data):
        preset = load_config(PRESETS / f"{stage.preset}.yaml")
        assert loop.config.projector.kind == preset.projector.kind and loop.config.train.losses == preset.train.losses
        assert (loop.start is None) == (not trained)
        trained.append({part for part, (count, _) in loop.model.trainable_counts().items() if count})
    wanted = {
        "LLaVA": [{"projector"}, {"projector", "language"}],
        "Qwen-VL": [{"vision", "projector"}, {"vision", "projector", "language"}, {"projector", "language"}],
        "BLIP-2": [{"projector"}, {"projector"}],
    }
    assert trained == wanted[recipe]


def test_every_variant_is_a_valid_config(demo):
    for variant in VARIANTS.values():
        if variant.keys is not None:
            load(str(demo), variant.keys)
    for stages in RECIPES.values():
        for stage in stages:
            load(str(demo), stage_keys(stage, load_config(demo).data.annotations))
