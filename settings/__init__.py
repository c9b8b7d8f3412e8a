"""A whole run in one YAML file: read, validated, overridden from the command line, saved beside checkpoints.

    config = load_config("config.yaml", ["train.learning_rate=1e-4", "data.sources.0.images=photos"])

Whatever is wrong with it is said at once and in one line (:class:`UserError`): the key, its value, what was expected
and the nearest valid key. A typo must not show itself after hours of training as a setting that had no effect.
``train`` and ``lora`` pass any field of ``TrainingArguments`` and ``LoraConfig`` through, checked by name and type.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import json
import math
import os
import re
import types
import typing
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from common.errors import UserError
from common.files import write_text
from common.hub import local_model_folder
from visual.geometry import tower_sizes, visual_token_count

# ---------------------------------------------------------------------------------------------- the sections
# A field's description completes "expected ..." in the error about it.


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _path_text(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not value.strip() or "\0" in value:
        raise ValueError("empty path")
    return os.path.expanduser(value)


Text = Annotated[str, Field(pattern=r"\S")]
Count = Annotated[int, Field(ge=1)]
FilePath = Annotated[Path, BeforeValidator(_path_text), PlainSerializer(Path.as_posix, when_used="json")]
ModelPath = Annotated[Text, BeforeValidator(_path_text)]
FilePaths = Annotated[list[FilePath], BeforeValidator(_as_list), Field(min_length=1)]
Training = Literal["frozen", "lora", "full"]
_TRAINING = "frozen, lora or full"
# One name that Windows accepts too: no slash, no reserved character, no dot or space at the end.
_FOLDER_NAME = r'^[^<>:"/\\|?*\x00-\x1f]*[^<>:"/\\|?*\x00-\x1f. ]$'


# LoraConfig itself has none for architectures it does not know.
Lora = Annotated[dict[str, Any], AfterValidator(lambda fields: {"target_modules": "all-linear", **fields})]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Source(_Section):
    """One data set in its own format."""

    name: Text = Field(description="a name for this source, as text")
    format: Literal["ali", "coco"] = Field(description="ali (AI Challenger) or coco (LLaVA conversations)")
    annotations: FilePaths = Field(description="the path of a JSON file, or a list of them")
    images: FilePaths = Field(description="the path of a folder, or a list of them")
    language: Literal["en", "zh", "auto"] = Field("auto", description="en, zh or auto")


SHARDS = "the path of .tar or .parquet shards, with * in it for many, or a list of them, or null"
_SOURCES = "a list of sections with name, format, annotations, images"


class Data(_Section):
    """What process_image.py reads and writes, and how the result is split; or the shards that training streams."""

    sources: list[Source] = Field(description=_SOURCES)
    image_map: FilePath = Field(description="the path of a JSON file that process_image.py writes")
    annotations: FilePath = Field(description="the path of a JSON file that process_image.py writes")
    skipped: FilePath = Field(description="the path of a JSON file that process_image.py writes")
    seed: int = Field(0, ge=0, description="a whole number, 0 or more")
    keep_all_captions: bool = Field(False, description="true or false")
    images_per_conversation: Count = Field(1, description="a whole number, 1 or more")
    max_skipped: float = Field(0.05, ge=0, le=1, description="a share from 0 to 1")
    max_pixels: Count = Field(50_000_000, description="a whole number of pixels, 1 or more")
    held_out: Annotated[float, Field(ge=0, lt=1)] | FilePath = Field(
        0.02, description="a share of the images from 0 to below 1, or the path of a text file of image names"
    )
    message_trees: bool = Field(True, description="true or false")
    images_first: bool = Field(False, description="true or false")
    tokens_per_batch: Count | None = Field(None, description="a whole number of tokens, 1 or more, or null")
    feature_cache: FilePath | None = Field(None, description="the path of a folder, or null for none")
    stream: FilePaths | None = Field(None, description=SHARDS)
    stream_held_out: FilePaths | None = Field(None, description=SHARDS)
    stream_window: Count = Field(1000, description="a whole number of records, 1 or more")
    workers: Count | None = Field(None, description="a whole number, 1 or more, or null for all cores")
    progress: bool = Field(True, description="true or false")

    @model_validator(mode="before")
    @classmethod
    def _files_are_not_streamed(cls, given: Any) -> Any:
        """With ``stream`` nothing is read from process_image.py's files, and they need not be named."""
        if not isinstance(given, dict) or given.get("stream") is None:
            return given
        unused = {name: f"data/{name}.json" for name in ("image_map", "annotations", "skipped")}
        return {"sources": [], **unused, **given}


