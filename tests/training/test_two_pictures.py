"""Questions about two pictures, as NLVR2 has them: trained, and scored on pairs of which both pictures matter."""

from __future__ import annotations

import json

from evaluate import main as evaluate
from tests.helpers.runs import runs_of


def pair(first: int, second: int, split: str) -> dict:
    turns = [{"q": "<|extra_0|><|extra_0|>\nAre both the same?", "a": ["yes" if first == second else "no"]}]
    return {"source": "none", "language": "en", "split": split, "images": [first, second], "turns": turns}


def test_two_pictures_are_trained_and_evaluated(make_config, tmp_path):
    talks = {str(n): [pair(n, m, "validation" if n > 6 else "train") for m in (n, (n + 1) % 7)] for n in range(9)}
    prepare = runs_of(make_config, tmp_path, ["language.picture_numbers=true"], talks)
    run, folder = prepare("pairs")
    assert run()["codes"] == [0]
    output = tmp_path / "result.json"
    assert evaluate(["--checkpoint", str(folder), "--output", str(output), "--device", "cpu"]) == 0
    result = json.loads(output.read_text(encoding="utf-8"))
    assert result["answered"] == 4 and all(len(line["images"]) == 2 for line in result["predictions"])
    assert {len(line["baselines"]["other_picture"]["images"]) for line in result["predictions"]} == {2}
