"""Train one of the systems of 2015 on the same files and splits, as a yardstick.

    python -m baselines.train --config demo.yaml --model attention
    python -m baselines.train --config demo.yaml --model question baselines.epochs=20
    python -m baselines.train --config demo.yaml --model attention --resume        # after Ctrl-C or a crash

Checkpoints go to <train.output>/<train.run>-<model>/checkpoint-<step>: the best epoch by held-out accuracy, and the
last. evaluate.py, ask.py and the window open them as they open any other (docs/baselines.md).
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from common.command import resume_command
from common.errors import UserError, exit_status
from common.text import prepare_console
from settings import Config, add_config_arguments, load_config, require_paths
from training.run_folder import RunFolder

if TYPE_CHECKING:
    from baselines.examples import Examples
    from baselines.loop import Loop

NAMES = ("question", "ibowimg", "lstm", "attention")


def main(argv: Sequence[str] | None = None) -> int:
    prepare_console()
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    return exit_status(lambda: run(args), "\nstopped; nothing since the last checkpoint is kept")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, choices=NAMES)
    parser.add_argument("--resume", action="store_true", help="continue from the latest checkpoint of the run")
    parser.add_argument("--overwrite", action="store_true", help="delete the run's earlier checkpoints and start over")
    add_config_arguments(parser)
    return parser.parse_intermixed_args(argv)


def run(args: argparse.Namespace) -> None:
    """Check config and folder, then train."""
    config = load_config(args.config, args.overrides)
    if config.data.stream is not None:
        raise UserError("data.stream: baselines read data.image_map and data.annotations; set it to null")
    if config.data.augment:
        raise UserError("data.augment: baselines read each picture's features from disk; set it to false")
    require_paths(config, "data.image_map", "data.annotations")
    config.train.run = f"{config.train.run}-{args.model}"
    output = config.train.output / config.train.run
    with closing(RunFolder(output, resume=args.resume, overwrite=args.overwrite)) as folder:
        folder.open()
        train(config, args.model, folder)


def train(config: Config, name: str, folder: RunFolder) -> None:
    """Check the labels, compute the features, then train to the end or until a signal.

    Raises:
        UserError: the labels are no answers, or the run cannot be continued; nothing was deleted before its first step.
    """
    from baselines.examples import describe, read_examples  # numpy and torch: seconds
    from model.model import quiet_libraries

    quiet_libraries()
    examples = read_examples(config)
    print(*describe(examples, config), sep="\n", flush=True)
    loop = build_loop(config, name, examples, folder.path)
    if folder.latest is not None:
        check_same_run(loop, folder.latest)
        loop.resume(folder.latest)
        print(f"resuming from {folder.latest}", flush=True)
    loop.stop.listen()
    folder.begin()
    loop.train()
    position = loop.position
    if loop.stop.asked:
        print(f"stopped at step {position.step}; continue with: {resume_command()}")
        return
    early = f" (baselines.patience = {config.baselines.patience})" if loop.stops_early() else ""
    print(
        f"done: {position.epoch} epochs{early} in {position.seconds:.0f} s; the best is checkpoint-"
        f"{position.best_step} in {folder.path}, held-out accuracy {position.best_accuracy:.3f}"
    )


def build_loop(config: Config, name: str, examples: Examples, run: Path) -> Loop:
    """The loop of a run, with all features computed.

    Raises:
        UserError: the tower cannot be loaded, or too many pictures cannot be read.
    """
    import torch

    from baselines.checkpoint import Vocabularies, build, describe_run
    from baselines.features import Patches, load_processor
    from baselines.loop import Loop
    from baselines.models import MODELS

    device = torch.device("cuda" if torch.cuda.is_available() and not config.train.use_cpu else "cpu")
    patches = Patches(config, MODELS[name], device)
    examples = examples.with_pictures(patches.fill(examples.pictures()), config.data.max_skipped)
    known = Vocabularies(name, examples.words, examples.answers, patches.width)
    torch.manual_seed(config.train.seed)
    model = build(known, config)
    if patches.means:
        shown = {examples.paths[asked.images[0]] for asked in examples.train}
        model.fit(torch.stack([patches.means[path] for path in sorted(shown)]))
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"model     {name}, {count:,} parameters, on {device}", flush=True)
    facts = describe_run(config, known)
    return Loop(config, examples, patches, model.to(device), known, load_processor(config), run, facts)


def check_same_run(loop: Loop, checkpoint: Path) -> None:
    """Raises UserError if a checkpoint is of another model, of other sizes, or of other data."""
    from baselines.checkpoint import read_vocabularies
    from model.manifest import read_manifest

    before = load_config(checkpoint / "config.yaml", check_models=False)
    for key, old in before.baselines.model_dump().items():
        if key not in ("epochs", "patience", "learning_rate") and old != (new := getattr(loop.sizes, key)):
            raise UserError(
                f"--resume: baselines.{key} = {new}, but {checkpoint.name} was trained with {old}; set it back, or "
                "start another run with train.run=NAME"
            )
    known, manifest = read_vocabularies(checkpoint), read_manifest(checkpoint)
    if known.name != loop.known.name or manifest["data"] != loop.facts["data"]:
        raise UserError(
            f"--resume: {checkpoint} was trained on other data or is another model; start another run with "
            "train.run=NAME"
        )


if __name__ == "__main__":
    sys.exit(main())