class Vision(_Section):
    """The SigLIP or CLIP encoder."""

    path: ModelPath = Field(description="a hub name such as google/siglip-so400m-patch14-384, or a folder, as text")
    train: Literal["frozen", "lora", "last_blocks", "full"] = Field(
        "frozen", description="frozen, lora, last_blocks or full"
    )
    last_blocks: Count | None = Field(None, description="a whole number of blocks, 1 or more, or null")
    image_size: Count | None = Field(None, description="a whole number of pixels, or null for the encoder's own")
    layer: int = Field(-1, le=-1, description="-1 for the encoder's last layer, -2 for the one before it, ...")
    drop_first_token: bool = Field(True, description="true or false")
    image_context_length: Count = Field(728, description="a whole number of visual tokens, 1 or more")


class Language(_Section):
    """The Qwen language model."""

    path: ModelPath = Field(description="a hub name such as Qwen/Qwen2.5-1.5B-Instruct, or a folder, as text")
    train: Training = Field("lora", description=_TRAINING)
    load_in_4bit: bool = Field(False, description="true or false")
    thinking: bool = Field(False, description="true or false")
    system: str = Field("You are a helpful assistant.", description='text (in quotes), "" for none')
    max_length: Count = Field(2048, description="a whole number of tokens, 1 or more")
    attention: Literal["sdpa", "flex_attention"] = Field("sdpa", description="sdpa or flex_attention")


class Projector(_Section):
    """The two linear layers between encoder and language model; None takes the other part's value."""

    hidden_size: Count | None = Field(None, description="a whole number, 1 or more, or null for the language model's")
    learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        None, description="a number above 0, or null for train.learning_rate"
    )


class Train(_Section):
    """Where checkpoints go (``output/run``) and, in ``arguments``, what TrainingArguments gets."""

    run: str = Field("run", pattern=_FOLDER_NAME, description="the name of a folder, as text (in quotes)")
    output: FilePath = Field(Path("checkpoints"), description="the path of a folder")
    max_nonfinite_steps: Annotated[int, Field(ge=0)] = Field(10, description="a whole number, 0 or more")
    arguments: dict[str, Any] = Field(default_factory=dict)


class Generate(_Section):
    """How answers are decoded."""

    max_new_tokens: Count = Field(256, description="a whole number of tokens, 1 or more")
    do_sample: bool = Field(False, description="true or false")
    temperature: float = Field(1.0, gt=0, description="a number above 0")
    top_p: float = Field(1.0, gt=0, le=1, description="a number above 0, at most 1")
    batch_size: Count = Field(8, description="a whole number, 1 or more")
    compile: bool = Field(False, description="true or false")


class Config(_Section):
    """A whole run. In YAML the keys of ``train.arguments`` stand directly under ``train``."""

    data: Data = Field(description="a section with sources, image_map, annotations and skipped")
    vision: Vision = Field(description="a section with path")
    language: Language = Field(description="a section with path")
    projector: Projector = Field(default_factory=Projector, description="a section (key: value)")
    lora: Lora = Field({}, validate_default=True, description="a section (key: value) of LoraConfig fields")
    train: Train = Field(default_factory=Train, description="a section (key: value) of TrainingArguments fields")
    generate: Generate = Field(default_factory=Generate, description="a section (key: value)")


# ---------------------------------------------------------------------------------------------- load and save


