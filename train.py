"""Train projector and adapters.

    python train.py --config config.yaml
    python train.py --config config.yaml --dry-run        # does it fit, and how long will it take?
    python train.py --config config.yaml --resume         # go on from the run's latest checkpoint, if it has one
    torchrun --nproc-per-node 8 train.py --resume         # on eight GPUs; FSDP and more in docs/scaling.md

Checkpoints go to <train.output>/<train.run>/checkpoint-<step>.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import TrainingArguments, set_seed

from common.errors import UserError
from common.files import remove_folder
from common.hashing import hash_files, hash_model
from dataset.collate import samples_of_batch
from dataset.image import load_image_processor
from dataset.image_caption_dataset import ImageCaptionDataset
from dataset.loader import lost_worker
from dataset.streaming import StreamedDataset, find_shards
from dataset.trees import plan_batches
from model.adapters import lora_layers
from model.checkpoint import base_models
from model.feature_cache import FeatureCache
from model.memory import Batch, estimate
from model.model import MMultiModal, build_model, quiet_libraries
from model.run_checkpoints import checkpoints, latest_checkpoint, newest_undamaged, remove_stale, step_of
from qwen.tokenizer import load_tokenizer
from settings import Config, Train, add_config_arguments, load_config, require_paths
from training import fsdp as sharded
from training.distributed import leave_together, only_first_speaks, rank
from training.streamed import StreamedTrainer
from training.trainer import MultiModalTrainer, StopOnSignal


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
                dry_run(build_trainer(config, Path(aside), announce=print_estimate))
        else:
            run = config.train.output / config.train.run
            latest = prepare_run(run, args.resume, args.overwrite)
            train(build_trainer(config, run), args, run, latest)
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


def build_trainer(config: Config, run: Path, announce: Callable | None = None) -> MultiModalTrainer:
    """Everything a run needs; prints what is trained, on what, in which batches and in which dtype.

    ``announce(config, dataset, dtype)`` is called before the models are loaded, unless they are sharded.
    """
    if fsdp := sharded.is_wanted(config.train.fsdp):
        sharded.require_fit(config)
    dtype, reason = choose_dtype(config.train)
    print(f"compute   {str(dtype).removeprefix('torch.')}: {reason}")
    tokenizer = load_tokenizer(config.language.path)
    processor = load_image_processor(config.vision.path, config.vision.image_size)
    read = ImageCaptionDataset if config.data.stream is None else StreamedDataset
    dataset = read(config, tokenizer, processor, "train")
    held_out = None
    if config.train.eval_strategy != "no":
        held_out = read(config, tokenizer, processor, "held_out")
    training_arguments = make_arguments(config, run, dtype)
    known = known_part(dataset)
    if announce and not fsdp:  # the estimate is of one process that holds all
        announce(config, known, dtype)
    set_seed(training_arguments.seed)
    if config.language.load_in_4bit:
        require_bitsandbytes("language.load_in_4bit = true", "language.load_in_4bit=false", training_arguments.use_cpu)
    model = build_model(config, tokenizer, dtype, training_arguments.device)
    if config.language.attention == "flex_attention" and (training_arguments.use_cpu or not torch.cuda.is_available()):
        raise UserError("language.attention = flex_attention: its backward pass needs CUDA; set it to sdpa")
    model.set_attention(config.language.attention)
    if config.train.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if config.data.feature_cache is not None:
        keep_features(model, config, training_arguments, [dataset] if held_out is None else [dataset, held_out])
    facts = describe_run(config, model, training_arguments.seed)
    trainer_class = MultiModalTrainer if config.data.stream is None else StreamedTrainer
    trainer = trainer_class(model, config, dataset, held_out, facts, args=training_arguments)
    if training_arguments.process_index:
        set_seed(training_arguments.seed + training_arguments.process_index)  # else all processes drop out alike
    print_start(trainer, config, known)
    return trainer


def known_part(dataset: ImageCaptionDataset | StreamedDataset) -> ImageCaptionDataset:
    """What is known of the training data before it is trained on: all of it, or a stream's beginning."""
    return dataset.first_window() if isinstance(dataset, StreamedDataset) else dataset


def keep_features(
    model: MMultiModal, config: Config, arguments: TrainingArguments, datasets: list[ImageCaptionDataset]
) -> None:
    """Let the tower see every image once, now, and give the datasets what it made of them."""
    if config.vision.train != "frozen":
        raise UserError(f"data.feature_cache: vision.train is {config.vision.train}; only a frozen tower can be kept")
    processor = datasets[0].image_processor
    model.vision.to(arguments.device)
    paths = [dataset.paths[i] for dataset in datasets for _, talk in dataset.conversations for i in talk["images"]]
    kept = (config.data.feature_cache, model.vision, config.vision.path, processor, config.data.max_pixels)
    with arguments.main_process_first(desc="features"):  # the first process makes them, the others find them
        cache = FeatureCache(*kept)
        new = cache.fill(paths, workers=arguments.dataloader_num_workers, progress=config.data.progress)
    print(f"features  of {len(set(paths)):,} images in {cache.folder}, {new:,} of them new")
    for dataset in datasets:
        dataset.features = cache


