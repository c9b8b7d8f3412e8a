"""What a checkpoint keeps in addition to weights, so that a resumed run does what an uninterrupted one would have done.

    optimizer.safetensors     moments, "<number of the parameter>.<name>"
    optimizer.json            groups with the names of their parameters, and states that are no tensors
    random.safetensors, .json random states of torch, Python and numpy, of each process
    progress.json             the position in the data, sums since the last log, counts
    trainer_state.json        steps, epochs, the best checkpoint, the log; names as transformers' Trainer has them

Learning rates and weight decay are the config's, never the checkpoint's: they may change on ``--resume``.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from common.errors import UserError
from common.files import write_json
from model.checkpoint import like
from model.model import MMultiModal
from settings import Config

# bitsandbytes hands out states in 8 bits and their scales under this key, and takes them back without it.
_EIGHT_BITS = "__bnb_optimizer_quant_state__"


@dataclass
class Progress:
    """How far a run has come, and what it counts."""

    step: int = 0  # optimiser steps done
    last_logged: int = 0  # the step of the last log, later by one for each step that was dropped since
    images: int = 0  # training pictures so far, in all processes
    skipped_samples: int = 0
    changes: Counter[str] = field(default_factory=Counter)  # in a stream's records; the same in all processes
    nonfinite_steps: int = 0
    nonfinite_in_a_row: int = 0
    untaught_batches: int = 0  # without a picture, in a run that trains only what sees pictures
    best_step: int | None = None
    best_loss: float | None = None
    best_checkpoint: str | None = None  # the best folder that was saved, which may be of an earlier step
    evaluations_without_best: int = 0
    log_history: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def read(cls, checkpoint: Path) -> Progress:
        content, state = read_json(checkpoint / "progress.json"), read_json(checkpoint / "trainer_state.json")
        return cls(
            step=state["global_step"],
            last_logged=content["last_logged"],
            images=content.get("images", 0),
            skipped_samples=content["skipped_samples"],
            changes=Counter(content.get("changes", {})),
            nonfinite_steps=content["nonfinite_steps"],
            nonfinite_in_a_row=content["nonfinite_in_a_row"],
            untaught_batches=content.get("untaught_batches", 0),
            best_step=state["best_global_step"],
            best_loss=state["best_metric"],
            best_checkpoint=_in_folder(state["best_model_checkpoint"], checkpoint.parent),
            evaluations_without_best=content.get("evaluations_without_best", 0),
            log_history=state["log_history"],
        )

    def write(self, folder: Path, rest: dict[str, Any], *, epoch: float, total: int) -> None:
        """``rest`` is what else goes into progress.json; ``total`` the steps of the whole run."""
        counts = {
            name: getattr(self, name)
            for name in (
                "last_logged",
                "images",
                "skipped_samples",
                "changes",
                "nonfinite_steps",
                "nonfinite_in_a_row",
                "untaught_batches",
                "evaluations_without_best",
            )
        }
        write_json(folder / "progress.json", {**rest, **counts})
        state = {
            "global_step": self.step,
            "max_steps": total,
            "epoch": epoch,
            "best_global_step": self.best_step,
            "best_metric": self.best_loss,
            "best_model_checkpoint": self.best_checkpoint,
            "log_history": self.log_history,
        }
        write_json(folder / "trainer_state.json", state)


def _in_folder(best: str | None, run: Path) -> str | None:
    """The best checkpoint in the run's folder, which may have moved since; None if it is gone."""
    found = run / Path(best).name if best else None
    return str(found) if found and found.is_dir() else None


def read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


# ---------------------------------------------------------------------------------------------- the optimiser


def optimizer_states(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The states of an optimiser's parameters, each under "<number of the parameter>.<name>"."""
    found: dict[str, Any] = {}
    for number, states in optimizer.state_dict()["state"].items():
        flat = {**states, **states.get(_EIGHT_BITS, {})}
        found |= {f"{number}.{name}": value for name, value in flat.items() if name != _EIGHT_BITS}
    return found


def save_optimizer(
    optimizer: torch.optim.Optimizer, names: list[str], moments: dict[str, torch.Tensor], folder: Path
) -> None:
    """``moments`` are the whole tensors of :func:`optimizer_states`; ``names`` are the parameters' names, by number."""
    # Copied: states in 8 bits share their tables, which safetensors refuses.
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in moments.items()}
    save_file(tensors, folder / "optimizer.safetensors")
    plain = {name: value for name, value in optimizer_states(optimizer).items() if not torch.is_tensor(value)}
    groups = optimizer.state_dict()["param_groups"]
    write_json(folder / "optimizer.json", {"groups": groups, "names": names, "plain": plain})


def load_optimizer(
    optimizer: torch.optim.Optimizer,
    names: list[str],
    folder: Path,
    older_names: Callable[[], list[str]] | None = None,
) -> None:
    """Give each parameter its moments. ``older_names`` gives the names of a checkpoint that did not save them.

    Raises:
        UserError: they are of another kind of optimiser, one that only earlier versions had.
    """
    rest = read_json(folder / "optimizer.json")
    saved = rest.get("names") or (older_names or list)()
    numbers = {name: number for number, name in enumerate(names)}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, Any]] = {}
    for key, value in {**load_file(folder / "optimizer.safetensors"), **rest["plain"]}.items():
        index, name = key.split(".", 1)
        number = numbers[saved[int(index)]]
        states.setdefault(number, {})[name] = like(parameters[number], value) if torch.is_tensor(value) else value
    if any(not _is_adams(kept) for kept in states.values()):
        raise UserError(
            f"--resume: {folder} was trained with another optimiser than train.optim can be now; start another run "
            "with train.run=NAME"
        )
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


def _is_adams(states: dict[str, Any]) -> bool:
    """Two moments, under torch's names or bitsandbytes'."""
    return {"exp_avg", "exp_avg_sq"} <= states.keys() or {"state1", "state2"} <= states.keys()


def names_by_rate(model: MMultiModal, config: Config) -> list[str]:
    """Parameter names in the order of older checkpoints, which grouped them by learning rate and decay."""
    projector, decay = config.projector.learning_rate or config.train.learning_rate, config.train.weight_decay
    groups: dict[tuple[float, float], list[str]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = projector if model.part_of(name) == "projector" else config.train.learning_rate
            groups.setdefault((rate, decay if parameter.ndim > 1 else 0.0), []).append(name)
    return [name for group in groups.values() for name in group]


# ---------------------------------------------------------------------------------------------- random states


def random_state() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Random states of this process: torch's as tensors, Python's and numpy's for JSON."""
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    numpy_state: Any = np.random.get_state()  # its type allows a dict, which this call does not give
    name, keys, *rest = numpy_state
    return tensors, {"python": random.getstate(), "numpy": [name, keys.tolist(), *rest]}


def save_random(states: list[tuple[dict[str, torch.Tensor], dict[str, Any]]], folder: Path) -> None:
    """``states`` are :func:`random_state` of all processes."""
    named = {f"{rank}.{name}": tensor for rank, (own, _) in enumerate(states) for name, tensor in own.items()}
    save_file(named, folder / "random.safetensors")
    write_json(folder / "random.json", [plain for _, plain in states])


def load_random(rank: int, folder: Path) -> None:
    """Set the random states of process ``rank``; one that the saved run did not have keeps its own."""
    states = read_json(folder / "random.json")
    if rank >= len(states):
        return
    start = f"{rank}."
    named = load_file(folder / "random.safetensors")
    tensors = {name.removeprefix(start): tensor for name, tensor in named.items() if name.startswith(start)}
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
    version, numbers, gauss = states[rank]["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = states[rank]["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