def load_config(path: str | Path, overrides: Sequence[str] = (), *, check_models: bool = True) -> Config:
    """Read a config, apply ``KEY=VALUE`` overrides, and validate everything that can be checked without the data.

    With ``check_models`` the local folders of vision and language must exist and the encoder must give
    ``vision.image_context_length`` tokens; without, a config saved on another machine can be read. Data paths are
    checked by :func:`require_paths`, each when it is needed.

    Raises:
        UserError: one line that names the key, its value, what was expected and the nearest valid key.
    """
    overridden: list[str] = []
    try:
        raw = _read_yaml(path)
        for text in overrides:
            overridden.append(_override(raw, text))
        return _validate(raw, check_models)
    except _Invalid as problem:
        where = "command line" if any(_overlap(key, problem.key) for key in overridden) else path
        raise UserError(f"{where}: {problem}") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply, or a YAML alias that contains itself") from None


def _overlap(one: str, other: str) -> bool:
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def save_config(config: Config, path: str | Path) -> None:
    """Write what :func:`load_config` reads back as an equal config. A crash leaves the old file or the new one."""
    path = Path(path)
    content = config.model_dump(mode="json")
    content["train"].update(content["train"].pop("arguments"))
    text = yaml.dump(content, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=120)
    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None


def add_config_arguments(parser: ArgumentParser) -> None:
    """Add ``--config FILE`` and the overrides ``KEY=VALUE`` to a script.

    Parse with ``parse_intermixed_args`` where the script has options of its own: plain ``parse_args`` refuses
    overrides on both sides of an option.
    """
    parser.add_argument("--config", default="config.yaml", metavar="FILE", help="the run (default: %(default)s)")
    change = "change a key of the config, such as train.learning_rate=1e-4"
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=change)


# ---------------------------------------------------------------------------------------------- YAML


_TAG = "tag:yaml.org,2002:"
_PLAIN_VALUES = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:[0-9]+|[0-9]{1,3}(?:_[0-9]{3})+)", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
)


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's plain values, and without silent duplicates.

    PyYAML follows YAML 1.1, where ``1e-4`` is text, ``eval_strategy: no`` is false, 010 is 8 and 1:30 is 90.
    """

    yaml_implicit_resolvers: dict = {}
    yaml_constructors = {
        **{
            _TAG + t: yaml.SafeLoader.yaml_constructors[_TAG + t]
            for t in ("null", "bool", "float", "str", "seq", "map")
        },
        _TAG + "int": lambda loader, node: int(loader.construct_scalar(node).replace("_", "")),
        None: yaml.SafeLoader.construct_undefined,
    }

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.tag not in (_TAG + "str", _TAG + "merge"):
                raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"duplicate key {key.value}", problem_mark=key.start_mark)
            seen.add(key.value)
        return node


class _Dumper(yaml.SafeDumper):
    """Puts in quotes what :class:`_Loader` would not read as text."""

    yaml_implicit_resolvers: dict = {}

    def ignore_aliases(self, data) -> bool:
        return True


for _name, _pattern, _first in _PLAIN_VALUES:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern})\\Z"), _first)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        problem = ", ".join(filter(None, (error.context, error.problem)))
        raise UserError(f"{where}: {line}not valid YAML: {problem}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{where}: line {line}: not valid YAML: character U+{error.character:04X}") from None
    except (ValueError, KeyError) as error:  # a number of thousands of digits, or "!!bool maybe"
        raise UserError(f"{where}: not valid YAML: {error}") from None


def _read_yaml(path: str | Path) -> dict[str, Any]:
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, expected a config (--config FILE){_nearest_path(path)}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    raw = _parse_yaml(text, str(path))
    sections = ", ".join(Config.model_fields)
    if raw is None:
        raise UserError(f"{path}: the file is empty; expected the sections {sections}")
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected the sections {sections} at the top, not a {type(raw).__name__}")
    return raw


def _override(raw: dict[str, Any], text: str) -> str:
    """Set one ``KEY=VALUE`` in place and return the key. Missing sections on the way are made."""
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError(f"command line: {text}: expected KEY=VALUE, such as train.learning_rate=1e-4")
    parsed = _parse_yaml(value, f"command line: {text}")
    here: Any = raw
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(here, list):
            if not part.isdecimal() or int(part) >= len(here):
                listed = ".".join(parts[:depth])
                raise UserError(f"command line: {text}: {listed} is a list of {len(here)}; expected an index from 0")
            part = int(part)
        elif not isinstance(here, dict):
            raise UserError(f"command line: {text}: {'.'.join(parts[:depth])} is {_show(here)}, which has no keys")
        if last:
            here[part] = parsed
        else:
            if isinstance(here, dict) and here.get(part) is None:
                here[part] = {}
            here = here[part]
    return ".".join(parts)


# ---------------------------------------------------------------------------------------------- validation


class _Invalid(Exception):
    """What is wrong with one key; becomes a UserError once it is known whether file or command line set it."""

    def __init__(self, key: str, problem: str, value: Any = dataclasses.MISSING, nearest: str = "") -> None:
        self.key = key
        shown = "" if value is dataclasses.MISSING else f" = {_show(value)}"
        super().__init__(f"{key}{shown}: {problem}{nearest}")


def _validate(raw: dict[str, Any], check_models: bool) -> Config:
    for name in Config.model_fields:
        if name in raw and raw[name] is None:  # "projector:" with every key commented out
            raw[name] = {}
    _check_values(raw, "")
    content = dict(raw)
    train = content.get("train", {})
    if isinstance(train, dict):
        own = {key: train[key] for key in ("run", "output", "max_nonfinite_steps") if key in train}
        content["train"] = {**own, "arguments": {k: v for k, v in train.items() if k not in own}}
    try:
        # Through JSON: there strict means no "5" for 5 and no true for 1, yet text for paths.
        config = Config.model_validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        raise _explain(error) from None
    _check_arguments("lora", config.lora)
    _check_arguments("train", config.train.arguments)
    if check_models:
        _check_models(config)
    _check_together(config)
    return config


def _check_values(value: Any, key: str) -> None:
    """Refuse what JSON, and every reader of a saved config, would trip over."""
    if isinstance(value, float) and not math.isfinite(value):
        raise _Invalid(key, "expected a finite number", value)
    if isinstance(value, dict):
        for name, item in value.items():
            _check_values(name, f"{key}.{name}".strip("."))
            _check_values(item, f"{key}.{name}".strip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_values(item, f"{key}.{index}")
    elif isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise _Invalid(key, "expected text without lone surrogates", value)


def _explain(error: ValidationError) -> _Invalid:
    """pydantic's errors as one of ours; unknown keys first, as a misspelt key is also a missing one."""
    first = min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    key, expected = _locate(first["loc"])
    if first["type"] == "extra_forbidden":
        return _Invalid(key, f"unknown key, expected {expected}", first["input"], _nearest(key))
    if first["type"] == "missing":
        return _Invalid(key, f"missing, expected {expected}")
    return _Invalid(key, f"expected {expected}", first["input"])


