"""From a loop to a checkpoint, and back: which files there are is in model/checkpoint.py and training/state.py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError

from common.command import resume_command
from common.errors import UserError
from model.checkpoint import check_bases
from model.manifest import read_manifest
from model.run_checkpoints import finalize, latest_checkpoint, prune, remove_stale, temp_dir
from settings import load_config
from training import fsdp, state
from training.resume import check_changes

if TYPE_CHECKING:
    from training.loop import Loop


def save_checkpoint(loop: Loop, evaluate: bool) -> Path:
    """Write the checkpoint of the loop's step, in the first process, and delete old ones; the folder.

    Args:
        evaluate: the resumed run must begin with the evaluation of this step, which a signal prevented.

    Raises:
        UserError: it cannot be written; earlier checkpoints are as they were.
    """
    folder, problem = loop.run / f"checkpoint-{loop.progress.step}", None
    position = loop.feed.position()
    own = {"random": state.random_state(), "loss": loop.loss.item(), "tokens": loop.throughput.since_log()}
    everyone = gather_object([own])
    weights, moments = tensors(loop)
    if loop.accelerator.is_main_process:
        try:
            write(loop, folder, weights, moments, everyone, {**position, "evaluate": evaluate})
            prune(loop.run, loop.config.train.save_total_limit, loop.progress.best_checkpoint)
        except (OSError, SafetensorError) as error:
            problem = f"{folder.name} cannot be saved in {loop.run}: {getattr(error, 'strerror', None) or error}"
            remove_stale(loop.run)
    problem = next(filter(None, gather_object([problem])), None)
    if problem:
        latest = latest_checkpoint(loop.run)
        rest = f", then continue from {latest.name} with: {resume_command()}" if latest else ""
        raise UserError(f"{problem}; fix that{rest}")
    return folder


def tensors(loop: Loop) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Trained weights and optimiser moments; with FSDP, whole ones in the first process."""
    states = state.optimizer_states(loop.optimizer)
    moments = {name: value for name, value in states.items() if torch.is_tensor(value)}
    weights = loop.trained_state()
    return (fsdp.whole(weights), fsdp.whole(moments)) if loop.sharded else (weights, moments)


def write(
    loop: Loop,
    folder: Path,
    weights: dict[str, torch.Tensor],
    moments: dict[str, torch.Tensor],
    everyone: list[dict[str, Any]],
    rest: dict[str, Any],
) -> None:
    """``everyone`` is what each process keeps of its own; ``rest`` goes into progress.json."""
    temporary, progress = temp_dir(folder), loop.progress
    loop.save_weights(temporary, weights)
    state.save_optimizer(loop.optimizer, loop.names, moments, temporary)
    state.save_random([one["random"] for one in everyone], temporary)
    rest |= {"losses": [one["loss"] for one in everyone], "tokens": [one["tokens"] for one in everyone]}
    best = loop.run / f"checkpoint-{progress.best_step}"
    if best == folder or best.exists():
        progress.best_checkpoint = str(best)
    progress.write(temporary, rest, epoch=loop.feed.epoch, total=loop.total)
    finalize(temporary, folder, {**loop.facts, "step": progress.step, "epoch": loop.feed.epoch})


def read_progress(loop: Loop, checkpoint: Path) -> dict[str, Any]:
    """Set the loop to the checkpoint's position; the content of its progress.json.

    Raises:
        UserError: the loop cannot continue the checkpoint's run: a changed key, another base model, other shards.
    """
    check_changes(loop.config, checkpoint)
    bases = {key: (base["path"], base["sha256"]) for key, base in loop.facts["base_models"].items()}
    check_bases(checkpoint, read_manifest(checkpoint), bases)
    progress = state.read_json(checkpoint / "progress.json")
    loop.feed.resume(progress)
    loop.progress = state.Progress.read(checkpoint)
    loop.saved_step = loop.progress.step
    return progress


def restore(loop: Loop, checkpoint: Path, progress: dict[str, Any]) -> None:
    """Load moments, random states and the sums since the last log; make up for an evaluation that a signal prevented.

    With another number of processes than the checkpoint's run had, each gets the mean of the sums.
    """
    before = load_config(checkpoint / "config.yaml", check_models=False)
    state.load_optimizer(loop.optimizer, loop.names, checkpoint, lambda: state.names_by_rate(loop.model, before))
    own, world = loop.accelerator.process_index, loop.accelerator.num_processes
    losses, tokens = progress["losses"], progress["tokens"]
    same = len(losses) == world
    loop.loss += losses[own] if same else sum(losses) / len(losses)
    shares = tokens[own] if same else [sum(counts) // len(tokens) for counts in zip(*tokens, strict=True)]
    loop.throughput.before = (shares[0], shares[1])
    if progress["evaluate"] and loop.config.train.eval_strategy != "no":
        loop.evaluate()
    state.load_random(own, checkpoint)
