"""From a config to a :class:`training.loop.Loop`: data, model, accelerator; prints what is trained, and on what."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import platform
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    set_seed,
)

from common.errors import UserError
from common.hashing import hash_files, hash_model
from dataset.conversations import count_pictures, describe_pictures
from dataset.image import load_image_processor
from dataset.image_caption_dataset import ImageCaptionDataset
from dataset.streaming import StreamedDataset, find_shards
from model.adapters import base_of, lora_layers
from model.checkpoint import base_models
from model.compiling import compile_layers
from model.feature_cache import FeatureCache
from model.model import MMultiModal, build_model
from model.start_from import Start
from model.start_weights import build_from_start
from qwen.tokenizer import load_tokenizer
from settings import Config
from training import fsdp
from training.distributed import world_size
from training.feed import EpochFeed, Feed, StreamFeed, plan
from training.loop import Loop
from training.qformer_stage import build_qformer_stage

Announce = Callable[[Config, ImageCaptionDataset, torch.dtype], None]


def build_loop(config: Config, run: Path, announce: Announce | None = None, start: Start | None = None) -> Loop:
    """Everything a run needs, ready to train into the folder ``run``.

    ``announce(config, dataset, dtype)`` is called before the models are loaded, unless they are sharded. ``start``
    is the checkpoint of ``train.start_from``; None for a run that is resumed, whose checkpoints hold what it took.

    Raises:
        UserError: something that the config names is missing, or does not go together on this machine.
    """
    train = config.train
    if sharded := fsdp.is_wanted(train.fsdp):
        fsdp.require_fit(config)
    dtype, reason = choose_dtype(config)
    print(f"compute   {str(dtype).removeprefix('torch.')}: {reason}")
    tokenizer = load_tokenizer(config.language.path, config.data.has_boxes)
    processor = load_image_processor(config.vision.path, config.vision.image_size)
    feed = open_feed(decide_packing(config, dtype), tokenizer, processor)
    require_optional(config)
    accelerator = open_accelerator(config, dtype)
    if announce and not sharded and not train.qformer_alone:  # the estimate is of one process that holds all
        announce(config, feed.known, dtype)
    set_seed(train.seed)
    if start:
        model, lines = build_from_start(config, tokenizer, dtype, accelerator.device, start)
        print(
            f"start     {start.folder}: its weights alone, in a new run from step 0 (--resume would continue that run)"
        )
        print(*lines, sep="\n")
    elif train.qformer_alone:
        model = build_qformer_stage(config, tokenizer, dtype)
    else:
        model = build_model(config, tokenizer, dtype, accelerator.device)
    if not train.qformer_alone:
        model.set_attention(choose_attention(config, model, dtype))
    if train.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if config.data.feature_cache is not None:
        keep_features(model, config.data.feature_cache, config, accelerator, feed)
    facts = describe_run(config, model, train.seed, feed.data_hash)
    if train.torch_compile:
        compile_layers(model)
    set_seed(train.seed + accelerator.process_index)  # each process drops out differently
    print_start(config, model, feed)
    return Loop(config, run, model, feed, accelerator, facts, tokenizer, processor, start)


def open_accelerator(config: Config, dtype: torch.dtype) -> Accelerator:
    """accelerate, set to the run's device and precision; joins the process group if there are several processes."""
    plugin = fsdp.plugin() if fsdp.is_wanted(config.train.fsdp) else None
    if config.train.torch_compile and torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")  # TF32, which compiled kernels gain most from
    accelerator = Accelerator(
        # Without a GPU and without this, accelerate would let each of several processes train alone.
        cpu=config.train.use_cpu or not torch.cuda.is_available(),
        mixed_precision="bf16" if dtype == torch.bfloat16 else "no",
        # The loop counts the batches of a step itself.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        fsdp_plugin=plugin,
        kwargs_handlers=[
            # Every parameter is used in every step (use_all). Searching for unused ones would cost a wait each step.
            DistributedDataParallelKwargs(find_unused_parameters=False),
            # The other processes wait while the first one fills data.feature_cache.
            InitProcessGroupKwargs(timeout=timedelta(minutes=30)),
        ],
    )
    if plugin:
        fsdp.prepare(accelerator, plugin, dtype)
    return accelerator


def open_feed(config: Config, tokenizer, image_processor) -> Feed:
    evaluates, tools = config.train.eval_strategy != "no", (tokenizer, image_processor)
    if config.data.stream is not None:
        stream = StreamedDataset(config, *tools, "train")
        validation_stream = StreamedDataset(config, *tools, "validation") if evaluates else None
        return StreamFeed(config, stream, validation_stream, hash_data(config))
    dataset = ImageCaptionDataset(config, *tools, "train")
    validation = ImageCaptionDataset(config, *tools, "validation") if evaluates else None
    return EpochFeed(config, dataset, validation, hash_data(config))