def _locate(loc: tuple[int | str, ...]) -> tuple[str, str]:
    """The dotted key of a pydantic location and what belongs there, without the union branches at its end."""
    model, key, expected = Config, [], "a config"
    for part in loc:
        if model is None:
            break
        key.append(str(part))
        if isinstance(part, int):
            continue
        if part not in model.model_fields:
            expected = "one of " + ", ".join(model.model_fields)
            break
        expected = model.model_fields[part].description
        model = _section_of(model.model_fields[part].annotation)
    return ".".join(key), expected


def _section_of(annotation: Any) -> type[_Section] | None:
    candidates = [annotation, *typing.get_args(annotation)]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, _Section)), None)


def _check_together(config: Config) -> None:
    """Values that make sense each and not together."""
    _check_stream(config)
    names: set[str] = set()
    taken: dict[str, str] = {}
    for index, source in enumerate(config.data.sources):
        if source.name in names:
            raise _Invalid(f"data.sources.{index}.name", "expected a name no other source has", source.name)
        names.add(source.name)
        taken |= {_absolute(path): f"data.sources.{index}.annotations" for path in source.annotations}
    for name in ("image_map", "annotations", "skipped"):
        path = getattr(config.data, name)
        other = taken.setdefault(_absolute(path), f"data.{name}")
        if other != f"data.{name}":
            problem = f"expected a file of its own: process_image.py would write over {other}"
            raise _Invalid(f"data.{name}", problem, path.as_posix())
    visual, longest = config.vision.image_context_length, config.language.max_length
    if longest <= visual:
        problem = f"expected more than vision.image_context_length ({visual}), or no conversation with an image fits"
        raise _Invalid("language.max_length", problem, longest)
    if (config.vision.train == "last_blocks") != (config.vision.last_blocks is not None):
        problem = "expected a number where vision.train is last_blocks, and null elsewhere"
        raise _Invalid("vision.last_blocks", problem, config.vision.last_blocks)
    if config.language.load_in_4bit and config.language.train == "full":
        raise _Invalid("language.load_in_4bit", "expected false where language.train is full", True)
    arguments = config.train.arguments
    if arguments.get("dataloader_persistent_workers") and not arguments.get("dataloader_num_workers"):
        problem = "expected false where train.dataloader_num_workers is 0"
        raise _Invalid("train.dataloader_persistent_workers", problem, True)


