"""The presets of configs/stages/, on the demo's pictures and backbones: each stage starts where the last one ended.

    python -m benchmarks.stages          # draw the demo's data and run process_image.py first, or: make stages

What a stage trains, its connector and its losses are read from its preset. The sizes, rates and data are the demo's:
captions are its descriptions, instructions its questions, and the text is small sums. A stage at 224 px is at 56 px
here, and one at 448 px at 112 px.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.common import clock
from model.model import quiet_libraries
from model.start_from import find_start
from settings import Config, load_config
from training.loop import Loop
from training.setup import build_loop
from training.throughput import Throughput

PRESETS = Path(__file__).resolve().parents[1] / "configs" / "stages"
SIZES = {  # of each kind of projector on the demo: 8 x 8 patches, and a language model of width 128 with 4 layers
    "linear": {},
    "mlp": {},
    "pool": {"projector.pool": 2, "vision.drop_first_token": False, "vision.image_context_length": 16},
    "resampler": {"projector.queries": 16, "vision.image_context_length": 16},
    "qformer": {
        **{"projector.queries": 16, "projector.layers": 4, "projector.hidden_size": 128},
        "vision.image_context_length": 16,
    },
    "cross_attention": {"projector.every": 2, "vision.image_context_length": 1},
}
# What a stage takes from its preset.
TAKEN = ("vision.train", "language.train", "projector.kind", "train.losses")
# Not tuned. Of a whole tower or language model a tenth of what its adapters take: at 3e-3 they forget what they knew.
FULL_RATE = 3e-4


@dataclass(frozen=True)
class Stage:
    """A run of the demo after a preset. ``data`` is captions, instructions, pictures (both),
    dialogues (instructions and text) or mixed (everything)."""

    preset: str
    data: str
    pixels: int = 112


RECIPES: dict[str, tuple[Stage, ...]] = {
    "LLaVA": (Stage("llava-1", "captions"), Stage("llava-2", "instructions")),
    "Qwen-VL": (
        Stage("qwen-vl-1", "captions", 56),
        Stage("qwen-vl-2", "mixed"),
        Stage("qwen-vl-3", "dialogues"),
    ),
    "BLIP-2": (Stage("blip2-1", "captions"), Stage("blip2-2", "pictures")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="of each stage (default: %(default)s)")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES), metavar="NAME")
    parser.add_argument("--config", default="demo.yaml", help="default: %(default)s")
    args = parser.parse_args()
    quiet_libraries()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = write_data(load_config(args.config), Path(folder))
        for recipe in args.recipes:
            for loop, stage in run_recipe(args.config, RECIPES[recipe], args.steps, 0, Path(folder) / recipe, data):
                rows.append(row_of(recipe, stage, loop))
                print(*[f"{value:>12}" for value in rows[-1].values()], flush=True)
    widths = {key: max(len(key), *(len(str(row[key])) for row in rows)) for key in rows[0]}
    print()
    for row in [dict(zip(widths, widths, strict=True)), *rows]:
        print("  ".join(str(value).rjust(widths[key]) for key, value in row.items()))


def run_recipe(
    config: str, stages: tuple[Stage, ...], steps: int, seed: int, folder: Path, data: dict[str, Path]
) -> Iterator[tuple[Loop, Stage]]:
    """Train the stages of a recipe, ``steps`` each, one from the last; their loops, when they have ended."""
    before: Path | None = None
    for stage in stages:
        keys = {**stage_keys(stage, data[stage.data]), "train.max_steps": steps, "train.seed": seed}
        loop = train(load(config, keys), folder / stage.preset, before)
        before = loop.run
        yield loop, stage


def stage_keys(stage: Stage, annotations: Path) -> dict[str, Any]:
    """The keys of the demo's config that a stage changes."""
    preset = yaml.safe_load((PRESETS / f"{stage.preset}.yaml").read_text(encoding="utf-8"))
    taken = {key: value for key in TAKEN if (value := _get(preset, key)) is not None}
    keys = {**taken, **SIZES[taken["projector.kind"]], "data.annotations": annotations.as_posix()}
    keys["vision.image_size"] = stage.pixels
    if taken.get("vision.train") == "full":
        keys["vision.learning_rate"] = FULL_RATE
    if taken["language.train"] == "full":
        keys["language.learning_rate"] = FULL_RATE
    return keys


def load(file: str, keys: dict[str, Any]) -> Config:
    """A config for a measurement: ``keys`` changed, nothing evaluated, saved once at the end."""
    quiet = {"eval_strategy": "no", "load_best_model_at_end": False, "save_strategy": "steps", "save_steps": 10**6}
    quiet |= {"eval_questions": 0, "logging_steps": 10}
    changed = {"data.progress": False, **{f"train.{key}": value for key, value in quiet.items()}, **keys}
    return load_config(file, [f"{key}={json.dumps(value)}" for key, value in changed.items()])


def train(config: Config, run: Path, start: Path | None = None) -> Loop:
    """Train a run to its end without what it prints; its loop."""
    config.train.start_from = start
    with contextlib.redirect_stdout(io.StringIO()):
        loop = build_loop(config, run, start=find_start(config))
        loop.throughput = Throughput(clock)
        loop.train()
    return loop


def write_data(config: Config, folder: Path) -> dict[str, Path]:
    """The demo's annotations by kind, each in a file of its own in ``folder``."""
    content = json.loads(config.data.annotations.read_text(encoding="utf-8"))
    captions: dict[str, list] = {}
    instructions: dict[str, list] = {}
    for image, talks in content.items():
        captions[image] = [talk for talk in talks if _is_caption(talk)]
        instructions[image] = [talk for talk in talks if not _is_caption(talk)]
    kinds = {
        "captions": captions,
        "instructions": instructions,
        "pictures": content,
        "mixed": {**content, "text": text_conversations()},
        "dialogues": {**instructions, "text": text_conversations()},
    }
    files = {kind: folder / f"{kind}.json" for kind in kinds}
    for kind, file in files.items():
        file.write_text(json.dumps(kinds[kind], ensure_ascii=False), encoding="utf-8")
    return files


def _is_caption(talk: dict[str, Any]) -> bool:
    """A description is the one answer with more than a few words."""
    answer = talk["turns"][0]["a"][0]
    return len(talk["turns"]) == 1 and len(answer) > 12


def text_conversations(most: int = 9) -> list[dict[str, Any]]:
    """Conversations without a picture."""
    return [
        {
            **{"source": "text", "language": "en", "split": "train"},
            "turns": [{"q": f"What is {one} and {other}?", "a": [str(one + other)]}],
        }
        for one in range(most)
        for other in range(most)
    ]


def row_of(recipe: str, stage: Stage, loop: Loop) -> dict[str, Any]:
    """A line of the table."""
    history = [entry for entry in loop.progress.log_history if "loss" in entry]
    counts = {part: trained for part, (trained, _) in loop.model.trainable_counts().items()}
    return {
        "recipe": recipe,
        "stage": stage.preset,
        "px": stage.pixels,
        "data": stage.data,
        **{part: f"{count:,}" for part, count in counts.items()},
        "first loss": f"{history[0]['loss']:.3f}",
        "last loss": f"{history[-1]['loss']:.3f}",
    }


def _get(preset: dict[str, Any], key: str) -> Any:
    section, name = key.split(".")
    return preset.get(section, {}).get(name)


if __name__ == "__main__":
    main()