def keep_features(model: MMultiModal, folder: Path, config: Config, accelerator: Accelerator, feed: Feed) -> None:
    """Let the tower see every image once, now, and give the datasets its features.

    Raises:
        UserError: the tower is trained, so that its features change, or is not the one of ``vision.path``.
    """
    if config.vision.train != "frozen":
        raise UserError(f"data.feature_cache: vision.train is {config.vision.train}; only a frozen tower can be kept")
    if "vision" in model.changed_bases:
        raise UserError(
            "data.feature_cache: train.start_from changes the tower, whose files name the cache; set it to null"
        )
    datasets = [
        dataset for dataset in (feed.known, feed.validation_dataset) if isinstance(dataset, ImageCaptionDataset)
    ]
    model.vision.to(accelerator.device)
    paths = [str(dataset.paths[i]) for dataset in datasets for _, talk in dataset.conversations for i in talk["images"]]
    with accelerator.local_main_process_first():  # the first process computes them, the others find them
        processor = feed.known.image_processor
        cache = FeatureCache(folder, model.vision, config.vision.path, processor, config.data.max_pixels)
        new = cache.fill(paths, workers=config.train.dataloader_num_workers, progress=config.data.progress)
    print(f"features  of {len(set(paths)):,} images in {cache.folder}, {new:,} of them new")
    for dataset in datasets:
        dataset.features = cache


def choose_dtype(config: Config) -> tuple[torch.dtype, str]:
    """The dtype of frozen weights and of autocast, and the reason for the choice."""
    train = config.train
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    if train.use_cpu and train.bf16:
        return torch.bfloat16, "train.use_cpu and train.bf16 are set; trainable weights stay fp32"
    if train.use_cpu or not name:
        why = "train.use_cpu is set" if train.use_cpu else "no CUDA GPU was found"
        return torch.float32, f"{why}, so this trains on the CPU, in fp32 (right for the demo, slow for real models)"
    if not train.bf16:
        return torch.float32, f"train.bf16 is off ({name})"
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float32, f"{name} has no bf16 units; fp32 is slower and takes twice the memory"
    return torch.bfloat16, f"{name} computes in bf16; trainable weights stay fp32"


def decide_packing(config: Config, dtype: torch.dtype) -> Config:
    """The config with ``data.packing`` true or false. Null is true where ``data.tokens_per_batch`` is set and the
    attention skips what trees do not see of each other; SDPA with a mask would compute all of it.
    """
    data, attention = config.data, config.language.attention
    if data.packing is not None:
        return config
    skips = attention in ("tree_attention", "flex_attention") or (
        attention == "auto" and cuda_trains(config) and dtype == torch.bfloat16 and config.language.train != "prefix"
    )
    packing = data.tokens_per_batch is not None and skips and not config.train.qformer_alone
    return config.model_copy(update={"data": data.model_copy(update={"packing": packing})})


def cuda_trains(config: Config) -> bool:
    return torch.cuda.is_available() and not config.train.use_cpu


def choose_attention(config: Config, model: MMultiModal, dtype: torch.dtype) -> str:
    """The attention that the language model trains with: ``tree_attention`` wherever its flash kernels run.

    Raises:
        UserError: ``language.attention`` asks for one that cannot run here.
    """
    asked = config.language.attention
    cuda = cuda_trains(config)
    sliding = set(base_of(model.language).config.layer_types) != {"full_attention"}
    prefix = config.language.train == "prefix"
    if prefix and asked in ("tree_attention", "flex_attention"):
        raise UserError(f"language.attention = {asked}: it has no keys in front of all branches; set it to sdpa")
    if asked == "auto":
        return "tree_attention" if cuda and dtype == torch.bfloat16 and not sliding and not prefix else "sdpa"
    if asked == "tree_attention" and (not cuda or dtype != torch.bfloat16 or sliding):
        why = "the model has sliding windows" if sliding else "its kernels need CUDA and train.bf16"
        raise UserError(f"language.attention = tree_attention: {why}; set it to auto")
    return asked


def require_optional(config: Config) -> None:
    """Check the settings that need a GPU or an optional package.

    Raises:
        UserError: names the setting, and what to do.
    """
    train = config.train
    if "tensorboard" in train.report_to and importlib.util.find_spec("tensorboard") is None:
        raise UserError("train.report_to = tensorboard: it is not installed; pip install tensorboard")
    if "8bit" in train.optim:
        require_bitsandbytes(f"train.optim = {train.optim}", "train.optim=adamw_torch", train.use_cpu)
    if config.language.load_in_4bit:
        require_bitsandbytes("language.load_in_4bit = true", "language.load_in_4bit=false", train.use_cpu)
    if config.language.attention == "flex_attention" and (train.use_cpu or not torch.cuda.is_available()):
        raise UserError("language.attention = flex_attention: its backward pass needs CUDA; set it to sdpa")