def _check_stream(config: Config) -> None:
    data, arguments = config.data, config.train.arguments
    if data.stream is None:
        if not data.sources:
            raise _Invalid("data.sources", f"expected {_SOURCES}", [])
        if data.stream_held_out is not None:
            raise _Invalid("data.stream_held_out", "expected null where data.stream is null")
        return
    if arguments.get("max_steps", -1) < 1:
        problem = "expected a number of steps with data.stream: how much the shards hold is not known"
        raise _Invalid("train.max_steps", problem, arguments.get("max_steps", -1))
    if arguments.get("eval_strategy", "no") != "no" and data.stream_held_out is None:
        problem = "expected shards to evaluate on, or train.eval_strategy: no"
        raise _Invalid("data.stream_held_out", problem, None)
    if data.feature_cache is not None:
        problem = "expected null with data.stream: features of a set that large would not fit on the disk"
        raise _Invalid("data.feature_cache", problem, data.feature_cache.as_posix())


def _absolute(path: Path) -> str:
    return os.path.normcase(os.path.abspath(path))


# ---------------------------------------------------------------------------------------------- train: and lora:

_POSITIVE = (lambda v: v > 0, "a number above 0")
_ONE_OR_MORE = (lambda v: v >= 1, "a whole number, 1 or more")
_NOT_NEGATIVE = (lambda v: v >= 0, "a number, 0 or more")
_SEED = (lambda v: 0 <= v < 2**32, "a whole number from 0 to 2**32 - 1")
_SHARE = (lambda v: 0 <= v < 1, "a share from 0 to below 1")

# Only the fields whose senseless values transformers and peft would take without a word, or crash on late.
_RANGES = {
    "train": {
        **dict.fromkeys(("learning_rate", "num_train_epochs", "logging_steps", "save_steps", "eval_steps"), _POSITIVE),
        **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), _ONE_OR_MORE),
        **dict.fromkeys(("gradient_accumulation_steps", "save_total_limit"), _ONE_OR_MORE),
        **dict.fromkeys(("warmup_steps", "weight_decay", "max_grad_norm", "dataloader_num_workers"), _NOT_NEGATIVE),
        **dict.fromkeys(("seed", "data_seed"), _SEED),
        "max_steps": (lambda v: v >= 1 or v == -1, "a whole number, 1 or more, or -1 to go by num_train_epochs"),
        **dict.fromkeys(("adam_beta1", "adam_beta2"), _SHARE),
    },
    "lora": {"r": _ONE_OR_MORE, "lora_alpha": _ONE_OR_MORE, "lora_dropout": _SHARE},
}

_MANAGED = {
    "train": {
        "output_dir": "not set here, the folder is made of train.output and train.run",
        "remove_unused_columns": "not set here, our batches carry columns that Trainer does not know",
        "label_names": "not set here, labels is the only one",
        "resume_from_checkpoint": "not set here, run train.py --resume",
        "hub_token": "not set here, the config is saved beside every checkpoint: set the HF_TOKEN environment variable",
    },
    "lora": {
        "task_type": "not set here, it is always CAUSAL_LM",
        "peft_type": "not set here, it is always LORA",
        "inference_mode": "not set here, train.py and whatever loads a checkpoint choose it",
        "base_model_name_or_path": "not set here, it is vision.path or language.path",
        "revision": "not set here, it belongs to the base model",
        "auto_mapping": "not set here, peft fills it in",
        "peft_version": "not set here, peft fills it in",
    },
}