def choose_dtype(train: Train) -> tuple[torch.dtype, str]:
    """The dtype of frozen weights and of autocast, and the reason for it in words."""
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


def require_bitsandbytes(setting: str, instead: str, use_cpu: bool = False) -> None:
    """4-bit weights and optimiser states in 8 bits or paged are bitsandbytes', and trained with on CUDA alone.

    Its CPU kernels, which answer from a 4-bit checkpoint, have to make every weight anew in each forward and backward
    pass, and save no time for the memory they save.
    """
    if use_cpu or not torch.cuda.is_available():
        raise UserError(
            f"{setting}: to train with it, install a CUDA build of torch (pytorch.org) on a machine with a CUDA GPU; "
            f"else set {instead}"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"{setting}: pip install bitsandbytes, or set {instead}")


def make_arguments(config: Config, run: Path, dtype: torch.dtype) -> TrainingArguments:
    train = config.train
    if "tensorboard" in train.report_to and importlib.util.find_spec("tensorboard") is None:
        raise UserError("train.report_to = tensorboard: it is not installed; pip install tensorboard")
    if "8bit" in train.optim:
        require_bitsandbytes(f"train.optim = {train.optim}", "train.optim=adamw_torch", train.use_cpu)
    ours = {"run", "output", "max_nonfinite_steps", "early_stopping_patience", "gradient_checkpointing"}
    fixed = {
        "max_steps": train.max_steps or -1,
        "fsdp": train.fsdp or None,
        "report_to": train.report_to or "none",
        "per_device_eval_batch_size": train.eval_batch_size,
        "eval_steps": train.steps_per_eval,
        "max_grad_norm": train.max_grad_norm or 0.0,
        "disable_tqdm": not (config.data.progress and sys.stderr.isatty()),
        "output_dir": str(run),
        "bf16": dtype == torch.bfloat16,
        "remove_unused_columns": False,  # the collate function needs every field of a sample
        "label_names": ["labels"],
        "average_tokens_across_devices": True,  # one weight per supervised token, whichever process has it
        "ddp_find_unused_parameters": False,  # there are none (use_all); looking for them waits in every step
        "logging_nan_inf_filter": False,  # it waits for the device at every batch; such steps are dropped as a whole
    }
    if not torch.cuda.is_available():
        fixed["use_cpu"] = True  # else several processes without a GPU would not find each other, and each train alone
        fixed["dataloader_pin_memory"] = False  # pinning is for copies to a GPU; without one torch warns
    try:
        return TrainingArguments(**{**train.model_dump(exclude=ours), **fixed})
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"train: {' '.join(str(error).split())}") from error


def describe_run(config: Config, model: MMultiModal, seed: int) -> dict:
    """What a checkpoint's manifest says about where it comes from."""
    packages = ("torch", "transformers", "peft", "accelerate", "safetensors", "pillow")
    trainable = {name: list(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    return {
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in packages}},
        "base_models": {
            key: {"path": path, "sha256": hash_model(path, key)} for key, path in base_models(config).items()
        },
        "data": {"sha256": hash_data(config)},
        "seed": seed,
        "trainable_parameters": {part: count for part, (count, _) in model.trainable_counts().items()},
        "trainable": trainable,
    }


def hash_data(config: Config) -> str:
    """Of the two files; of shards their names and sizes, as reading them would take hours."""
    if config.data.stream is None:
        return hash_files([config.data.image_map, config.data.annotations])
    shards = find_shards(config.data.stream, "data.stream")
    return hashlib.sha256(json.dumps([(path.name, path.stat().st_size) for path in shards]).encode()).hexdigest()


def print_start(trainer: MultiModalTrainer, config: Config, dataset: ImageCaptionDataset) -> None:
    args = trainer.args
    how = {"vision": config.vision.train, "projector": "full", "language": config.language.train}
    for part, (trainable, total) in trainer.model.trainable_counts().items():
        print(f"{part:10}{trainable:>13,} of {total:>13,} parameters trained ({how[part]})")
    for part in ("language", "vision"):
        if layers := lora_layers(getattr(trainer.model, part)):
            kinds = dict.fromkeys(name.rpartition(".")[2] for name in layers)
            print(f"lora      {len(layers)} layers of the {part} model: {', '.join(kinds)}")
    batches = trainer.plan(dataset, args.per_device_train_batch_size)
    rows = sum(map(len, batches)) / len(batches) * args.gradient_accumulation_steps * args.world_size
    tokens = sum(dataset.lengths)
    room = sum(len(batch) * max(dataset.lengths[i] for i in batch) for batch in batches)
    mean = tokens / len(dataset)
    if isinstance(trainer.train_dataset, StreamedDataset):
        print(f"stream    {trainer.train_dataset}; of the first window:")
    used = dataset.total - len(dataset.unusable)
    print(f"data      {used:,} conversations in {len(dataset):,} samples of {mean:.0f} tokens")
    if dataset.unusable:
        print(f"skipped   {dataset.describe_unusable()}")
    if isinstance(trainer.eval_dataset, StreamedDataset):
        print(f"held out  {trainer.eval_dataset}")
    elif trainer.eval_dataset is not None:
        held_out = trainer.eval_dataset
        print(f"held out  {held_out.total - len(held_out.unusable):,} conversations")
        if held_out.unusable:
            print(f"skipped   held out: {held_out.describe_unusable()}")
    padding = 1 - tokens / max(1, room)
    print(f"batch     {rows:.1f} samples a step, about {rows * mean:,.0f} tokens, {padding:.1%} padding", flush=True)


