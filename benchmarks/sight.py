"""Samples to sight: how many training pictures a fresh projector needs until the model looks at them.

    python -m benchmarks.sight                                        # the demo's backbones, minutes on two CPU cores
    python -m benchmarks.sight --plant                                # with the common component that real towers have
    python -m benchmarks.sight language.path=Qwen/Qwen2.5-0.5B-Instruct language.max_length=1024 \\
        vision.path=google/siglip-so400m-patch14-384 vision.image_context_length=728

Every recipe is a run of train.py's own loop with other settings of the projector, on the data of the config (draw the
demo's and run process_image.py first). The gap is the validation loss with another picture less the loss with the own
one, in nats a token. A model sees when the gap is above 0.1 by more than two standard errors. "spread" is the distance
of a visual token from the mean of all, as a share of its length; "lengths" is its length in lengths of words.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import statistics
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import machine
from model.model import quiet_libraries
from model.sight import SIGHT
from model.statistics import feature_statistics
from settings import Config, add_config_arguments, load_config
from training.loop import Loop
from training.setup import build_loop
from training.standardize import IMAGES, training_pictures

# projector.standardize, and projector.learning_rate in learning rates of the language model's adapters.
RECIPES: dict[str, tuple[bool, float]] = {
    "plain, 3 x": (False, 3.0),  # what this project's first default was for the demo
    "plain, 1 x": (False, 1.0),
    "standardised, 3 x": (True, 3.0),
    "standardised, 1 x": (True, 1.0),
}
# Of the planted tower. 4: as measured in the demo's tower, where the mean is 4.2 times as long as what differs.
COMMON, LOUD, LOUD_DIMENSIONS = 4.0, 30.0, 3


def plant(loop: Loop) -> None:
    """Give the tower's features a common component and a few loud dimensions, as real towers have them."""
    mean, std = feature_statistics(loop.model, islice(training_pictures(loop.feed.known, 0), IMAGES))
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(len(mean), generator=generator)
    common = COMMON * direction / direction.pow(2).mean().sqrt()  # [Dv]
    scale = torch.ones(len(mean))
    scale[torch.randperm(len(mean), generator=generator)[:LOUD_DIMENSIONS]] = LOUD

    def planted(tower: Any, inputs: Any, features: torch.Tensor) -> torch.Tensor:
        moved = (features.float().cpu() - mean) / std.pow(2).mean().sqrt() * scale + common  # [K, N, Dv]
        return moved.to(features)

    loop.model.vision.register_forward_hook(planted)


def run(config: Config, planted: bool) -> list[dict[str, float]]:
    """The values of each evaluation of one run, without what it prints."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        loop = build_loop(config, Path(folder) / "run")
        if planted:
            plant(loop)
        loop.train()
    return [entry for entry in loop.progress.log_history if "eval_gap_error" in entry]


def samples_to_sight(evaluations: Sequence[dict[str, float]]) -> float | None:
    """Training pictures at the first evaluation whose gap is above SIGHT by more than two standard errors."""
    seen = (e["images"] for e in evaluations if e["eval_gap"] - 2 * e["eval_gap_error"] > SIGHT)
    return next(seen, None)


def recipe_config(args: argparse.Namespace, recipe: str, seed: int) -> Config:
    standardize, times = RECIPES[recipe]
    config = load_config(args.config, args.overrides)
    train = config.train
    config.projector.standardize = standardize
    config.projector.learning_rate = times * (config.language.learning_rate or train.learning_rate)
    per_step = train.per_device_train_batch_size * train.gradient_accumulation_steps
    train.seed = train.data_seed = seed
    train.max_steps = max(args.pictures) // per_step
    train.eval_strategy, train.eval_steps = "steps", max(1, min(args.pictures) // per_step)
    train.save_strategy, train.load_best_model_at_end, train.early_stopping_patience = "no", False, None
    train.report_to, config.data.progress = [], False
    return config


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for recipe in args.recipes:
        for seed in range(args.seeds):
            evaluations = run(recipe_config(args, recipe, seed), args.plant)
            rows.append({"recipe": recipe, "seed": seed, "evaluations": evaluations})
            print(line(rows[-1], args.pictures), flush=True)
    return rows


def line(row: dict[str, Any], budgets: Sequence[int]) -> str:
    sight = samples_to_sight(row["evaluations"])
    last = row["evaluations"][-1]
    parts = [f"{row['recipe']:20} {row['seed']:4}  {'not yet' if sight is None else f'{sight:.0f}':>8}"]
    for budget in budgets:
        at = min(row["evaluations"], key=lambda e: abs(e["images"] - budget))
        parts.append(f"{at['eval_gap']:9.3f} {at['eval_loss']:6.3f}")
    parts.append(f"{last['visual_token_lengths']:8.1f} {last['visual_token_spread']:7.2f}")
    return "  ".join(parts)


def heading(budgets: Sequence[int]) -> str:
    named = "  ".join(f"{f'gap, loss at {budget}':>16}" for budget in budgets)
    return f"{'recipe':20} {'seed':>4}  {'to sight':>8}  {named}  {'lengths':>8} {'spread':>7}"


def summary(rows: list[dict[str, Any]], recipes: Sequence[str]) -> list[str]:
    """The mean gap at the end and its spread over seeds."""
    lines = []
    for recipe in recipes:
        gaps = [row["evaluations"][-1]["eval_gap"] for row in rows if row["recipe"] == recipe]
        error = f", deviation over seeds {statistics.stdev(gaps):.3f}" if len(gaps) > 1 else ""
        lines.append(f"{recipe}: gap {statistics.mean(gaps):.3f} nats at the end{error}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--recipes", nargs="+", choices=RECIPES, default=list(RECIPES), metavar="NAME", help="of: " + "; ".join(RECIPES)
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each recipe (default: %(default)s)")
    parser.add_argument("--pictures", type=int, nargs="+", default=[200, 400, 800], metavar="N", help="budgets")
    parser.add_argument("--plant", action="store_true", help="plant a common component into the tower's features")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the numbers as JSON")
    add_config_arguments(parser)
    parser.set_defaults(config="demo.yaml")
    args = parser.parse_intermixed_args()
    quiet_libraries()
    logging.disable(logging.WARNING)  # of runs that are meant to stay blind
    print(heading(args.pictures))
    try:
        rows = measure(args)
    finally:
        logging.disable(logging.NOTSET)
    print("\n".join(summary(rows, args.recipes)))
    if args.output:
        facts = {**machine(), "config": args.config, "overrides": args.overrides, "planted": args.plant}
        args.output.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