# What the stock Trainer does with these, ours does in its own way or not at all; most had no effect, some broke it.
_MANAGED["train"] |= {
    name: f"not set here, {reason}"
    for reason, names in {
        "every supervised token counts the same": "average_tokens_across_devices",
        "the loss is the cross entropy of the answers": "label_smoothing_factor neftune_noise_alpha",
        "evaluation computes as training does": "bf16_full_eval fp16_full_eval",
        "the best checkpoint has the lowest held-out loss": "metric_for_best_model greater_is_better",
        "see train.max_nonfinite_steps": "logging_nan_inf_filter",
        "batches are of like length and hold every sample": "train_sampling_strategy length_column_name "
        "dataloader_drop_last",
        "workers start and hand over as torch has it": "dataloader_multiprocessing_context dataloader_in_order",
        "the message about a batch that does not fit says what to lower": "auto_find_batch_size",
        "write train.gradient_checkpointing": "activation_checkpointing activation_checkpointing_kwargs "
        "gradient_checkpointing_kwargs",
        "it knows only transformers' own models": "use_liger_kernel liger_kernel_config",
        "all that is trained is used in every step": "ddp_find_unused_parameters",
        "see train.fsdp": "deepspeed",
        "--resume goes on at the exact sample": "ignore_data_skip",
        "SIGTERM saves anyway": "enable_jit_checkpoint",
        "the first process writes for all": "save_on_each_node",
        "nothing is uploaded; a checkpoint is a plain folder": "push_to_hub hub_model_id hub_strategy hub_private_repo "
        "hub_always_push hub_revision",
    }.items()
    for name in names.split()
}

# Names that older versions or other projects use: what to write instead.
_RENAMED = {
    "train.warmup_ratio": "train.warmup_steps (below 1 it is a share of all steps)",
    "train.evaluation_strategy": "train.eval_strategy",
    "train.group_by_length": "data.tokens_per_batch (batches are of like length anyway)",
    "train.logging_dir": "train.run (for TensorBoard set the TENSORBOARD_LOGGING_DIR environment variable)",
    "train.overwrite_output_dir": "train.run (give every run its own name)",
    "train.save_safetensors": "train.save_steps (checkpoints are always safetensors)",
    "train.no_cuda": "train.use_cpu",
    "train.batch_size": "train.per_device_train_batch_size",
    "train.lr": "train.learning_rate",
    "train.epochs": "train.num_train_epochs",
    "lora.rank": "lora.r",
    "lora.lora_r": "lora.r",
}


@cache
def _argument_types(section: str) -> dict[str, Any]:
    """Name -> type hint of every field that ``train`` or ``lora`` passes through."""
    if section == "train":  # imported here: it takes seconds, which --help and spawned workers need not pay
        from transformers import TrainingArguments as owner
    else:
        from peft import LoraConfig as owner
    hints = typing.get_type_hints(owner)
    if section == "train":  # the hints allow what older versions took: text, and the name of a JSON file
        hints |= {"fsdp": bool | None, "fsdp_config": dict | None}
    if section == "lora":  # the hint spells this family of names "pissa_niter_[number of iters]"
        name = "init_lora_weights"
        hints[name] = Union[hints[name], Annotated[str, Field(pattern=r"^pissa_niter_\d+$")]]  # noqa: UP007
    names = [field.name for field in dataclasses.fields(owner) if field.init]
    return {name: hints[name] for name in names if name not in _MANAGED[section]}


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The branches of a union, without the catch-all ``str`` that transformers puts beside an enum."""
    if typing.get_origin(hint) not in (Union, types.UnionType):
        return (hint,)
    branches = tuple(branch for nested in typing.get_args(hint) for branch in _alternatives(nested))
    return tuple(b for b in branches if b is not str) if any(map(_is_enum, branches)) else branches


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, enum.Enum)


def _from_yaml(branches: tuple[Any, ...]) -> bool:
    """Whether a field can be written down; some of peft's take only an object of its own classes."""
    return any(branch is not type(None) and not dataclasses.is_dataclass(branch) for branch in branches)


