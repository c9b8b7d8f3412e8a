"""The learnt blind floor on the demo, against the counted one. Half a minute, so `make soak` runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation.result import read_result

REPO = Path(__file__).resolve().parents[2]
BASES = [
    f"{part}.path={REPO / 'demo' / 'backbones' / name}" for part, name in (("vision", "siglip"), ("language", "qwen"))
]


def command(folder: Path, *arguments: str | Path) -> None:
    """Run a command of the repository in a folder of its own, so that the demo's paths are there."""
    environment = {**os.environ, "PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not os.environ.get("VLM_SOAK"), reason="half a minute; `make soak` does")
def test_words_alone_score_within_two_standard_errors_of_the_best_answer_per_question_text(tmp_path):
    config = ["--config", REPO / "demo.yaml", *BASES]
    command(tmp_path, "-m", "demo.scenes", "--output", "data/demo/raw")
    command(tmp_path, REPO / "process_image.py", *config)
    command(tmp_path, "-m", "baselines.train", "--model", "question", *config)
    command(tmp_path, REPO / "evaluate.py", "--checkpoint", "checkpoints/demo-question")
    result = read_result(tmp_path / "result.json")
    floor = result["comparisons"]["question_only"]
    assert floor["n"] == 2400 and result["looks_at_the_picture"] is False
    assert abs(floor["difference"]) <= 2 * floor["standard_error"], floor
