"""The fault that made real runs blind, seen without a real model: a planted component hides the pictures from a plain
projector, and not from a standardised one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import sight
from dataset.preparing.run import prepare
from demo.scenes import write_raw
from settings import load_config

REPO = Path(__file__).resolve().parent.parent.parent


def test_samples_to_sight_are_the_pictures_of_the_first_gap_that_is_surely_above_a_tenth():
    evaluations = [
        {"images": 100, "eval_gap": 0.09, "eval_gap_error": 0.001},
        {"images": 200, "eval_gap": 0.30, "eval_gap_error": 0.11},
        {"images": 300, "eval_gap": 0.30, "eval_gap_error": 0.09},
        {"images": 400, "eval_gap": 0.50, "eval_gap_error": 0.01},
    ]
    assert sight.samples_to_sight(evaluations) == 300
    assert sight.samples_to_sight(evaluations[:2]) is None


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[str]:
    """Overrides of demo.yaml with 240 training pictures of the demo's kind."""
    folder = tmp_path_factory.mktemp("sight")
    write_raw(folder / "raw", train=240, validation=24, test=4, progress=False)
    overrides = [f"data.{name}={folder / name}.json" for name in ("image_map", "annotations", "skipped")]
    overrides += [f"data.{name}={folder}/raw/{name}.txt" for name in ("validation", "test")]
    for number, form in enumerate(("ali", "coco")):
        raw = folder / "raw"
        names = {"ali": "ali_annotations", "coco": "coco_conversations"}
        overrides.append(f"data.sources.{number}.annotations={raw / names[form]}.json")
        overrides.append(f"data.sources.{number}.images={raw / form}_images")
    overrides += [f"vision.path={REPO}/demo/backbones/siglip", f"language.path={REPO}/demo/backbones/qwen"]
    prepare(load_config(REPO / "demo.yaml", [*overrides, "data.progress=false"]))
    return overrides


def test_a_planted_component_blinds_a_plain_projector_and_not_a_standardised_one(
    pictures, monkeypatch, tmp_path, capsys
):
    output = tmp_path / "sight.json"
    arguments = ["sight", "--config", str(REPO / "demo.yaml"), "--plant", "--seeds", "1", "--pictures", "240"]
    arguments += [
        "--recipes",
        "plain, 1 x",
        "standardised, 1 x",
        "--output",
        str(output),
        *pictures,
        "train.eval_questions=0",
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    sight.main()
    plain, standardised = json.loads(output.read_text(encoding="utf-8"))["rows"]
    blind, seeing = plain["evaluations"][-1], standardised["evaluations"][-1]
    assert blind["images"] == seeing["images"] == 240
    assert seeing["eval_gap"] > 3 * max(blind["eval_gap"], 0) and seeing["eval_gap"] > 4 * seeing["eval_gap_error"]
    assert "standardised, 1 x: gap" in capsys.readouterr().out