def _check_arguments(section: str, values: dict[str, Any]) -> None:
    known = _argument_types(section)
    owner = "TrainingArguments" if section == "train" else "LoraConfig"
    for name, value in values.items():
        key = f"{section}.{name}"
        if name in _MANAGED[section]:
            raise _Invalid(key, _MANAGED[section][name], dataclasses.MISSING if name == "hub_token" else value)
        if name not in known:
            raise _Invalid(key, f"unknown key, expected a field of {owner}", value, _nearest(key))
        branches = _alternatives(known[name])
        if not _from_yaml(branches):
            raise _Invalid(key, f"cannot be given in YAML, {owner} takes a Python object here", value)
        if not _fits(Union[branches], value):  # noqa: UP007
            raise _Invalid(key, f"expected {_describe(branches)}", value, _nearest_choice(branches, value))
        in_range, expected = _RANGES[section].get(name, (None, ""))
        if in_range and isinstance(value, (int, float)) and not in_range(value):
            raise _Invalid(key, f"expected {expected}", value)


def _fits(hint: Any, value: Any) -> bool:
    try:
        adapter = TypeAdapter(hint)
    except Exception:  # a type pydantic cannot build a check for: left to the class itself
        return True
    try:
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError:
        return False
    return True


def _choices(hint: Any) -> list[str]:
    """The values of an enum or a Literal, none for any other type."""
    if _is_enum(hint):
        return [str(item.value) for item in hint]
    return [str(value) for value in typing.get_args(hint)] if typing.get_origin(hint) is Literal else []


def _describe(branches: tuple[Any, ...]) -> str:
    """The branches of a type hint in plain words."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    words |= {list: "a list", dict: "a section (key: value)"}
    found = []
    for branch in branches:
        choices = _choices(branch)
        if choices:
            found.append("one of " + ", ".join(choices[:8]) + (f", ... ({len(choices)} in all)" if choices[8:] else ""))
        elif typing.get_origin(branch) is not Annotated and not dataclasses.is_dataclass(branch):
            found.append(words.get(typing.get_origin(branch) or branch, str(branch)))
    return " or ".join(found)


def _nearest_choice(branches: tuple[Any, ...], value: Any) -> str:
    choices = [choice for branch in branches for choice in _choices(branch)]
    found = difflib.get_close_matches(str(value), choices, n=1)
    return f"; nearest: {found[0]}" if found else ""


# ---------------------------------------------------------------------------------------------- nearest key


def _valid_keys(model: type[_Section] = Config, prefix: str = "") -> Iterator[str]:
    """Every dotted key a config may hold; the entries of a list stand under index 0."""
    for name, field in model.model_fields.items():
        key = prefix + name
        if key == "train.arguments":
            continue
        yield key
        inner = _section_of(field.annotation)
        if inner is not None:
            yield from _valid_keys(inner, f"{key}.0." if inner is Source else f"{key}.")
        if key in ("train", "lora"):
            yield from (f"{key}.{argument}" for argument in _argument_types(key))


def _nearest(key: str) -> str:
    """``; nearest valid key: ...`` at the level of ``key`` if something there is close, else anywhere."""
    if key in _RENAMED:
        return f"; nearest valid key: {_RENAMED[key]}"
    parent, _, leaf = key.rpartition(".")
    level = re.sub(r"\.\d+(?=\.|$)", ".0", parent)
    keys = list(_valid_keys())
    if key in keys:
        return f"; nearest valid key: {leaf}, indented under {parent}:"
    siblings = {k.rpartition(".")[2]: k for k in keys if k.rpartition(".")[0] == level}
    found = difflib.get_close_matches(leaf.lower(), siblings, n=1)
    if found:
        return f"; nearest valid key: {f'{parent}.{found[0]}'.lstrip('.')}"
    return f"; nearest valid key: {difflib.get_close_matches(key.lower(), keys, n=1, cutoff=0.0)[0]}"


def _show(value: Any) -> str:
    """A value on one line, as YAML would have it, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 100 else text[:97] + "..."


