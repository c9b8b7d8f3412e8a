"""Contrastive training: the loop of training/ with pairs of pictures and texts, evaluated by Recall@1.

checkpoint-<step>/
    trained.safetensors    the trained tensors, adapters as adapters, to resume
    towers/                both towers with adapters merged, tokenizer and image processor: a whole model
    config.yaml, manifest.json and the files of training/state.py
"""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from safetensors.torch import save_file

from common.errors import UserError
from common.hashing import hash_model
from dataset.image import load_image_processor
from model.checkpoint import read_tensors
from model.manifest import read_manifest
from retrieval.captions import caption_questions, captioned
from retrieval.contrastive import Contrastive, Options, build_towers, fill_trained, merged, trained_tensors
from retrieval.encoder import Encoder
from retrieval.feed import PairFeed
from retrieval.recall import Captioned, recall, similarities_of
from settings import Config, save_config
from training import fsdp
from training.feed import Batch
from training.loop import Loop
from training.setup import choose_dtype, open_accelerator
from visual.two_towers import TOWERS, towers_folder

TRAINED = "trained.safetensors"
MOST_VALIDATED = 1000  # pictures: Recall@1 of 0.5 then has a standard error of 0.016


class ContrastiveLoop(Loop):
    """``validated`` are the validation pictures; empty where train.eval_strategy is no."""

    model: Any
    validated: Sequence[Captioned] = ()
    encoder: Encoder

    def begin_weights(self) -> None:
        """The towers are complete as they were built."""

    def load_weights(self, checkpoint: Path) -> None:
        fill_trained(self.model, read_tensors(checkpoint / TRAINED), checkpoint / TRAINED)

    def trained_state(self) -> dict[str, torch.Tensor]:
        return trained_tensors(self.model)

    def save_weights(self, folder: Path, state: dict[str, torch.Tensor]) -> None:
        save_file(state, folder / TRAINED)
        merged(self.model.towers).save_pretrained(folder / TOWERS)  # type: ignore[operator]  # a PreTrainedModel
        self.tokenizer.save_pretrained(folder / TOWERS)
        self.image_processor.save_pretrained(folder / TOWERS)
        save_config(self.config, folder / "config.yaml")

    def fetch(self) -> tuple[list[Batch], torch.Tensor]:
        """This process's batches of a step, and how many they are."""
        begin = time.perf_counter()
        batches = self.feed.step()
        for batch in batches:
            self.images += len(batch["pixel_values"]) * self.accelerator.num_processes
            self.throughput.add(batch["info"].counts)
            self.warn_of_skipped(batch)
        self.throughput.waiting += time.perf_counter() - begin
        # The loop sums the shares of all processes, and each process has the whole loss.
        return batches, torch.tensor(len(batches) * self.accelerator.num_processes, device=self.accelerator.device)

    @torch.no_grad()
    def evaluate(self) -> None:
        """Log the loss and Recall@1 of the validation pictures, which every process computes."""
        begin = time.perf_counter()
        self.model.eval()
        found = recall(similarities_of(self.encoder, self.validated, {}))
        files = [Path(picture.path) for picture in self.validated]
        problems: dict[Path, str] = {}
        images = torch.cat([torch.from_numpy(vectors) for _, vectors in self.encoder.images(files, problems)])
        shown = [picture.captions[0] for picture in self.validated if Path(picture.path) not in problems]
        texts = torch.from_numpy(self.encoder.texts(shown))
        device = self.accelerator.device
        self.throughput.begin += time.perf_counter() - begin  # not training time
        loss = self.model.loss_of(texts.to(device), images.to(device))
        self.note(
            {
                "eval_loss": loss,
                "eval_text_to_image": found["text_to_image"]["recall_at_1"],
                "eval_image_to_text": found["image_to_text"]["recall_at_1"],
                "eval_chance": found["text_to_image"]["chance_at_1"],
            }
        )
        self.note_best(loss)


def build_loop(config: Config, run: Path, options: Options) -> ContrastiveLoop:
    """Everything that a contrastive run needs.

    Raises:
        UserError: something that the config names is missing, or does not go together.
    """
    train = config.train
    if fsdp.is_wanted(train.fsdp):
        raise UserError("train.fsdp: two towers fit on one GPU; train them with plain torchrun")
    dtype, reason = choose_dtype(config)
    print(f"compute   {str(dtype).removeprefix('torch.')}: {reason}")
    accelerator = open_accelerator(config, dtype)
    set_seed(train.seed)
    towers = build_towers(config, options)
    processor = load_image_processor(towers_folder(config.vision.path, "vision.path"))
    encoder = Encoder(towers, processor, config.data.max_pixels)
    feed = PairFeed(config, captioned(caption_questions(config, "train")), encoder)
    model: Any = Contrastive(towers, options.loss)
    facts = describe(config, model, options, feed.data_hash, new=bool(towers.new))
    set_seed(train.seed + accelerator.process_index)  # each process drops out differently
    loop = ContrastiveLoop(config, run, model, feed, accelerator, facts, towers.tokenizer, processor)  # type: ignore[arg-type]  # the loop asks a feed for its steps only
    loop.encoder = encoder
    if train.eval_strategy != "no":
        loop.validated = captioned(caption_questions(config, "validation"))[:MOST_VALIDATED]
    print_start(model, feed, loop.validated)
    return loop


def describe(config: Config, model: Contrastive, options: Options, data_hash: str, new: bool) -> dict[str, Any]:
    """What a checkpoint's manifest records of the run."""
    packages = ("torch", "transformers", "peft", "accelerate", "safetensors", "pillow")
    paths = {"vision.path": towers_folder(config.vision.path, "vision.path")}
    if new:
        paths["language.path"] = config.language.path  # its tokenizer
    return {
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in packages}},
        "base_models": {key: {"path": path, "sha256": hash_model(path, key)} for key, path in paths.items()},
        "data": {"sha256": data_hash},
        "seed": config.train.seed,
        "trainable": {name: list(p.shape) for name, p in model.named_parameters() if p.requires_grad},
        "two_towers": asdict(options),
    }


def options_of(checkpoint: Path) -> Options:
    """The options that a checkpoint's run was started with.

    Raises:
        UserError: it is of another kind of run.
    """
    try:
        return Options(**read_manifest(checkpoint)["two_towers"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{checkpoint}: not a checkpoint of `retrieval train`") from error


def print_start(model: Contrastive, feed: PairFeed, validated: Sequence[Captioned]) -> None:
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        part = counts.setdefault(model.part_of(name), [0, 0])
        part[0] += parameter.numel() * parameter.requires_grad
        part[1] += parameter.numel()
    names = {"vision": "pictures", "language": "texts", "projector": "both"}
    for own, (trained, total) in counts.items():
        print(f"{names[own]:10}{trained:>13,} of {total:>13,} parameters trained")
    captions = sum(len(picture.captions) for picture in feed.pictures)
    print(f"data      {len(feed.pictures):,} pictures with {captions:,} captions, {len(validated):,} for validation")
    print(f"batch     {feed.size:,} pairs, each compared with all others; {feed.steps:,} steps an epoch", flush=True)