def require_bitsandbytes(setting: str, instead: str, use_cpu: bool = False) -> None:
    """Training with 4-bit weights or 8-bit optimiser states needs bitsandbytes and CUDA.

    bitsandbytes' CPU kernels are good enough to answer from a 4-bit checkpoint. In training they would dequantise every
    weight again in each forward and backward pass.

    Raises:
        UserError: begins with ``setting``; says to set ``instead``.
    """
    if use_cpu or not torch.cuda.is_available():
        raise UserError(
            f"{setting}: to train with it, install a CUDA build of torch (pytorch.org) on a machine with a CUDA GPU; "
            f"else set {instead}"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"{setting}: pip install bitsandbytes, or set {instead}")


def describe_run(config: Config, model: MMultiModal, seed: int, data_hash: str | None = None) -> dict[str, Any]:
    """What a checkpoint's manifest records of the run. ``data_hash`` is :func:`hash_data`, if known."""
    packages = ("torch", "transformers", "peft", "accelerate", "safetensors", "pillow")
    trainable = {name: list(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    return {
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in packages}},
        "base_models": {
            key: {"path": path, "sha256": hash_model(path, key)} for key, path in base_models(config).items()
        },
        "data": {"sha256": data_hash or hash_data(config)},
        "seed": seed,
        "trainable_parameters": {part: count for part, (count, _) in model.trainable_counts().items()},
        "trainable": trainable,
    }


def hash_data(config: Config) -> str:
    """SHA-256 of the two files; of shards only their names and sizes, because reading them would take hours."""
    if config.data.stream is None:
        return hash_files([config.data.image_map, config.data.annotations])
    shards = find_shards(config.data.stream, "data.stream")
    return hashlib.sha256(json.dumps([(path.name, path.stat().st_size) for path in shards]).encode()).hexdigest()


def print_start(config: Config, model: MMultiModal, feed: Feed) -> None:
    how = {"vision": config.vision.train, "projector": "full", "language": config.language.train}
    for part, (trainable, total) in model.trainable_counts().items():
        print(f"{part:10}{trainable:>13,} of {total:>13,} parameters trained ({how[part]})")
    for part in ("language", "vision"):
        if layers := lora_layers(getattr(model, part)):
            kinds = dict.fromkeys(name.rpartition(".")[2] for name in layers)
            print(f"lora      {len(layers)} layers of the {part} model: {', '.join(kinds)}")
    size = config.language.adapter_size
    if config.language.train == "prefix":
        print(f"prefix    {size} keys and values in front of every layer of the language model")
    elif config.language.train == "adapter":
        print(f"adapter   {size} wide, after attention and MLP of every layer of the language model")
    if config.train.qformer_alone:
        print(f"losses    {', '.join(config.train.losses)}, of the Q-Former alone; no language model is loaded")
    known, validation = feed.known, feed.validation_dataset
    if isinstance(feed, StreamFeed):
        print(f"stream    {feed.dataset}; of the first window:")
    mean = sum(known.lengths) / len(known)
    used = known.total - len(known.unusable)
    print(f"data      {used:,} conversations in {len(known):,} samples of {mean:.0f} tokens")
    conversations = [known.conversations[number][1] for tree in known.trees for number in tree]
    print(*describe_pictures(count_pictures(conversations), config.data.sources), sep="\n")
    if known.unusable:
        print(f"skipped   {known.describe_unusable()}")
    if isinstance(validation, ImageCaptionDataset):
        print(f"eval      {validation.total - len(validation.unusable):,} conversations of the validation split")
        if validation.unusable:
            print(f"skipped   validation: {validation.describe_unusable()}")
    elif validation is not None:
        print(f"eval      {validation}")
    else:
        print("eval      none while training, since train.eval_strategy is no")
    if validation is not None and config.train.eval_questions and fsdp.is_wanted(config.train.fsdp):
        print("eval      loss only: with FSDP no process holds a model that could answer train.eval_questions")
    batches = plan(config, known, config.train.per_device_train_batch_size)
    rows = sum(map(len, batches)) / len(batches) * config.train.gradient_accumulation_steps * world_size()
    padding = 1 - sum(known.lengths) / max(1, sum(map(known.cost, batches)))
    print(f"batch     {rows:.1f} samples a step, about {rows * mean:,.0f} tokens, {padding:.1%} padding", flush=True)
