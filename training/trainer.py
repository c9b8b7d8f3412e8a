"""transformers' Trainer, taught this project's batches, learning rates, checkpoints and loss.

What differs from the stock Trainer, and why:

- the projector may have its own learning rate;
- batches hold samples of like length and come in an order that is a pure function of (seed, epoch), so a resumed run
  repeats it, on any number of processes (dataset/batches.py);
- a checkpoint is our folder (model/checkpoint.py), its optimiser and random states in safetensors and JSON, and what
  the stock Trainer forgets: the place in the epoch, the loss since the last log, the random states of all processes;
- the held-out loss is averaged over tokens, not over batches;
- a step whose loss or gradient is not finite changes nothing, is counted, and its samples are named;
- Ctrl-C and SIGTERM end the run after the step at hand, with a checkpoint.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from common.errors import UserError
from common.files import write_json
from dataset.batches import EpochBatches
from dataset.collate import Counts, collate, model_inputs
from dataset.image_caption_dataset import ImageCaptionDataset
from dataset.loader import open_loader
from dataset.streaming import StreamedBatches
from dataset.trees import plan_batches
from model.checkpoint import check_bases, like, load_weights, save_weights, trained_state
from model.manifest import read_manifest
from model.model import MMultiModal
from model.run_checkpoints import finalize, latest_checkpoint, prune, remove_stale, temp_dir
from settings import Config
from training import fsdp as sharded

logger = logging.getLogger(__name__)

# Under this key bitsandbytes puts states in 8 bits aside, and their scales; it takes them back without it.
_EIGHT_BITS = "__bnb_optimizer_quant_state__"


class Throughput:
    """What went through since the last log: tokens, the visual ones among them, padding, and time without data."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.begin, self.waiting = time.perf_counter(), 0.0
        self.tokens = self.visual = self.padding = 0
        self.before = (0, 0)  # real tokens and padding since the last log in the run that this one goes on from

    def add(self, counts: Counts) -> None:
        self.tokens += counts.tokens
        self.visual += counts.visual
        self.padding += counts.padding

    def since_log(self) -> tuple[int, int]:
        """Real tokens and padding since the last log, whichever run it was in."""
        return self.before[0] + self.tokens, self.before[1] + self.padding

    def report(self) -> dict[str, float]:
        """Real tokens per second (visual and text), and the shares of padding and of waiting; starts anew."""
        seconds = time.perf_counter() - self.begin
        real, padding = self.since_log()
        numbers = {
            "tokens_per_second": round(self.tokens / seconds),
            "text_tokens_per_second": round((self.tokens - self.visual) / seconds),
            "padding": round(padding / max(1, real + padding), 4),
            "waiting_for_data": round(self.waiting / seconds, 4),
        }
        self.reset()
        return numbers