def train(trainer: MultiModalTrainer, args: argparse.Namespace, run: Path, latest: Path | None) -> None:
    trainer.add_callback(StopOnSignal(trainer))
    if latest is not None:
        print(f"resuming from {latest}", flush=True)
    try:
        trainer.train(resume_from_checkpoint=str(latest) if latest else None)
        leave_together()
    except RuntimeError as error:
        if lost := lost_worker(error):
            raise lost from error
        if trainer.args.world_size == 1:
            raise
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"process {trainer.args.process_index} of {trainer.args.world_size} cannot go on, most likely because "
            f"another one has ended; see its message, then go on with --resume ({reason})"
        ) from error
    step = trainer.state.global_step
    if trainer.stopping and step < trainer.state.max_steps:
        print(f"stopped at step {step}; go on with: python train.py --config {args.config} --resume")
        return
    best = trainer.state.best_model_checkpoint
    print(f"done: {step} steps, checkpoints in {run}" + (f", the best is {Path(best).name}" if best else ""))


def print_estimate(config: Config, dataset: ImageCaptionDataset, dtype: torch.dtype) -> None:
    """What the longest batch will need, from configs alone."""
    size = config.train.per_device_train_batch_size
    batches = plan_batches(dataset.lengths, size=size, budget=config.data.tokens_per_batch, seed=config.data.seed)
    longest = max(batches, key=lambda batch: len(batch) * dataset.lengths[batch[-1]])
    inputs = samples_of_batch(dataset, longest)
    rows, length = inputs["input_ids"].shape
    labels = int((inputs["labels"][:, 1:] != -100).sum())
    batch = Batch(rows, length, int(inputs["images_per_row"].sum()), labels)
    found = estimate(config, len(dataset.tokenizer), batch, dtype)
    print(f"estimate  {found} (before loading; {rows} rows of {length} tokens)", flush=True)


def dry_run(trainer: MultiModalTrainer) -> None:
    """One optimiser step on the longest batch, then the time of typical ones."""
    dataset, args = known_part(trainer.train_dataset), trainer.args
    batches = trainer.plan(dataset, args.per_device_train_batch_size)
    batches.sort(key=lambda batch: len(batch) * dataset.lengths[batch[-1]])  # a batch's last sample is its longest
    longest, typical = batches[-1], batches[len(batches) // 2]
    trainer.create_optimizer()
    if trainer.is_fsdp_enabled:
        trainer.model, trainer.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    else:
        trainer.model.to(args.device)
    if args.device.type == "cuda":
        print(f"loaded    {torch.cuda.memory_allocated() / 2**30:.2f} GiB of weights on the GPU, measured")
    one_step(trainer, dataset, longest)
    memory = peak_memory()
    begin = time.perf_counter()
    for _ in range(3):
        one_step(trainer, dataset, typical)
    seconds = (time.perf_counter() - begin) / 3
    leave_together()
    per_epoch = -(-len(batches) // (args.gradient_accumulation_steps * args.world_size))
    steps = args.max_steps if args.max_steps > 0 else int(per_epoch * args.num_train_epochs)
    total = seconds * args.gradient_accumulation_steps * steps
    room = f"{len(longest)} samples of up to {dataset.lengths[longest[-1]]} tokens"
    print(f"longest   {room}: forward, backward and step fit")
    print(f"memory    {memory / 2**30:.2f} GiB at the peak ({'GPU' if args.device.type == 'cuda' else 'this process'})")
    print(f"time      {seconds:.2f} s for a typical batch; {steps:,} steps take about {total / 60:,.1f} minutes")


def one_step(trainer: MultiModalTrainer, dataset: ImageCaptionDataset, indices: list[int]) -> None:
    model = trainer.model.train()
    inputs = {k: v.to(trainer.args.device) for k, v in samples_of_batch(dataset, indices).items()}
    with trainer.compute_loss_context_manager():
        loss = model(**inputs).loss
    loss.backward()
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    if trainer.args.device.type == "cuda":
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
