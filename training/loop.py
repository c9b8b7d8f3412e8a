"""The training loop: fetch, forward, backward, clip, skip if not finite, step, log, evaluate, save.

Read :meth:`Loop.train` and :meth:`Loop.train_step` first; everything else is called from there, in this order. Each
supervised token counts the same, in whichever batch and process it is. Two runs of the same config, one of them
interrupted and resumed, end bit-equal.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import closing, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.distributed.tensor import DTensor

from common.command import resume_command
from common.errors import UserError
from dataset.collate import model_inputs
from model.checkpoint import load_weights, save_weights, trained_state
from model.connectors import QFormerConnector
from model.model import MMultiModal
from model.pretrained_qformer import fill_qformer
from model.start_from import Start
from settings import Config
from training import fsdp
from training.align import align
from training.feed import Batch, Feed, image_count, label_count
from training.full_memory import full_memory, out_of_memory
from training.log import RunLog
from training.optimizer import build_optimizer, build_schedule, parameter_groups, set_learning_rates
from training.sample_answers import SampleQuestion, accuracy, ask_samples
from training.saving import read_progress, restore, save_checkpoint
from training.standardize import standardize
from training.state import Progress
from training.stop import StopSignal
from training.throughput import Throughput
from training.validation import validate

logger = logging.getLogger(__name__)


class Loop:
    """One run. ``facts`` is what the run knows about itself; it goes into every checkpoint's manifest. ``start`` is the
    checkpoint that gave the model its weights, if one did (``train.start_from``).
    """

    def __init__(
        self,
        config: Config,
        run: Path,
        model: MMultiModal,
        feed: Feed,
        accelerator: Accelerator,
        facts: dict[str, Any],
        tokenizer,
        image_processor,
        start: Start | None = None,
    ) -> None:
        self.config, self.run, self.model, self.feed = config, run, model, feed
        self.accelerator, self.facts, self.start = accelerator, facts, start
        self.tokenizer, self.image_processor = tokenizer, image_processor
        self.progress, self.throughput, self.signal = Progress(), Throughput(), StopSignal()
        self.use_all = False  # every trained part must get a gradient, if only of zero
        self.sharded = fsdp.is_wanted(config.train.fsdp)
        self.stopping = False  # a signal came to a process, and all of them know
        self.saved_step = -1
        self.sample_questions: list[SampleQuestion] | None = None  # drawn at the first evaluation

    # ------------------------------------------------------------------------------------------ the run

    def train(self, resume: Path | None = None, before_first_step: Callable[[], None] | None = None) -> None:
        """Train to the end, or until a signal; from the checkpoint ``resume`` on, if one is given.

        Raises:
            UserError: the checkpoint does not fit, memory or disk are full, or steps are not finite.
        """
        progress = read_progress(self, resume) if resume else {}
        self.run.mkdir(parents=True, exist_ok=True)
        with closing(RunLog(self.run, self.config, self.progress.step)) as self.log:
            self.prepare(resume)
            if resume:
                restore(self, resume, progress)
            if before_first_step:
                before_first_step()
            while self.progress.step < self.total and not self.stopping and not self.stops_early():
                self.train_step()
                self.log_evaluate_save()

    def train_step(self) -> None:
        """One optimiser step, on the next batches of all processes."""
        batches, labels = self.fetch()
        self.wrapped.train()
        losses = torch.stack([self.forward_backward(batch, labels, batch is batches[-1]) for batch in batches])
        self.grad_norm = self.clip()
        finite, learns_images = self.agree(losses, self.grad_norm, batches)
        if not learns_images:  # a gradient of zero would still let weight decay and old moments move these weights
            self.drop_gradients(self.model.projector, self.model.vision)
        if finite:
            self.progress.nonfinite_in_a_row = 0
            for loss in losses:
                self.loss += loss
        else:
            self.drop_gradients(self.model)  # AdamW leaves weights without a gradient as they are, moments included
            self.count_nonfinite(batches)
        self.learning_rate = self.optimizer.param_groups[0]["lr"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        set_learning_rates(self.optimizer, self.schedule(self.progress.step))

    def log_evaluate_save(self) -> None:
        """Do what is due after a step. After a signal the evaluation is left to the resumed run."""
        train, step = self.config.train, self.progress.step
        self.log.step(step, self.total)
        if step % train.logging_steps == 0 and step > self.progress.last_logged:
            self.log_step()
        last = step >= self.total
        evaluates = self.is_due(train.eval_strategy, train.steps_per_eval, last)
        if evaluates and not self.stopping:
            self.evaluate()
        saves = self.is_due(train.save_strategy, train.save_steps, last) or self.stopping or self.stops_early()
        if saves:
            self.save(evaluate=evaluates and self.stopping)

    def is_due(self, strategy: str, every: int, last: bool) -> bool:
        if strategy == "steps":
            return last or self.progress.step % every == 0
        return strategy == "epoch" and (last or self.feed.epoch_ended)

    # ------------------------------------------------------------------------------------------ start

    def prepare(self, checkpoint: Path | None = None) -> None:
        """Load the weights of ``checkpoint``, build optimiser and schedule, wrap the model for DDP or FSDP."""
        self.total = self.feed.total_steps(self.progress.step)
        self.schedule = build_schedule(self.config, self.total)
        if not self.sharded:
            self.model.to(self.accelerator.device)
            if checkpoint:
                self.load_weights(checkpoint)
        if not checkpoint:
            self.begin_weights()
        groups = parameter_groups(self.model, self.config)
        self.names = [name for group in groups for name in group["names"]]  # of the optimiser's parameters, by number
        optimizer = build_optimizer(groups, self.config)
        self.wrapped, self.optimizer = self.accelerator.prepare(self.model, optimizer)
        if self.sharded:
            self.model = self.wrapped
            print(fsdp.describe(self.model), flush=True)
            if checkpoint:
                self.load_weights(checkpoint)
        set_learning_rates(self.optimizer, self.schedule(self.progress.step))
        self.loss = torch.tensor(0.0, device=self.accelerator.device)  # since the last log
        self.images = torch.tensor(self.progress.images, device=self.accelerator.device)  # no wait for it in a step
        self.throughput.reset()

    def begin_weights(self) -> None:
        """What a new run's projector needs before the first step: a Q-Former's weights, the statistics of features, and
        steps of its own."""
        if self.config.projector.path is not None:
            lines = fill_qformer(cast(QFormerConnector, self.model.projector), self.config.projector.path)
            if self.accelerator.is_main_process:
                print(*lines, sep="\n", flush=True)
        # Weights of a checkpoint were trained with its statistics, so these stay.
        keeps = self.start is not None and self.start.config.projector.kind == self.config.projector.kind
        if self.config.projector.standardize and not keeps:
            standardize(self)
        if self.config.projector.align_steps:
            align(self)

    def load_weights(self, checkpoint: Path) -> None:
        load_weights(self.model, self.config, checkpoint)

    def trained_state(self) -> dict[str, torch.Tensor]:
        return trained_state(self.model, self.config)

    def save_weights(self, folder: Path, state: dict[str, torch.Tensor]) -> None:
        """``state`` is the whole :meth:`trained_state`."""
        save_weights(self.model, self.tokenizer, self.image_processor, self.config, folder, state)

    # ------------------------------------------------------------------------------------------ the parts of a step

    def fetch(self) -> tuple[list[Batch], torch.Tensor]:
        """This process's batches of a step, and the number of labels in the batches of all processes."""
        begin = self.throughput.clock()
        batches = self.feed.step()
        labels = sum(label_count(batch) for batch in batches if batch["info"].real)
        images = sum(image_count(batch) for batch in batches)
        learnt = sum(image_count(batch) for batch in batches if batch["info"].real)
        counts = torch.tensor([labels, images, learnt], device=self.accelerator.device)
        labels, images, learnt = self.accelerator.reduce(counts, reduction="sum")
        self.images += learnt
        # DDP waits for ever for a gradient that one process lacks; FSDP only if another process has it.
        self.use_all = self.accelerator.num_processes > 1 and (not self.sharded or bool(images))
        for batch in batches:
            self.throughput.add(batch["info"].counts)
            self.warn_of_skipped(batch)
            self.count_changes(batch)
        self.throughput.waiting += self.throughput.clock() - begin
        return batches, labels

    def forward_backward(self, batch: Batch, labels: torch.Tensor, last: bool) -> torch.Tensor:
        """Forward and backward pass of one batch; its share of the step's loss.

        With DDP the processes exchange gradients in the backward pass of the ``last`` batch, with FSDP in each: whole
        gradients kept between batches would fill the memory that sharding frees.
        """
        world = self.accelerator.num_processes
        exchange = nullcontext() if last or self.sharded else self.accelerator.no_sync(self.wrapped)
        try:
            with exchange:
                inputs = self.to_device(batch)
                loss = self.wrapped(**inputs, num_items_in_batch=labels, use_all=self.use_all).loss
                loss = loss * world  # DDP and FSDP divide the sum of gradients by it
                if not batch["info"].real:  # this backward pass only keeps the processes together
                    loss = loss * 0.0
                if loss.requires_grad:
                    self.accelerator.backward(loss)
                if batch["info"].real and not (image_count(batch) or self.words_teach):
                    self.count_untaught(batch)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise UserError(full_memory(batch, self.progress.step + 1, self.run)) from error
        return loss.detach()

    def clip(self) -> torch.Tensor:
        """Clip the gradients; their norm before clipping."""
        most = self.config.train.max_grad_norm or math.inf
        norm = self.accelerator.clip_grad_norm_(self.wrapped.parameters(), most)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm  # of no gradients it is a plain 0

    def agree(self, losses: torch.Tensor, norm: torch.Tensor, batches: list[Batch]) -> tuple[bool, bool]:
        """Agree among the processes: is the step finite, and does it teach images? Also notes a signal to any of them.

        This is the step's only wait for the device.
        """
        learns_images = any(batch["info"].real and image_count(batch) for batch in batches)
        finite = losses.isfinite().all() & torch.as_tensor(norm, device=losses.device).isfinite()
        flags = torch.stack([~finite, *torch.tensor([self.signal.asked, learns_images], device=losses.device)])
        nonfinite, self.stopping, learns_images = (self.accelerator.reduce(flags.int(), reduction="sum") > 0).tolist()
        return not nonfinite, learns_images

    @staticmethod
    def drop_gradients(*modules: torch.nn.Module) -> None:
        for module in modules:
            for parameter in module.parameters():
                parameter.grad = None

    def count_nonfinite(self, batches: list[Batch]) -> None:
        """Warn of a dropped step and name its samples.

        Raises:
            UserError: it is one more in a row than ``train.max_nonfinite_steps``.
        """
        progress, most = self.progress, self.config.train.max_nonfinite_steps
        progress.last_logged += 1  # the logged mean is over the steps that counted
        progress.nonfinite_steps += 1
        progress.nonfinite_in_a_row += 1
        own = [name for batch in batches if batch["info"].real for name in batch["info"].ids]
        named = ", ".join(gather_object(own))
        if self.accelerator.is_main_process:
            what = f"step {progress.step + 1}: loss or gradient is not finite; dropped, with the samples {named}"
            logger.warning("%s (%d such steps so far)", what, progress.nonfinite_steps)
        if progress.nonfinite_in_a_row > most:
            raise UserError(
                f"{progress.nonfinite_in_a_row} steps in a row had a loss or gradient that is not finite "
                f"(train.max_nonfinite_steps allows {most}), the last at samples {named}; lower train.learning_rate "
                f"or take these samples out, and continue from the last checkpoint with: {resume_command()}"
            )

    def to_device(self, batch: Batch) -> dict[str, torch.Tensor]:
        device = self.accelerator.device
        return {name: tensor.to(device, non_blocking=True) for name, tensor in model_inputs(batch).items()}

    @cached_property
    def words_teach(self) -> bool:
        """Whether a batch without a picture changes any weight."""
        return any(parameter.requires_grad for parameter in self.model.language.parameters())

    def count_untaught(self, batch: Batch) -> None:
        """Count a batch that changes no weight: it has no picture, and of the language model nothing is trained."""
        self.progress.untaught_batches += 1
        if self.progress.untaught_batches == 1:
            what = "a batch without a picture changes no weight, because nothing of the language model is trained"
            logger.warning("%s (%s, first of all); counted, not repeated", what, batch["info"].ids[0])

    def warn_of_skipped(self, batch: Batch) -> None:
        for line in batch["info"].skipped:
            self.progress.skipped_samples += 1
            logger.warning("skipped %s (%d so far)", line, self.progress.skipped_samples)

    def count_changes(self, batch: Batch) -> None:
        """Count what was joined, dropped or removed in a stream's records. The first of each kind is logged."""
        for change, count in batch["info"].changes.items():
            if change not in self.progress.changes:
                logger.warning("changed in records that are used: %s (counted, not repeated)", change)
            self.progress.changes[change] += count

    # ------------------------------------------------------------------------------------------ log and evaluate

    def log_step(self) -> None:
        """Log the mean loss of the steps since the last log, the last gradient norm and learning rate, and speed."""
        loss = self.accelerator.gather(self.loss).mean().item()
        steps = self.progress.step - self.progress.last_logged
        self.loss.zero_()
        self.progress.last_logged = self.progress.step
        values = {"loss": loss / steps, "grad_norm": self.grad_norm.item(), "learning_rate": self.learning_rate}
        self.note({**values, **self.counts(), **self.throughput.report()})

    def counts(self) -> dict[str, float]:
        named = ("skipped_samples", "nonfinite_steps", "untaught_batches")
        return {name: getattr(self.progress, name) for name in named if getattr(self.progress, name)}

    def note(self, values: dict[str, float]) -> None:
        values = {**values, "epoch": self.feed.epoch}
        self.progress.log_history.append({**values, "step": self.progress.step})
        self.log.metrics(self.progress.step, values)

    def evaluate(self) -> None:
        """Log the validation split's losses and a few answers. A signal ends it early: ``stopping`` is then true."""
        begin = self.throughput.clock()
        self.model.eval()
        values = validate(self)
        if values is None:
            return
        answers = ask_samples(self)
        self.throughput.begin += self.throughput.clock() - begin  # not training time
        self.note({**values, **accuracy(answers), **self.counts()})
        self.log.answers(self.progress.step, answers)
        self.note_best(values["eval_loss"])

    def sum_over_processes(self, sums: torch.Tensor) -> torch.Tensor:
        """``sums`` float64 on the CPU, where one process stays: not every device has float64."""
        if self.accelerator.num_processes == 1:
            return sums
        return self.accelerator.reduce(sums.to(self.accelerator.device), reduction="sum").cpu()

    def images_seen(self) -> int:
        """Training pictures so far, in all processes; one that was shown twice counts twice."""
        return int(self.images)

    def warn(self, lines: list[str]) -> None:
        if self.accelerator.is_main_process:
            for line in lines:
                logger.warning("%s", line)

    def all_stop(self) -> bool:
        """Whether a signal came to any process. All ask at the same batch, so all get the same answer."""
        flag = torch.tensor(int(self.signal.asked), device=self.accelerator.device)
        self.stopping = self.stopping or bool(self.accelerator.reduce(flag, reduction="sum"))
        return self.stopping

    def note_best(self, loss: float) -> None:
        progress, train = self.progress, self.config.train
        if not (train.load_best_model_at_end or train.early_stopping_patience):
            return
        if loss < (math.inf if progress.best_loss is None else progress.best_loss):
            progress.best_loss, progress.best_step, progress.evaluations_without_best = loss, progress.step, 0
        else:
            progress.evaluations_without_best += 1

    def stops_early(self) -> bool:
        patience = self.config.train.early_stopping_patience
        return patience is not None and self.progress.evaluations_without_best >= patience

    def save(self, evaluate: bool = False) -> None:
        """Write the checkpoint of this step, if there is none yet. ``evaluate``: its evaluation is still to be made."""
        if self.progress.step != self.saved_step:
            self.progress.images = self.images_seen()
            folder = save_checkpoint(self, evaluate)
            self.saved_step = self.progress.step
            self.log.saved(self.progress.step, folder)