class MultiModalTrainer(Trainer):
    """``facts`` is what the run knows about itself; it goes into every checkpoint's manifest."""

    def __init__(self, model: MMultiModal, config: Config, dataset, held_out, facts: dict, **kwargs) -> None:
        self.run_config, self.facts = config, facts
        self.tokenizer, self.image_processor = dataset.tokenizer, dataset.image_processor
        self.skipped_samples, self.throughput = 0, Throughput()
        self.stop_asked = self.stopping = False  # a signal came; all processes know and stop behind this step
        self.nonfinite_steps = self.nonfinite_in_a_row = 0
        self.progress: dict = {}  # of the checkpoint a run goes on from
        self._losses: list[torch.Tensor] = []  # of the step's batches so far
        self._learns_images = False  # from them
        self._ids: list[str] = []
        self._saved_step = -1
        super().__init__(
            model=model,
            train_dataset=dataset,
            eval_dataset=held_out,
            data_collator=partial(collate, pad_token_id=dataset.tokenizer.pad_token_id),
            **kwargs,
        )
        self.model_accepts_loss_kwargs = True  # our forward divides by num_items_in_batch, the whole step's labels
        self.add_callback(_Places(self))

    def create_accelerator_and_postprocess(self) -> None:
        fsdp = sharded.is_wanted(self.args.fsdp)
        if fsdp:  # gradients kept whole between the batches of a step would fill what sharding frees
            self.args.accelerator_config.gradient_accumulation_kwargs = {"sync_each_batch": True}
        super().create_accelerator_and_postprocess()
        if fsdp:
            sharded.prepare(self.accelerator, self.args)
            self.is_fsdp_enabled = True

    # ------------------------------------------------------------------------------------------ data and loss

    def get_train_dataloader(self) -> DataLoader:
        args, dataset = self.args, self.train_dataset
        seed = args.seed if args.data_seed is None else args.data_seed
        batches = self.plan(dataset, args.per_device_train_batch_size)
        shared = {"processes": args.world_size, "rank": args.process_index}
        self.sampler = EpochBatches(
            batches, dataset.lengths, seed, accumulation=args.gradient_accumulation_steps, **shared
        )
        return self._loader(dataset, self.sampler)

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        dataset = eval_dataset or self.eval_dataset
        batches = self.plan(dataset, self.args.per_device_eval_batch_size)
        shared = (self.args.world_size, self.args.process_index)
        return self._loader(dataset, EpochBatches(batches, dataset.lengths, None, *shared))

    def plan(self, dataset: ImageCaptionDataset, size: int) -> list[list[int]]:
        """Batches of like length: ``size`` samples, or as many as ``data.tokens_per_batch`` holds."""
        budget = self.run_config.data.tokens_per_batch
        return plan_batches(dataset.lengths, size=size, budget=budget, seed=self.run_config.data.seed)

    def _loader(self, dataset: ImageCaptionDataset | StreamedBatches, batches: EpochBatches | None) -> DataLoader:
        """Not accelerate's: which process gets which batch is the sampler's business (dataset/batches.py)."""
        args = self.args
        return open_loader(
            dataset,
            batches,
            workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
        )

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device):
        """The batches of one step, and the count of labels in those of all processes."""
        begin = time.perf_counter()
        self._loss_before, self._losses, self._ids = self._tr_loss.clone(), [], []
        real = self.sampler.take(num_batches)
        batches = [{**next(epoch_iterator), "real": counts} for counts in real]
        labels = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches if batch["real"])
        images = [int(batch["images_per_row"].sum()) for batch in batches]
        self._learns_images = any(batch["real"] and some for batch, some in zip(batches, images, strict=True))
        counts = torch.tensor([labels, sum(images)], device=device)
        count, images = self.accelerator.reduce(counts, reduction="sum")
        # Several processes wait for ever for a gradient that one does not have; FSDP, for one that any has.
        if self.args.world_size > 1 and (not self.is_fsdp_enabled or images):
            batches = [{**batch, "use_all": True} for batch in batches]
        self.throughput.waiting += time.perf_counter() - begin
        return batches, count

    def training_step(self, model, inputs: dict, num_items_in_batch=None) -> torch.Tensor:
        """The loss of a batch; 0 where it is not finite or not real, so that the logged sum stays a number."""
        self._real = inputs.pop("real", True)
        rows, tokens = inputs["input_ids"].shape
        images = int(inputs["images_per_row"].sum())
        self._ids += inputs["info"].ids if self._real else []
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            latest = latest_checkpoint(Path(self.args.output_dir))
            stands = f"{latest} stands, go on with --resume" if latest else "there is no checkpoint yet"
            raise UserError(
                f"out of memory in step {self.state.global_step + 1}, in a batch of {rows} rows of {tokens} tokens, "
                f"{images} images; lower train.per_device_train_batch_size or data.tokens_per_batch (and raise "
                f"train.gradient_accumulation_steps), or turn on train.gradient_checkpointing; {stands}"
            ) from error
        self._losses.append(loss)
        return torch.nan_to_num(loss, nan=0.0, posinf=0.0, neginf=0.0)

    def compute_loss(self, model, inputs, *args, **kwargs):
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        return loss if self._real else loss * 0.0  # every process needs a backward pass, this one teaches nothing

    def _get_grad_norm(self, model, grad_norm=None):
        """The gradient's norm. Called once a step, in front of the optimiser: here a step is dropped, here what it does
        not teach is left alone, here all processes agree to stop, and here is the step's only wait for the device."""
        grad_norm = super()._get_grad_norm(model, grad_norm)
        if self.is_fsdp_enabled:
            grad_norm = grad_norm.full_tensor()
        finite = torch.stack(self._losses).isfinite().all()
        if self.accelerator.scaler is None:  # which finds the right scale by running into infinity
            finite = finite & torch.as_tensor(grad_norm, device=finite.device).isfinite()
        flags = torch.stack([~finite, *torch.tensor([self.stop_asked, self._learns_images], device=finite.device)])
        flags = self.accelerator.reduce(flags.int(), reduction="sum") > 0
        nonfinite, self.stopping, learns_images = flags.tolist()
        if not learns_images:  # a process alone has no gradients here now; those of zero would still let weights decay
            for parameter in (*self.model.projector.parameters(), *self.model.vision.parameters()):
                parameter.grad = None
        if nonfinite:
            self._drop_step(model)
        else:
            self.nonfinite_in_a_row = 0
        return grad_norm

    def _drop_step(self, model) -> None:
        """Forget the gradients: AdamW leaves weights without one as they are, moments and all."""
        model.zero_grad(set_to_none=True)
        self._tr_loss.copy_(self._loss_before)
        self._globalstep_last_logged += 1  # the logged mean is over the steps that counted
        self.nonfinite_steps += 1
        self.nonfinite_in_a_row += 1
        named = ", ".join(gather_object(self._ids))
        step, most = self.state.global_step + 1, self.run_config.train.max_nonfinite_steps
        if self.args.should_log:
            what = f"step {step}: loss or gradient is not finite; nothing was learnt from samples {named}"
            logger.warning("%s (%d such steps so far)", what, self.nonfinite_steps)
        if self.nonfinite_in_a_row > most:
            raise UserError(
                f"{self.nonfinite_in_a_row} steps in a row had a loss or gradient that is not finite "
                f"(train.max_nonfinite_steps allows {most}), the last at samples {named}; lower train.learning_rate "
                "or take these samples out, and go on from the last checkpoint with --resume"
            )

    def _prepare_inputs(self, inputs: dict) -> dict:
        """Keep what is for people (ids, notes of skipped samples) out of the model's arguments."""
        info = inputs["info"]
        if self.model.training:
            self.throughput.add(info.counts)
        for line in info.skipped:
            self.skipped_samples += 1
            logger.warning("skipped %s (another sample stands in; %d so far)", line, self.skipped_samples)
        return super()._prepare_inputs(model_inputs(inputs))

    def log(self, logs: dict, start_time: float | None = None) -> None:
        if self.skipped_samples:
            logs["skipped_samples"] = self.skipped_samples
        if self.nonfinite_steps:
            logs["nonfinite_steps"] = self.nonfinite_steps
        if "loss" in logs:
            logs |= self.throughput.report()
        super().log(logs, start_time)

    @torch.no_grad()
    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Mean cross entropy over every supervised token of the held-out split (and its exponential)."""
        begin = time.perf_counter()
        loader = self.get_eval_dataloader(eval_dataset)
        self.model.eval()
        sums = torch.zeros(2, dtype=torch.float64)  # of the loss and of labels
        for batch, real in self._counted(loader):
            if self.is_in_train and self._all_stop():
                raise _EvaluationCut
            inputs = self._prepare_inputs(batch)
            labels = int((inputs["labels"][:, 1:] != -100).sum()) if real else 0
            with self.compute_loss_context_manager():
                loss = self.model(**inputs).loss.double().cpu()
            sums += torch.stack([loss * labels, torch.tensor(labels, dtype=torch.float64)]) if labels else 0.0
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        if self.args.world_size > 1:  # alone it stays where it is: not every device has float64
            sums = self.accelerator.reduce(sums.to(self.args.device), reduction="sum")
        total, count = sums.tolist()
        loss = total / count
        metrics = {f"{metric_key_prefix}_loss": loss, f"{metric_key_prefix}_perplexity": math.exp(min(loss, 50.0))}
        self.throughput.begin += time.perf_counter() - begin  # not training time
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _counted(self, loader: DataLoader) -> Iterator[tuple[dict, bool]]:
        """The batches of an evaluation, each with whether it is real."""
        return zip(loader, (turn is not None for turn in loader.batch_sampler.turns), strict=True)

    def _all_stop(self) -> bool:
        """Whether a signal came to any process. All ask at the same place, so all get the same answer."""
        flag = torch.tensor(int(self.stop_asked), device=self.args.device)
        self.stopping = self.stopping or bool(self.accelerator.reduce(flag, reduction="sum"))
        return self.stopping

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, model, trial, *args, **kwargs) -> None:
        """A signal during an evaluation, which may take minutes: save at once, and evaluate when the run goes on."""
        try:
            super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
        except _EvaluationCut:
            self.control.should_evaluate, self.control.should_training_stop = False, True
            self._save_checkpoint(model, trial, evaluate=True)

    # ------------------------------------------------------------------------------------------ optimiser

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """AdamW (or what ``train.optim`` names): decay on matrices only, the projector at its own learning rate."""
        if self.optimizer is None:
            try:
                cls, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
                self.optimizer = cls(self.parameter_groups(), **options)
            except (ImportError, ValueError, TypeError) as error:
                raise UserError(f"train.optim = {self.args.optim.value}: {' '.join(str(error).split())}") from error
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        try:
            return super().create_scheduler(num_training_steps, optimizer)
        except (ValueError, TypeError) as error:
            kind, options = self.args.lr_scheduler_type.value, self.args.lr_scheduler_kwargs or {}
            raise UserError(
                f"train.lr_scheduler_type = {kind} with lr_scheduler_kwargs = {options}: {error}"
            ) from error

    def parameter_groups(self) -> list[dict]:
        config, usual = self.run_config, self.args.learning_rate
        own = {"vision": config.vision, "projector": config.projector, "language": config.language}
        rates = {part: section.learning_rate or usual for part, section in own.items()}
        groups: dict[tuple, list] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                rate = rates[self.model.part_of(name)]
                decay = self.args.weight_decay if parameter.ndim > 1 else 0.0
                groups.setdefault((rate, decay), []).append(parameter)
        return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]

    # ------------------------------------------------------------------------------------------ checkpoints

    def _save_checkpoint(self, model, trial, evaluate: bool = False) -> None:
        """The folder of this step: whole, or not there and the run ends. Rank 0 writes, the others wait for it."""
        if self.state.global_step == self._saved_step:
            return
        run, step = Path(self.args.output_dir), self.state.global_step
        own = {"random": _random_state(), "loss": self._tr_loss.item(), "tokens": self.throughput.since_log()}
        everyone = gather_object([own])
        weights, moments = self._state()
        problem = None
        if self.args.should_save:
            try:
                self._write_checkpoint(run / f"checkpoint-{step}", weights, moments, everyone, evaluate)
                prune(run, self.args.save_total_limit, self.state.best_model_checkpoint)
            except (OSError, SafetensorError) as error:
                problem = f"checkpoint-{step} cannot be saved in {run}: {getattr(error, 'strerror', None) or error}"
                remove_stale(run)
        problem = next(filter(None, gather_object([problem])), None)
        if problem:
            latest = latest_checkpoint(run)
            raise UserError(f"{problem}; " + (f"{latest.name} stands, go on with --resume" if latest else "mend that"))
        self._saved_step = step

    def _state(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Weights and optimiser's tensors; where the processes have shares, whole ones for rank 0, which writes."""
        weights, moments = trained_state(self.model, self.run_config), {}
        if not self.args.save_only_model:
            moments = {name: value for name, value in _states_of(self.optimizer).items() if torch.is_tensor(value)}
        return (sharded.whole(weights), sharded.whole(moments)) if self.is_fsdp_enabled else (weights, moments)

    def _write_checkpoint(self, folder: Path, weights: dict, moments: dict, everyone: list, evaluate: bool) -> None:
        aside, state = temp_dir(folder), self.state
        save_weights(self.model, self.tokenizer, self.image_processor, self.run_config, aside, weights)
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(aside, moments)
            tensors = {f"{r}.{name}": t for r, one in enumerate(everyone) for name, t in one["random"][0].items()}
            save_file(tensors, aside / "random.safetensors")
            write_json(aside / "random.json", [one["random"][1] for one in everyone])
        best = folder.parent / f"checkpoint-{state.best_global_step}"
        if state.best_global_step and (best == folder or best.exists()):
            state.best_model_checkpoint = str(best)
        state.save_to_json(aside / "trainer_state.json")
        progress = {
            **self._position(),
            "losses": [one["loss"] for one in everyone],  # of each process since the last log
            "tokens": [one["tokens"] for one in everyone],
            "last_logged": self._globalstep_last_logged,
            "skipped_samples": self.skipped_samples,
            "nonfinite_steps": self.nonfinite_steps,
            "nonfinite_in_a_row": self.nonfinite_in_a_row,
            "evaluate": evaluate,
        }
        write_json(aside / "progress.json", progress)
        finalize(aside, folder, {**self.facts, "step": state.global_step, "epoch": state.epoch})

    def _position(self) -> dict:
        """The place in the data, as it is written into a checkpoint."""
        epoch, taken = self.sampler.position
        return {"epoch": epoch, "batches": taken, "of": len(self.sampler.batches), "plan": self._plan()}

    def _plan(self) -> list[str]:
        """What ``batches`` counts: of the data, and of how they are put into batches."""
        return [self.facts["data"]["sha256"], self.sampler.fingerprint]

    def _find_place(self) -> None:
        """With other data or other batches than the checkpoint's run had, the place in the epoch is a share of it."""
        progress, count = self.progress, len(self.sampler.batches)
        if progress["plan"] == self._plan():
            return
        share = progress["batches"] / progress["of"]
        progress["batches"] = min(count - 1, round(share * count))
        if self.args.should_log:
            logger.warning(
                "--resume: the data, or what puts them into batches (train.per_device_train_batch_size, "
                "data.tokens_per_batch, a seed), are not those of the checkpoint; going on at %.0f %% of epoch %d, of "
                "which samples may come twice or not at all",
                100 * progress["batches"] / count,
                progress["epoch"] + 1,
            )

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        if resume_from_checkpoint is not None:
            folder = Path(resume_from_checkpoint)
            bases = {key: (base["path"], base["sha256"]) for key, base in self.facts["base_models"].items()}
            check_bases(folder, read_manifest(folder), bases)
            self.progress = read_progress(folder)
            self._saved_step = self.progress["step"]
            if ("stream" in self.progress) != (self.run_config.data.stream is not None):
                before = "with" if "stream" in self.progress else "without"
                raise UserError(
                    f"--resume: {resume_from_checkpoint} was trained {before} data.stream; set it as it was"
                )
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def set_initial_training_values(self, args, dataloader: DataLoader):
        """As the stock Trainer, but a resumed run counts from its place in the epoch: with another number of processes
        an epoch has another number of steps."""
        values = list(super().set_initial_training_values(args, dataloader))
        if self.progress:
            self._find_place()
            done, epoch, per_epoch = self.progress["step"], self.progress["epoch"], values[1]
            behind = self.sampler.resume(epoch, self.progress["batches"]) // args.gradient_accumulation_steps
            if args.max_steps <= 0:  # as many epochs as asked for, however many steps were done
                values[6] = done + max(0, math.ceil(args.num_train_epochs * per_epoch) - epoch * per_epoch - behind)
            left = max(0, values[6] - done)
            values[0] = epoch + (-(-(left + behind) // per_epoch) if left else 0)
        return tuple(values)

    def _init_training_state(self, max_steps, per_epoch, epochs, resume_from_checkpoint, trial) -> tuple[int, int]:
        place = super()._init_training_state(max_steps, per_epoch, epochs, resume_from_checkpoint, trial)
        if not self.progress:
            return place
        return self.progress["epoch"], self.sampler.resume(self.progress["epoch"], self.progress["batches"])

    def _finalize_training(self, trial, num_train_samples, start_time):
        self.args.save_total_limit = None  # the stock Trainer would now delete the newest, which --resume needs
        if self.stopping:
            self.args.load_best_model_at_end = False
        return super()._finalize_training(trial, num_train_samples, start_time)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        load_weights(self.model, self.run_config, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        load_weights(self.model, self.run_config, Path(self.state.best_model_checkpoint))

    def _save_optimizer_and_scheduler(self, folder: Path, moments: dict[str, torch.Tensor]) -> None:
        """Optimiser and schedule as safetensors (the moments) and JSON (the rest): no pickle."""
        # Copied: states in 8 bits share their tables, which safetensors refuses.
        tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in moments.items()}
        save_file(tensors, folder / "optimizer.safetensors")
        plain = {name: value for name, value in _states_of(self.optimizer).items() if not torch.is_tensor(value)}
        groups = self.optimizer.state_dict()["param_groups"]
        rest = {"groups": groups, "plain": plain, "scheduler": self.lr_scheduler.state_dict()}
        write_json(folder / "optimizer.json", rest)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        rest = json.loads((Path(checkpoint) / "optimizer.json").read_text(encoding="utf-8"))
        state: dict[int, dict] = {}
        values = {**load_file(Path(checkpoint) / "optimizer.safetensors"), **rest["plain"]}
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for name, value in values.items():
            index, key = name.split(".", 1)
            value = like(parameters[int(index)], value) if torch.is_tensor(value) else value
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": rest["groups"]})
        self.lr_scheduler.load_state_dict(rest["scheduler"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """This process's random states; a process that the saved run did not have keeps the one it started with."""
        if checkpoint is None:
            return
        folder, rank = Path(checkpoint), self.args.process_index
        plain = json.loads((folder / "random.json").read_text(encoding="utf-8"))
        if rank < len(plain):
            tensors = load_file(folder / "random.safetensors")
            _set_random_state(
                {n.split(".", 1)[1]: t for n, t in tensors.items() if n.startswith(f"{rank}.")}, plain[rank]
            )

    def restore_log(self) -> None:
        """What the stock Trainer starts anew: the loss since the last log and the counts."""
        progress, world = self.progress, self.args.world_size
        own, losses, tokens = self.args.process_index, progress["losses"], progress["tokens"]
        loss = losses[own] if len(losses) == world else sum(losses) / len(losses)
        shares = (sum(counts) // len(tokens) for counts in zip(*tokens, strict=True))
        self.throughput.before = tuple(tokens[own] if len(tokens) == world else shares)
        self._tr_loss += loss
        self._total_loss_scalar = -loss  # the closing mean is over the steps of this call
        self._globalstep_last_logged = progress["last_logged"]
        for name in ("skipped_samples", "nonfinite_steps", "nonfinite_in_a_row"):
            setattr(self, name, progress[name])
        if progress["evaluate"] and self.eval_dataset is not None:
            self._determine_best_metric(self._evaluate(None, None), None)


def _states_of(optimizer) -> dict[str, object]:
    """What an optimiser keeps for its parameters, each under "<number of the parameter>.<name>"."""
    found = {}
    for number, states in optimizer.state_dict()["state"].items():
        flat = {**states, **states.get(_EIGHT_BITS, {})}
        found |= {f"{number}.{name}": value for name, value in flat.items() if name != _EIGHT_BITS}
    return found


def _random_state() -> tuple[dict[str, torch.Tensor], dict]:
    """Random states of this process: torch's as tensors, Python's and numpy's as JSON."""
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    name, keys, *rest = np.random.get_state()
    return tensors, {"python": random.getstate(), "numpy": [name, keys.tolist(), *rest]}


def _set_random_state(tensors: dict[str, torch.Tensor], plain: dict) -> None:
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
    version, numbers, gauss = plain["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = plain["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))


def read_progress(checkpoint: Path) -> dict:
    """Where a checkpoint's run stood; with ``step``, the optimiser steps done."""
    progress = json.loads((checkpoint / "progress.json").read_text(encoding="utf-8"))
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return {**progress, "step": state["global_step"]}


def out_of_memory(error: RuntimeError) -> bool:
    """On a GPU its own class, on the CPU only words."""
    words = ("DefaultCPUAllocator", "not enough memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


class _EvaluationCut(Exception):
    """A signal came while evaluating."""


class _Places(TrainerCallback):
    """Tell the sampler the epoch (under the Trainer's skip wrapper a resumed run would shuffle as in epoch 0), and
    bring back what the Trainer has just set to zero."""

    def __init__(self, trainer: MultiModalTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if self.trainer.is_fsdp_enabled:
            print(sharded.describe(self.trainer.model), flush=True)
        if self.trainer.progress:
            self.trainer.restore_log()

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self.trainer.sampler.set_epoch(int(state.epoch or 0))


class StopOnSignal(TrainerCallback):
    """The first Ctrl-C or SIGTERM finishes the step, saves, and ends the run; a later Ctrl-C ends it at once.

    A launcher such as torchrun passes on what the terminal has sent already, so what comes within a second of the
    first is the same wish, and SIGTERM, which clusters repeat, never ends a run at once.
    """

    def __init__(self, trainer: MultiModalTrainer) -> None:
        self.trainer, self.begin = trainer, 0.0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number, frame) -> None:
        if self.trainer.stop_asked:
            if number == signal.SIGINT and time.monotonic() - self.begin > 1:
                raise KeyboardInterrupt
            return
        self.trainer.stop_asked, self.begin = True, time.monotonic()
        os.write(2, b"\nstopping after this step and saving; press Ctrl-C again to stop at once\n")  # print may be busy

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if self.trainer.stopping:
            control.should_save = control.should_training_stop = True
