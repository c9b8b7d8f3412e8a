"""Pretrain the demo's two backbones. They are in the repository, so a user trains only the projector and LoRA.

    python -m demo.pretrain tokenizer
    python -m demo.pretrain vision      # the demo's pictures with captions
    python -m demo.pretrain wide        # random shapes and styles; trains the vision tower further
    python -m demo.pretrain language    # text alone: made-up words, then captions, and questions about them

writes ``demo/backbones/siglip`` and ``demo/backbones/qwen`` in the formats of the real models. No scene of fold 0 (the
demo's test pictures) is drawn here. The accuracies that are printed during training are on fold 1; those of random
shapes, on pictures that are not trained on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from demo.language import train_language
from demo.tokenizer import train_tokenizer
from demo.vision import train_vision
from demo.wide_vision import train_wide


def main() -> None:
    stages: dict[str, tuple[Callable[[int], None], int]] = {
        "tokenizer": (lambda steps: train_tokenizer(), 0),
        "vision": (train_vision, 1500),
        "wide": (train_wide, 2600),
        "language": (train_language, 5600),
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=stages)
    defaults = ", ".join(f"{name} {steps}" for name, (_, steps) in stages.items() if steps)
    parser.add_argument("--steps", type=int, help=f"optimiser steps (default: {defaults})")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    train, steps = stages[args.stage]
    train(args.steps or steps)


if __name__ == "__main__":
    main()
