"""What a changed key means on ``--resume``: it applies, or it is refused with the reason.

:data:`RESUME_RULES` is the one table of it; docs/training.md shows it, and :func:`check_changes` goes by it. Importing
this module costs no torch: a refused key is reported before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from common.errors import UserError
from settings import Config, load_config


@dataclass(frozen=True)
class Rule:
    """``meaning`` says how a changed key applies, or why it is refused."""

    keys: tuple[str, ...]  # patterns of fnmatch; the first rule that fits a key is its rule
    applies: bool
    meaning: str


def _applies(keys: str, meaning: str) -> Rule:
    return Rule(tuple(keys.split()), True, meaning)


def _refused(keys: str, meaning: str) -> Rule:
    return Rule(tuple(keys.split()), False, meaning)


RESUME_RULES: tuple[Rule, ...] = (
    _applies("*.learning_rate", "from the next step on; the schedule is a factor on it"),
    _applies("train.lr_scheduler_* train.warmup_steps", "the schedule is computed again; the run keeps its step in it"),
    _applies("train.num_train_epochs train.max_steps", "the run ends there, and the schedule with it"),
    _applies(
        "train.weight_decay train.adam_* train.max_grad_norm train.max_nonfinite_steps lora.lora_dropout",
        "from the next step on",
    ),
    _applies("train.gradient_accumulation_steps", "from the next step on, at the same batch"),
    _applies(
        "train.per_device_train_batch_size data.tokens_per_batch data.packing data.message_trees data.images_first "
        "data.seed "
        "data.image_map data.annotations data.max_pixels language.max_length train.seed train.data_seed",
        "at the same share of the epoch: samples of that epoch may come twice or not at all",
    ),
    _refused("train.optim", "the moments of one optimiser mean nothing to another"),
    _applies(
        "train.logging_steps train.eval_* train.per_device_eval_batch_size train.save_* train.report_to "
        "train.early_stopping_patience train.load_best_model_at_end",
        "from the next step on",
    ),
    _refused("train.losses", "other heads would be trained, which have no moments"),
    _refused("train.start_from*", "the run has begun; --resume takes its weights from its own checkpoint"),
    _applies("train.*", "at once"),  # where and how fast it computes
    _refused("vision.train vision.last_blocks language.train", "other weights would be trained, which have no moments"),
    _applies("model vision.path language.path", "a folder may have moved; another model is refused, by its SHA-256"),
    _refused("vision.*", "the weights of the checkpoint were trained on other visual tokens"),
    _refused("language.prefix_tokens language.adapter_width", "the checkpoint's adapters have another shape"),
    _applies("language.*", "at once"),
    _applies("projector.path", "not read again: the checkpoint holds the projector's weights"),
    _refused("projector.*", "the checkpoint's projector has another form"),
    _refused("lora.lora_alpha lora.alpha_pattern lora.use_rslora", "it would rescale the trained adapters"),
    _refused("lora.*", "the checkpoint's adapters have another shape or another start"),
    _applies("data.stream data.stream_validation", "the shards may have moved; other shards are refused"),
    _applies("data.*", "at once"),
    _applies("generate.* baselines.*", "not used in training"),
)

# With data.stream a position is counted in windows and batches, so what decides on these is fixed.
STREAM_RULE = _refused(
    "data.seed data.stream_window data.message_trees data.images_first data.tokens_per_batch data.packing "
    "data.keep_all_captions "
    "data.images_per_conversation language.max_length train.per_device_train_batch_size train.seed train.data_seed",
    "the position in the shards counts its windows and batches",
)

# Optimisers that keep the same states.
_SAME_STATES = ({"adamw_torch", "adamw_torch_fused"}, {"adamw_8bit", "paged_adamw_8bit"})


def check_changes(config: Config, checkpoint: Path) -> list[str]:
    """``key: before -> now`` for each key that is not as in the checkpoint's run, and applies.

    Raises:
        UserError: one line that names a refused key, both values and the reason.
    """
    before = load_config(checkpoint / "config.yaml", check_models=False)
    if (before.data.stream is None) != (config.data.stream is None):
        how = "without" if before.data.stream is None else "with"
        raise UserError(f"--resume: {checkpoint} was trained {how} data.stream; set it as it was")
    lines = []
    adapters = "lora" in (config.vision.train, config.language.train)
    for key, old, new in changed_keys(before, config):
        if key.startswith("lora.") and not adapters:
            continue
        rule = rule_of(key, stream=config.data.stream is not None)
        if key == "train.optim" and any({old, new} <= same for same in _SAME_STATES):
            continue
        if not rule.applies:
            raise UserError(
                f"--resume: {key} = {_show(new)}, but {checkpoint.name} was trained with {_show(old)}, and "
                f"{rule.meaning}; set it back, or start another run with train.run=NAME (and these weights: "
                "train.start_from=CHECKPOINT)"
            )
        lines.append(f"{key}: {_show(old)} -> {_show(new)}")
    return lines


def rule_of(key: str, stream: bool = False) -> Rule:
    rules = (STREAM_RULE, *RESUME_RULES) if stream else RESUME_RULES
    return next(rule for rule in rules if any(fnmatch(key, pattern) for pattern in rule.keys))


def changed_keys(before: Config, now: Config) -> Iterator[tuple[str, Any, Any]]:
    """(key, old value, new value), in the order of the schema."""
    old, new = before.model_dump(mode="json"), now.model_dump(mode="json")
    for section, fields in new.items():
        if not isinstance(fields, dict):  # model, which has no section
            if old[section] != fields:
                yield section, old[section], fields
            continue
        for name, value in fields.items():
            if old[section][name] != value:
                yield f"{section}.{name}", old[section][name], value


def _show(value: Any) -> str:
    """A value as YAML has it."""
    return (
        yaml.safe_dump(value, default_flow_style=True, width=1000, allow_unicode=True).removesuffix("\n...\n").strip()
    )
