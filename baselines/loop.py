"""Training a baseline: epochs over the questions until the held-out accuracy no longer rises.

The order of an epoch is a pure function of (seed, epoch), and a checkpoint keeps the random states, so a resumed run
does what an uninterrupted one would have done. The first Ctrl-C ends the run after its step, with a checkpoint.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from baselines import checkpoint
from baselines.answers import soft_loss, soft_targets
from baselines.checkpoint import Vocabularies
from baselines.examples import Examples
from baselines.features import Patches
from baselines.parts import Baseline
from baselines.words import padded
from common.errors import UserError
from common.files import write_json
from dataset.doctor.examined import Asked
from model.run_checkpoints import finalize, prune, temp_dir
from settings import Config
from training import state
from training.log import RunLog
from training.stop import StopSignal

HALF_LIFE = 50_000  # steps in which the learning rate halves, as in the paper


@dataclass
class Position:
    """How far a run has come."""

    step: int = 0
    epoch: int = 0  # whole epochs done
    step_in_epoch: int = 0
    best_step: int | None = None
    best_accuracy: float = -1.0
    epochs_without_best: int = 0
    seconds: float = 0.0  # of training and validating, over all its starts


class Loop:
    """One run of one model."""

    def __init__(
        self,
        config: Config,
        examples: Examples,
        patches: Patches,
        model: Baseline,
        known: Vocabularies,
        image_processor: Any,
        run: Path,
        facts: dict[str, Any],
    ) -> None:
        self.config, self.sizes, self.examples, self.patches = config, config.baselines, examples, patches
        self.model, self.known, self.image_processor, self.run, self.facts = model, known, image_processor, run, facts
        self.encoded = {asked.text: known.words.encode(asked.text) for asked in [*examples.train, *examples.validation]}
        self.optimizer = torch.optim.Adam(model.parameters(), lr=self.sizes.learning_rate)
        self.position = Position()
        self.stop = StopSignal()
        self.steps_per_epoch = math.ceil(len(examples.train) / self.sizes.batch_size)
        self.total = self.steps_per_epoch * self.sizes.epochs
        self.saved_step = 0

    def resume(self, folder: Path) -> None:
        """Continue from a checkpoint of the same run."""
        content = state.read_json(folder / "trainer_state.json")
        self.position = Position(**content["position"])
        self.saved_step = self.position.step
        checkpoint.fill(self.model, folder / "model.safetensors")
        state.load_optimizer(self.optimizer, self._names(), folder)
        state.load_random(0, folder)

    def train(self) -> None:
        """Train to the last epoch, to the end of patience, or until a signal."""
        log = RunLog(self.run, self.config, self.position.step)
        clock = _Clock(self.position)
        try:
            while self.position.epoch < self.sizes.epochs and not self.stop.asked and not self.stops_early():
                self._train_epoch(log)
                if self.position.step_in_epoch == self.steps_per_epoch:
                    self._end_epoch(log)
                clock.read()
                self.save()
                log.saved(self.position.step, self.run)
        finally:
            log.close()

    def stops_early(self) -> bool:
        return self.position.epochs_without_best >= self.sizes.patience

    # ------------------------------------------------------------------------------------------ one epoch

    def _train_epoch(self, log: RunLog) -> None:
        """The rest of the current epoch, or up to a signal."""
        train, size, position = self.examples.train, self.sizes.batch_size, self.position
        generator = torch.Generator().manual_seed(self.config.train.seed * 100_003 + position.epoch)
        order = torch.randperm(len(train), generator=generator).tolist()
        self.model.train()
        summed, steps = 0.0, 0
        while position.step_in_epoch < self.steps_per_epoch and not self.stop.asked:
            start = position.step_in_epoch * size
            summed += self._step([train[i] for i in order[start : start + size]])
            steps += 1
            position.step += 1
            position.step_in_epoch += 1
            log.step(position.step, self.total)
        if steps:
            log.metrics(position.step, {"loss": summed / steps, "epoch": position.step / self.steps_per_epoch})

    def _step(self, batch: list[Asked]) -> float:
        """One step of the optimiser; returns the loss of the batch."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.sizes.learning_rate * 0.5 ** (self.position.step / HALF_LIFE)
        loss = self._loss(self._logits(batch), batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not torch.isfinite(loss):
            raise UserError(
                f"the loss is {loss.item()} at step {self.position.step}; lower baselines.learning_rate = "
                f"{self.sizes.learning_rate:g}, and start again with --overwrite"
            )
        return loss.item()

    def _end_epoch(self, log: RunLog) -> None:
        """Measure the held-out accuracy, and note whether it is the best so far."""
        position = self.position
        loss, accuracy = self.validate()
        position.epoch, position.step_in_epoch = position.epoch + 1, 0
        if accuracy > position.best_accuracy:
            position.best_accuracy, position.best_step, position.epochs_without_best = accuracy, position.step, 0
        else:
            position.epochs_without_best += 1
        log.metrics(position.step, {"eval_loss": loss, "eval_accuracy": accuracy, "epoch": float(position.epoch)})

    @torch.inference_mode()
    def validate(self) -> tuple[float, float]:
        """Loss and accuracy of the held-out questions."""
        self.model.eval()
        loss = score = 0.0
        questions, size = self.examples.validation, self.sizes.batch_size
        for start in range(0, len(questions), size):
            batch = questions[start : start + size]
            logits = self._logits(batch)
            loss += self._loss(logits, batch).item() * len(batch)
            chosen = logits.argmax(-1).tolist()
            score += sum(self.known.answers.score(i, asked) for i, asked in zip(chosen, batch, strict=True))
        return loss / len(questions), score / len(questions)

    def _logits(self, batch: list[Asked]) -> torch.Tensor:
        input_ids, lengths = padded([self.encoded[asked.text] for asked in batch])
        patches = self.patches([self.examples.paths[asked.images[0]] for asked in batch])  # [B, N, D]
        device = self.patches.device
        return self.model(patches.to(device), input_ids.to(device), lengths)  # [B, A]

    def _loss(self, logits: torch.Tensor, batch: list[Asked]) -> torch.Tensor:
        targets = soft_targets([self.known.answers.votes(asked) for asked in batch], len(self.known.answers))
        return soft_loss(logits, targets.to(logits.device))

    # ------------------------------------------------------------------------------------------ checkpoints

    def save(self) -> None:
        """Write the checkpoint of this step; keep it and the best one."""
        position = self.position
        if position.step == self.saved_step:
            return
        folder = self.run / f"checkpoint-{position.step}"
        temporary = temp_dir(folder)
        checkpoint.save_weights(self.model, self.known, self.image_processor, self.config, temporary)
        moments = {k: v for k, v in state.optimizer_states(self.optimizer).items() if torch.is_tensor(v)}
        state.save_optimizer(self.optimizer, self._names(), moments, temporary)
        state.save_random([state.random_state()], temporary)
        # "best_global_step" is what every command looks for in a run's folder.
        rest = {"global_step": position.step, "best_global_step": position.best_step, "position": asdict(position)}
        write_json(temporary / "trainer_state.json", rest)
        finalize(temporary, folder, {**self.facts, "step": position.step, "epoch": position.epoch})
        prune(self.run, 1, None if position.best_step is None else f"checkpoint-{position.best_step}")
        self.saved_step = position.step

    def _names(self) -> list[str]:
        return [name for name, _ in self.model.named_parameters()]


class _Clock:
    """Adds the seconds since it was last read to a position."""

    def __init__(self, position: Position) -> None:
        self.position, self.last = position, time.monotonic()

    def read(self) -> None:
        now = time.monotonic()
        self.position.seconds += now - self.last
        self.last = now
