"""transformers' Trainer, taught this project's batches, learning rates, checkpoints and loss.

What differs from the stock Trainer, and why:

- the projector may have its own learning rate;
- batches hold samples of like length and come in an order that is a pure function of (seed, epoch), so a resumed run
  repeats it;
- a checkpoint is our folder (model/checkpoint.py), its optimiser and random states in safetensors and JSON;
- the held-out loss is averaged over tokens, not over batches;
- Ctrl-C ends the run after the step at hand, with a checkpoint.
"""

from __future__ import annotations

import json
import logging
import math
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer, TrainerCallback

from dataset.image_caption_dataset import ImageCaptionDataset, collate
from dataset.trees import plan_batches
from model.checkpoint import load_weights, save_weights, write_json, write_manifest
from model.model import MMultiModal
from settings import Config

logger = logging.getLogger(__name__)


class EpochBatches(Sampler):
    """Planned batches in an order that is a pure function of (seed, epoch); each a list of ``epoch * length + index``.

    Args:
        batches: indices of samples, each batch of like length (:func:`dataset.trees.plan_batches`). They are planned
            once and only their order changes: the Trainer takes every epoch to have as many batches as the first.
        length: of the dataset.
        seed: of the order; None keeps the batches as they are.
    """

    batch_size, drop_last = None, False  # asked for by accelerate

    def __init__(self, batches: list[list[int]], length: int, seed: int | None) -> None:
        self.batches, self.length, self.seed, self.epoch = batches, length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        order = range(len(self.batches))
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
            order = torch.randperm(len(self.batches), generator=generator).tolist()
        for number in order:
            yield [self.epoch * self.length + index for index in self.batches[number]]


