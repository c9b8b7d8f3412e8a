"""Train projector and adapters.

    python train.py --config config.yaml
    python train.py --config config.yaml --dry-run        # does it fit, and how long will it take?
    python train.py --config config.yaml --resume         # go on from the run's latest checkpoint, if it has one
    torchrun --nproc-per-node 8 train.py --resume         # on eight GPUs; FSDP and more in docs/scaling.md

Checkpoints go to <train.output>/<train.run>/checkpoint-<step>.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path

import torch

from common.errors import UserError
from common.files import remove_folder
from dataset.collate import samples_of_batch
from dataset.image_caption_dataset import ImageCaptionDataset
from dataset.loader import lost_worker
from model.memory import Batch, estimate
from model.model import quiet_libraries
from model.run_checkpoints import checkpoints, latest_checkpoint, newest_undamaged, remove_stale, step_of
from settings import Config, add_config_arguments, load_config, require_paths
from training.distributed import leave_together, only_first_speaks, rank, world_size
from training.feed import plan
from training.loop import Loop
from training.setup import build_loop


def main() -> int:
    args = parse_arguments()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    quiet_libraries()
    only_first_speaks()
    try:
        config = load_config(args.config, args.overrides)
        if rank():
            config.data.progress = False  # one bar is enough
        if config.data.stream is None:
            require_paths(config, "data.image_map", "data.annotations")
        if args.dry_run:
            with tempfile.TemporaryDirectory() as aside:  # the Trainer makes its output folder at once
                loop = build_loop(config, Path(aside), announce=print_estimate)
                dry_run(loop, loop.feed.known)
        else:
            run = config.train.output / config.train.run
            latest = prepare_run(run, args.resume, args.overwrite)
            train(build_loop(config, run), args, latest)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; nothing since the last checkpoint is kept", file=sys.stderr)
        return 130
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resume", action="store_true", help="go on from the latest checkpoint of the run")
    parser.add_argument("--overwrite", action="store_true", help="delete the run's earlier checkpoints and start anew")
    parser.add_argument(
        "--dry-run", action="store_true", help="one step on the longest batch, peak memory, time of the run; then stop"
    )
    add_config_arguments(parser)
    return parser.parse_intermixed_args()


def prepare_run(run: Path, resume: bool, overwrite: bool) -> Path | None:
    """The checkpoint to go on from, or None; refuses to write over a run unasked."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        if not rank():
            remove_stale(run)
            tempfile.TemporaryFile(dir=run).close()
    except OSError as error:
        raise UserError(f"{run}: checkpoints cannot be written here: {error.strerror or error}") from error
    if resume:
        latest = newest_undamaged(run)
        if latest is None and latest_checkpoint(run):
            raise UserError(f"--resume: every checkpoint in {run} is damaged; start anew with --overwrite")
        if latest is None:
            print(f"--resume: {run} holds no complete checkpoint; starting from the beginning")
        for folder in checkpoints(run) if not rank() else []:
            if latest and step_of(folder) > step_of(latest):  # damaged, and not to be taken for the newest
                remove_folder(folder)
        return latest
    if overwrite:
        for folder in checkpoints(run) if not rank() else []:
            remove_folder(folder)
    elif latest := latest_checkpoint(run):
        raise UserError(
            f"{run} already holds {latest.name}; go on with --resume, start anew with --overwrite, "
            "or name another run with train.run=NAME"
        )
    return None


def train(loop: Loop, args: argparse.Namespace, latest: Path | None) -> None:
    loop.signal.listen()
    if latest is not None:
        print(f"resuming from {latest}", flush=True)
    try:
        loop.train(latest)
        leave_together()
    except RuntimeError as error:
        if lost := lost_worker(error):
            raise lost from error
        if world_size() == 1:
            raise
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"process {rank()} of {world_size()} cannot go on, most likely because "
            f"another one has ended; see its message, then go on with --resume ({reason})"
        ) from error
    progress = loop.progress
    if loop.stopping and progress.step < loop.total:
        print(f"stopped at step {progress.step}; go on with: python train.py --config {args.config} --resume")
        return
    best = progress.best_checkpoint
    early = (
        f" (train.early_stopping_patience = {loop.config.train.early_stopping_patience})" if loop.stops_early() else ""
    )
    print(
        f"done: {progress.step} steps{early}, checkpoints in {loop.run}"
        + (f", the best is {Path(best).name}" if best else "")
    )


def print_estimate(config: Config, dataset: ImageCaptionDataset, dtype: torch.dtype) -> None:
    """What the longest batch will need, from configs alone."""
    batches = plan(config, dataset, config.train.per_device_train_batch_size)
    longest = max(batches, key=lambda batch: len(batch) * dataset.lengths[batch[-1]])
    inputs = samples_of_batch(dataset, longest)
    rows, length = inputs["input_ids"].shape
    labels = int((inputs["labels"][:, 1:] != -100).sum())
    batch = Batch(rows, length, int(inputs["images_per_row"].sum()), labels)
    found = estimate(config, len(dataset.tokenizer), batch, dtype)
    print(f"estimate  {found} (before loading; {rows} rows of {length} tokens)", flush=True)


def dry_run(loop: Loop, known: ImageCaptionDataset) -> None:
    """One optimiser step on the longest batch, then the time of typical ones."""
    train, device = loop.config.train, loop.accelerator.device
    batches = plan(loop.config, known, train.per_device_train_batch_size)
    batches.sort(key=lambda batch: len(batch) * known.lengths[batch[-1]])  # a batch's last sample is its longest
    longest, typical = batches[-1], batches[len(batches) // 2]
    loop.prepare()
    if device.type == "cuda":
        print(f"loaded    {torch.cuda.memory_allocated() / 2**30:.2f} GiB of weights on the GPU, measured")
    one_step(loop, known, longest)
    memory = peak_memory()
    begin = time.perf_counter()
    for _ in range(3):
        one_step(loop, known, typical)
    seconds = (time.perf_counter() - begin) / 3
    leave_together()
    total = seconds * train.gradient_accumulation_steps * loop.total
    room = f"{len(longest)} samples of up to {known.lengths[longest[-1]]} tokens"
    print(f"longest   {room}: forward, backward and step fit")
    print(f"memory    {memory / 2**30:.2f} GiB at the peak ({'GPU' if device.type == 'cuda' else 'this process'})")
    print(f"time      {seconds:.2f} s for a typical batch; {loop.total:,} steps take about {total / 60:,.1f} minutes")


def one_step(loop: Loop, dataset: ImageCaptionDataset, indices: list[int]) -> None:
    loop.model.train()
    device = loop.accelerator.device
    inputs = {k: v.to(device) for k, v in samples_of_batch(dataset, indices).items()}
    loop.model(**inputs).loss.backward()
    loop.optimizer.step()
    loop.optimizer.zero_grad()
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_memory() -> int:
    """Bytes: the most the GPU held, or the most this process held (on Windows: what it holds now)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:
        import psutil

        return psutil.Process().memory_info().rss
    scale = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


if __name__ == "__main__":
    sys.exit(main())
