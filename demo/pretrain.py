"""Pretrain the demo's two backbones. They are in the repository, so a user trains only the projector and LoRA.

    python -m demo.pretrain tokenizer
    python -m demo.pretrain vision      # the demo's pictures with captions
    python -m demo.pretrain wide        # random shapes and styles; trains the vision tower further, on a GPU
    python -m demo.pretrain language    # text alone: made-up words, then captions, and questions about them; on a GPU

writes ``demo/backbones/siglip`` and ``demo/backbones/qwen`` in the formats of the real models. No scene of fold 0 (the
demo's test pictures) is drawn here. The accuracies that are printed during training are on fold 1; those of random
shapes, on pictures that are not trained on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from demo import BACKBONES
from demo.language import train_language
from demo.tokenizer import train_tokenizer
from demo.vision import train_vision
from demo.wide_vision import train_wide

STEPS = {"tokenizer": 0, "vision": 1500, "wide": 5000, "language": 11_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STEPS)
    defaults = ", ".join(f"{name} {steps}" for name, steps in STEPS.items() if steps)
    parser.add_argument("--steps", type=int, help=f"optimiser steps (default: {defaults})")
    parser.add_argument("--threads", type=int, help="CPU threads, and processes that draw (default: all)")
    found = "cuda" if torch.cuda.is_available() else "cpu"
    on_gpu = "of the stages wide and language"
    parser.add_argument("--device", default=found, help=f"{on_gpu} (default: cuda if there is one, else cpu)")
    parser.add_argument(
        "--output", type=Path, default=BACKBONES, metavar="DIR", help=f"{on_gpu} (default: demo/backbones)"
    )
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    workers = torch.get_num_threads()
    if args.device != "cpu":
        torch.set_num_threads(1)  # the cores are for the processes that draw
    stages: dict[str, Callable[[int], None]] = {
        "tokenizer": lambda steps: train_tokenizer(),
        "vision": train_vision,
        "wide": lambda steps: train_wide(steps, args.device, args.output, workers),
        "language": lambda steps: train_language(steps, args.device, args.output, workers),
    }
    stages[args.stage](args.steps or STEPS[args.stage])


if __name__ == "__main__":
    main()