class Throughput:
    """What went through since the last log: tokens, the visual ones among them, padding, and time without data."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.begin, self.waiting = time.perf_counter(), 0.0
        self.tokens = self.visual = self.padding = 0

    def add(self, counts: dict[str, int]) -> None:
        self.tokens += counts["tokens"]
        self.visual += counts["visual"]
        self.padding += counts["padding"]

    def report(self) -> dict[str, float]:
        """Real tokens per second (visual and text), and the shares of padding and of waiting; starts anew."""
        seconds = time.perf_counter() - self.begin
        numbers = {
            "tokens_per_second": round(self.tokens / seconds),
            "text_tokens_per_second": round((self.tokens - self.visual) / seconds),
            "padding": round(self.padding / max(1, self.tokens + self.padding), 4),
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
        super().__init__(
            model=model,
            train_dataset=dataset,
            eval_dataset=held_out,
            data_collator=partial(collate, pad_token_id=dataset.tokenizer.pad_token_id),
            **kwargs,
        )
        self.model_accepts_loss_kwargs = True  # our forward divides by num_items_in_batch, the whole step's labels
        self.add_callback(_SetEpoch(self))

    # ------------------------------------------------------------------------------------------ data and loss

    def get_train_dataloader(self) -> DataLoader:
        args = self.args
        seed = args.seed if args.data_seed is None else args.data_seed
        batches = self.plan(self.train_dataset, args.per_device_train_batch_size)
        self.sampler = EpochBatches(batches, len(self.train_dataset), seed)
        return self._loader(self.train_dataset, self.sampler)

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        dataset = eval_dataset or self.eval_dataset
        batches = self.plan(dataset, self.args.per_device_eval_batch_size)
        return self._loader(dataset, EpochBatches(batches, len(dataset), seed=None))

    def plan(self, dataset: ImageCaptionDataset, size: int) -> list[list[int]]:
        """Batches of like length: ``size`` samples, or as many as ``data.tokens_per_batch`` holds."""
        budget = self.run_config.data.tokens_per_batch
        return plan_batches(dataset.lengths, size=size, budget=budget, seed=self.run_config.data.seed)

    def _loader(self, dataset: ImageCaptionDataset, batches: EpochBatches) -> DataLoader:
        args, workers = self.args, self.args.dataloader_num_workers
        loader = DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers and workers > 0,
            prefetch_factor=args.dataloader_prefetch_factor,
        )
        return self.accelerator.prepare(loader)

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device):
        begin = time.perf_counter()
        batches = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.throughput.waiting += time.perf_counter() - begin
        return batches

    def _prepare_inputs(self, inputs: dict) -> dict:
        """Keep what is for people (ids, notes of skipped samples) out of the model's arguments."""
        skipped = inputs.pop("skipped", [])
        inputs.pop("ids", None)
        counts = inputs.pop("counts", None)
        if counts and self.model.training:
            self.throughput.add(counts)
        for line in skipped:
            self.skipped_samples += 1
            logger.warning("skipped %s (another sample stands in; %d so far)", line, self.skipped_samples)
        return super()._prepare_inputs(inputs)

    def log(self, logs: dict, start_time: float | None = None) -> None:
        if self.skipped_samples:
            logs["skipped_samples"] = self.skipped_samples
        if "loss" in logs:
            logs |= self.throughput.report()
        super().log(logs, start_time)

    @torch.no_grad()
    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Mean cross entropy over every supervised token of the held-out split (and its exponential)."""
        begin = time.perf_counter()
        loader = self.get_eval_dataloader(eval_dataset)
        self.model.eval()
        total = torch.zeros((), dtype=torch.float64)
        count = 0
        for batch in loader:
            inputs = self._prepare_inputs(batch)
            labels = int((inputs["labels"][:, 1:] != -100).sum())
            with self.compute_loss_context_manager():
                total += self.model(**inputs).loss.double().cpu() * labels
            count += labels
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        loss = (total / count).item()
        metrics = {f"{metric_key_prefix}_loss": loss, f"{metric_key_prefix}_perplexity": math.exp(min(loss, 50.0))}
        self.throughput.begin += time.perf_counter() - begin  # not training time
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # ------------------------------------------------------------------------------------------ optimiser

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """AdamW (or what ``train.optim`` names): decay on matrices only, the projector at its own learning rate."""
        if self.optimizer is None:
            cls, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = cls(self.parameter_groups(), **options)
        return self.optimizer

    def parameter_groups(self) -> list[dict]:
        rates = {"projector": self.run_config.projector.learning_rate or self.args.learning_rate}
        groups: dict[tuple, list] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                rate = rates.get(self.model.part_of(name), self.args.learning_rate)
                decay = self.args.weight_decay if parameter.ndim > 1 else 0.0
                groups.setdefault((rate, decay), []).append(parameter)
        return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]

    # ------------------------------------------------------------------------------------------ checkpoints

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        save_weights(self.model, self.tokenizer, self.image_processor, self.run_config, Path(output_dir))

    def _save_checkpoint(self, model, trial) -> None:
        super()._save_checkpoint(model, trial)
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        write_manifest(folder, {**self.facts, "step": self.state.global_step, "epoch": self.state.epoch})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        load_weights(self.model, self.run_config, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        load_weights(self.model, self.run_config, Path(self.state.best_model_checkpoint))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Optimiser and schedule as safetensors (the moments) and JSON (the rest): no pickle."""
        state = self.optimizer.state_dict()
        tensors, plain = {}, {}
        for index, values in state["state"].items():
            for key, value in values.items():
                if torch.is_tensor(value):
                    tensors[f"{index}.{key}"] = value.detach().cpu().contiguous()
                else:
                    plain[f"{index}.{key}"] = value
        save_file(tensors, Path(output_dir) / "optimizer.safetensors")
        rest = {"groups": state["param_groups"], "plain": plain, "scheduler": self.lr_scheduler.state_dict()}
        write_json(Path(output_dir) / "optimizer.json", rest)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        rest = json.loads((Path(checkpoint) / "optimizer.json").read_text(encoding="utf-8"))
        state: dict[int, dict] = {}
        values = {**load_file(Path(checkpoint) / "optimizer.safetensors"), **rest["plain"]}
        for name, value in values.items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": rest["groups"]})
        self.lr_scheduler.load_state_dict(rest["scheduler"])

    def _save_rng_state(self, output_dir: str) -> None:
        """Random states: torch's as tensors, Python's and numpy's as JSON."""
        tensors = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            tensors |= {f"cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
        save_file(tensors, Path(output_dir) / "random.safetensors")
        name, keys, *rest = np.random.get_state()
        write_json(
            Path(output_dir) / "random.json",
            {"python": random.getstate(), "numpy": [name, keys.tolist(), *rest]},
        )

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        tensors = load_file(Path(checkpoint) / "random.safetensors")
        torch.set_rng_state(tensors.pop("cpu"))
        for name, state in tensors.items():
            if torch.cuda.is_available():
                torch.cuda.set_rng_state(state, int(name.split(".")[1]))
        plain = json.loads((Path(checkpoint) / "random.json").read_text(encoding="utf-8"))
        version, numbers, gauss = plain["python"]
        random.setstate((version, tuple(numbers), gauss))
        name, keys, *rest = plain["numpy"]
        np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))


class _SetEpoch(TrainerCallback):
    """Tell the sampler the epoch: under the Trainer's skip wrapper a resumed run would shuffle as in epoch 0."""

    def __init__(self, trainer: MultiModalTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self.trainer.sampler.set_epoch(int(state.epoch or 0))


class StopOnSignal(TrainerCallback):
    """The first Ctrl-C (or SIGTERM) finishes the step, saves, and ends the run; a second one ends it at once."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number, frame) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nstopping after this step and saving; press Ctrl-C again to stop at once", file=sys.stderr)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if self.asked:
            control.should_save = control.should_training_stop = True


def samples_of_batch(dataset: ImageCaptionDataset, indices: list[int]) -> dict:
    """One collated batch of chosen samples, without what is for people."""
    batch = collate([dataset[i] for i in indices], dataset.tokenizer.pad_token_id)
    return {key: value for key, value in batch.items() if torch.is_tensor(value)}
