"""The Trainer on a stream of shards (dataset/streaming.py): one endless epoch; its place is not a count of batches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from accelerate.utils import gather_object
from torch.utils.data import DataLoader
from transformers import Trainer

from common.errors import UserError
from dataset.collate import Position
from dataset.streaming import StreamedBatches, StreamedDataset
from training.trainer import MultiModalTrainer


class StreamedTrainer(MultiModalTrainer):
    """``train_dataset`` and ``eval_dataset`` are streams. The end is ``train.max_steps``: their length is not known."""

    def get_train_dataloader(self) -> DataLoader:
        args = self.args
        seed = args.seed if args.data_seed is None else args.data_seed
        size, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
        self.sampler = self._batches(self.train_dataset, size, seed, accumulation)
        return self._loader(self.sampler, None)

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        dataset = eval_dataset or self.eval_dataset
        return self._loader(self._batches(dataset, self.args.per_device_eval_batch_size, None, 1), None)

    def _batches(self, dataset: StreamedDataset, size: int, seed: int | None, accumulation: int) -> StreamedBatches:
        shared = (self.args.world_size, self.args.process_index, accumulation)
        return StreamedBatches(dataset, size, self.run_config.data.tokens_per_batch, seed, *shared)

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device):
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        for batch in batches:
            self.sampler.position = batch["info"].position
        return batches, count

    def _counted(self, loader: DataLoader) -> Iterator[tuple[dict, bool]]:
        for batch in loader:
            yield batch, batch["info"].real

    def set_initial_training_values(self, args, dataloader: DataLoader):
        return Trainer.set_initial_training_values(self, args, dataloader)

    def _init_training_state(self, *args, **kwargs) -> tuple[int, int]:
        """The stream begins where the checkpoint's run stood: the Trainer has nothing to skip."""
        Trainer._init_training_state(self, *args, **kwargs)
        if self.progress:
            stream = self.progress["stream"]
            if stream["fingerprint"] != self.train_dataset.fingerprint():
                raise UserError(
                    "--resume: the shards, or what decides on their batches (data.stream_window, tokens_per_batch, "
                    "train.per_device_train_batch_size, a seed, ...), are not those of the checkpoint; "
                    "set them as they were, or start anew with --overwrite"
                )
            self.sampler.position = Position(*stream["place"])
        return 0, 0

    def _position(self) -> dict:
        stream = {"place": list(self.sampler.position), "fingerprint": self.train_dataset.fingerprint()}
        return {"stream": stream}

    def _save_checkpoint(self, model, trial, evaluate: bool = False) -> None:
        places = gather_object([self.sampler.position])
        if any(place != places[0] for place in places):
            raise UserError(
                "the processes have read different records from the shards: some of them see a damaged or another "
                "file; go on from the last checkpoint with --resume when that is mended"
            )
        super()._save_checkpoint(model, trial, evaluate)

    def _maybe_log_save_evaluate(self, *args, **kwargs) -> None:
        self.state.epoch = self.sampler.epochs  # the Trainer's is a share of max_steps
        super()._maybe_log_save_evaluate(*args, **kwargs)