# ---------------------------------------------------------------------------------------------- paths and models


def require_paths(config: Config, *keys: str) -> None:
    """Check that what a script is about to read exists: ``require_paths(config, "data.sources", "data.image_map")``.

    ``data.sources`` stands for the annotation files and image folders of all sources; ``data.held_out`` is checked
    only where it is a file.

    Raises:
        UserError: the key, the path, and what to run first.
    """
    for key in keys:
        if key == "data.sources":
            advice = "put the data there or change the path (demo data: python -m demo.scenes --output data/demo/raw)"
            if not config.data.sources:
                raise UserError(f"data.sources: missing, expected {_SOURCES} (data.stream is for train.py alone)")
            for index, source in enumerate(config.data.sources):
                for path in source.annotations:
                    _require(f"{key}.{index}.annotations", path, os.path.isfile, f"an annotations file; {advice}")
                for path in source.images:
                    _require(f"{key}.{index}.images", path, os.path.isdir, f"a folder of images; {advice}")
        elif key in ("data.image_map", "data.annotations", "data.skipped"):
            path = getattr(config.data, key.removeprefix("data."))
            _require(key, path, os.path.isfile, "a file; run process_image.py with the same --config first")
        elif key == "data.held_out":
            path, expected = config.data.held_out, "a text file of image names, one a line, or a share such as 0.02"
            if isinstance(path, Path):
                _require(key, path, os.path.isfile, expected)
        else:
            raise KeyError(f"require_paths does not know {key}")


def _require(key: str, path: Path, is_there: Callable[[Path], bool], expected: str) -> None:
    if not is_there(path):
        found = "is something else" if os.path.exists(path) else "does not exist"
        raise UserError(f"{key} = {_show(path.as_posix())}: {found}, expected {expected}{_nearest_path(path)}")


def _nearest_path(path: str | Path) -> str:
    """``; nearest existing path: ...`` if something beside a missing path has a name like it."""
    path = Path(path)
    try:
        found = difflib.get_close_matches(path.name, os.listdir(path.parent), n=1, cutoff=0.75)
    except (OSError, ValueError):
        return ""
    found = [name for name in found if name != path.name]
    return f"; nearest existing path: {(path.parent / found[0]).as_posix()}" if found else ""


def _is_local(path: str) -> bool:
    """A folder here rather than a name on the hub, which is ``name`` or ``organisation/name``."""
    starts = ("./", "../", "/", "~", ".\\", "..\\")
    looks_local = path.startswith(starts) or re.match(r"[A-Za-z]:", path) or path.endswith("/") or "\\" in path
    return bool(looks_local) or path.count("/") > 1 or os.path.exists(path)


def _check_models(config: Config) -> None:
    for name in ("vision", "language"):
        section = getattr(config, name)
        key = f"{name}.path"
        if not _is_local(section.path):
            if not re.fullmatch(r"[\w.-]+(?:/[\w.-]+)?", section.path):
                raise _Invalid(key, f"expected {type(section).model_fields['path'].description}", section.path)
            continue
        folder = local_model_folder(section.path)
        if folder is None:
            problem = "no such folder, expected one that holds config.json, or a hub name"
            raise _Invalid(key, problem, section.path, _nearest_path(section.path))
        if not (folder / "config.json").is_file():
            raise _Invalid(key, "expected a model folder, but it holds no config.json", section.path)
        if name == "vision":
            _check_token_count(config.vision, folder / "config.json")


def _check_token_count(vision: Vision, file: Path) -> None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        given = visual_token_count(content, vision.drop_first_token, vision.image_size)
    except UserError as error:
        raise _Invalid("vision.path", str(error), vision.path) from None
    except (OSError, ValueError) as error:
        raise _Invalid("vision.path", f"expected a readable config.json ({error})", vision.path) from None
    if given != vision.image_context_length:
        size, patch, _ = tower_sizes(content)
        size = vision.image_size or size
        rule = f"{size} px, patch {patch}, vision.drop_first_token {_show(vision.drop_first_token)}"
        problem = f"expected {given}, which is what the encoder gives ({rule})"
        raise _Invalid("vision.image_context_length", problem, vision.image_context_length)
