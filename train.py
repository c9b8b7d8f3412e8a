"""Train projector and adapters.

    python train.py --config config.yaml
    python train.py --config config.yaml --dry-run        # does it fit, and how long will it take?
    python train.py --config config.yaml --resume         # continue from the run's latest checkpoint, if it has one
    python train.py train.start_from=checkpoints/stage1 train.run=stage2      # a new run with the weights of another
    torchrun --nproc-per-node 8 train.py --resume         # on eight GPUs; FSDP and more in docs/scaling.md

Checkpoints go to <train.output>/<train.run>/checkpoint-<step>; docs/training.md says what else is in that folder.
"""

from __future__ import annotations

import argparse
import logging
import sys
from contextlib import closing
from pathlib import Path

from answering.checkpoints import add_base_arguments, base_overrides
from common.command import resume_command
from common.errors import UserError, exit_status
from common.text import prepare_console
from evaluation.scores import check_metrics
from model.start_from import Start, find_start
from settings import Config, add_config_arguments, load_config, require_paths
from training.distributed import only_first_speaks, rank, world_size
from training.log import require_trackers
from training.resume import check_changes
from training.run_folder import RunFolder


def main() -> int:
    prepare_console()
    args = parse_arguments()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    only_first_speaks()
    return exit_status(lambda: run(args), "\nstopped; nothing since the last checkpoint is kept")


def run(args: argparse.Namespace) -> None:
    """Check config and folder, then train, or only measure what training needs."""
    config = load_config(args.config, [*args.overrides, *base_overrides(args)])
    check_metrics(config.data.sources)
    if rank():
        config.data.progress = False  # one bar is enough
    if config.data.stream is None:
        require_paths(config, "data.image_map", "data.annotations")
    require_trackers(config)
    if args.dry_run:
        from training.dry_run import dry_run

        dry_run(config)
        return
    output = config.train.output / config.train.run
    with closing(RunFolder(output, resume=args.resume, overwrite=args.overwrite)) as folder:
        latest = folder.open()
        changes = check_changes(config, latest) if latest else []
        train(config, folder, changes, None if latest else find_start(config))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run from its latest checkpoint, at its step and with its optimizer; for a new run with the "
        "weights of another there is train.start_from=CHECKPOINT",
    )
    parser.add_argument("--overwrite", action="store_true", help="delete the run's earlier checkpoints and start over")
    parser.add_argument("--dry-run", action="store_true", help="memory and time of the run, measured; trains nothing")
    add_base_arguments(parser)
    add_config_arguments(parser)
    args = parser.parse_intermixed_args()
    if not args.resume and (args.base_language or args.base_vision or args.base_model):
        parser.error("--base-language, --base-vision and --base-model go with --resume; a new run has a config")
    return args


def train(config: Config, folder: RunFolder, changes: list[str], start: Start | None) -> None:
    """Train to the end, or until a signal. ``changes`` are the keys that are not as in the checkpoint; ``start`` is
    the checkpoint that a new run takes its weights from.

    Raises:
        UserError: the run cannot be built or continued; nothing was deleted before its first step.
    """
    from dataset.loader import lost_worker  # torch: seconds, which a mistake before this need not cost
    from model.model import quiet_libraries
    from training.distributed import leave_together
    from training.setup import build_loop

    quiet_libraries()
    loop = build_loop(config, folder.path, start=start)
    loop.signal.listen()
    if folder.latest is not None:
        print(
            f"resuming from {folder.latest}: the same run, with its step, optimizer and position in the data",
            flush=True,
        )
    for change in changes:
        print(f"changed   {change}", flush=True)
    try:
        loop.train(folder.latest, before_first_step=folder.begin)
        leave_together()
    except RuntimeError as error:
        if lost := lost_worker(error):
            raise lost from error
        if world_size() == 1:
            raise
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"process {rank()} of {world_size()} cannot continue, most likely because another one has ended; see its "
            f"message, then continue with: {resume_command()} ({reason})"
        ) from error
    progress = loop.progress
    if loop.stopping and progress.step < loop.total:
        print(f"stopped at step {progress.step}; continue with: {resume_command()}")
        return
    for change, count in progress.changes.most_common():
        print(f"changed in records that are used: {count:,} x {change}")
    early = f" (early_stopping_patience = {config.train.early_stopping_patience})" if loop.stops_early() else ""
    best = f", the best is {Path(progress.best_checkpoint).name}" if progress.best_checkpoint else ""
    print(f"done: {progress.step} steps{early}, checkpoints in {folder.path}{best}")


if __name__ == "__main__":
    sys.exit(main())
