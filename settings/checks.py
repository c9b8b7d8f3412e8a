"""What makes a config invalid: unknown keys, wrong values, values that do not go together, missing paths and models.

Every problem is one line with the key, its value, what was expected and the nearest valid key. A typo must be found
here, not after hours of training without the setting that was meant.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from common.errors import UserError
from common.hub import local_model_folder
from settings.invalid import MISSING, Invalid, show
from settings.llava import follow_model
from settings.renamed import REFUSED, RENAMED, SECRET
from settings.schema import (
    CURVES,
    PROJECTOR_SIZES,
    SCHEDULE_OPTIONS,
    SOURCES,
    Config,
    Data,
    Generate,
    Lora,
    Projector,
    Section,
    Source,
    Train,
    Vision,
)
from visual.geometry import patch_grid, read_sizes, tower_sizes


def validate(raw: dict[str, Any], check_models: bool) -> Config:
    """The config of a YAML file's content.

    Raises:
        Invalid: the first thing that is wrong with it.
    """
    for name in Config.model_fields:
        if name in raw and raw[name] is None and name != "model":  # "projector:" with every key commented out
            raw[name] = {}
    _check_values(raw, "")
    if check_models:
        follow_model(raw)
    try:
        # Through JSON: there strict means no "5" for 5 and no true for 1, yet text for paths.
        config = Config.model_validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        raise _explain(error) from None
    if config.model is not None:  # also a checkpoint's that was moved: all parts are in the one folder
        config.vision.path = config.language.path = config.model
    if check_models:
        _check_models(config)
    _check_together(config)
    if check_models:  # not a checkpoint's: nothing trains by it, and keys may have been removed
        _check_train(config.train)
    return config


def change_generate(generate: Generate, changes: dict[str, Any]) -> Generate:
    """The ``generate`` section with other values for some of its keys.

    Raises:
        UserError: an unknown key, a wrong value, or values that do not go together.
    """
    raw = {**generate.model_dump(mode="json"), **changes}
    try:
        changed = Generate.model_validate_json(json.dumps(raw), strict=True)
        _check_generate(changed)
    except ValidationError as error:
        raise UserError(str(_explain(error, ("generate",)))) from None
    except Invalid as problem:
        raise UserError(str(problem)) from None
    return changed


def update_old_keys(raw: dict[str, Any]) -> None:
    """Make a checkpoint's config of an earlier version one of this version.

    What was ``data.held_out`` is ``data.validation``: checkpoints were chosen on it. Keys of ``train`` and ``lora``
    that earlier versions allowed and this one does not are removed. Answering and evaluation do not use ``train``, so
    values that are no longer valid are removed too. A ``lora`` key that changed the model is kept and then refused by
    name: without it the model would give other answers. ``generate.compile`` is gone: it changed no answer.
    """
    if isinstance(data := raw.get("data"), dict):
        for old, new in (("held_out", "validation"), ("stream_held_out", "stream_validation")):
            if old in data:
                data[new] = data.pop(old)
                data.setdefault("test", 0.0)
    if isinstance(generate := raw.get("generate"), dict):
        generate.pop("compile", None)
    if isinstance(train := raw.get("train"), dict):
        for name in [name for name in train if not isinstance(name, str) or name not in Train.model_fields]:
            del train[name]
        for name in list(train):
            try:
                Train.model_validate_json(json.dumps({name: train[name]}), strict=True)
            except (ValidationError, ValueError):
                del train[name]
    if isinstance(lora := raw.get("lora"), dict):
        for name in list(lora):
            if f"lora.{name}" in REFUSED and (not lora[name] or name not in _CHANGED_THE_MODEL):
                del lora[name]


# Of the fields of LoraConfig that 572858e passed through, those without which the model computes something else.
_CHANGED_THE_MODEL = {"alora_invocation_tokens", "layer_replication", "velora_config"}


def _check_values(value: Any, key: str) -> None:
    """Refuse values that JSON cannot hold: NaN, infinities and lone surrogates."""
    if isinstance(value, float) and not math.isfinite(value):
        raise Invalid(key, "expected a finite number", value)
    if isinstance(value, dict):
        for name, item in value.items():
            _check_values(name, f"{key}.{name}".strip("."))
            _check_values(item, f"{key}.{name}".strip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_values(item, f"{key}.{index}")
    elif isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise Invalid(key, "expected text without lone surrogates", value)


# ---------------------------------------------------------------------------------------------- pydantic's errors


def _explain(error: ValidationError, section: tuple[str, ...] = ()) -> Invalid:
    """pydantic's errors as one of ours; unknown keys first, as a misspelt key is also a missing one.

    ``section`` is the section that was validated, if it was not the whole config.
    """
    first = min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    key, expected, annotation = _locate((*section, *first["loc"]))
    if first["type"] == "extra_forbidden":
        if key in REFUSED:
            return Invalid(key, REFUSED[key], MISSING if key in SECRET else first["input"])
        return Invalid(key, f"unknown key, expected {expected}", first["input"], nearest_key(key))
    if first["type"] == "missing":
        return Invalid(key, f"missing, expected {expected}")
    return Invalid(key, f"expected {expected}", first["input"], _nearest_choice(annotation, first["input"]))


def _locate(loc: tuple[int | str, ...]) -> tuple[str, str, Any]:
    """The dotted key of a pydantic location, what belongs there and its type, without the union branches at its end."""
    model: type[Section] | None = Config
    key: list[str] = []
    expected, annotation = "a config", None
    for part in loc:
        if model is None:
            break
        key.append(str(part))
        if isinstance(part, int):
            continue
        if part not in model.model_fields:
            names = list(model.model_fields)
            more = f", ... ({len(names)} in all)" if len(names) > 20 else ""
            expected = "one of " + ", ".join(names[:8] if more else names) + more
            break
        annotation = model.model_fields[part].annotation
        expected = model.model_fields[part].description or ""
        model = _section_of(annotation)
    return ".".join(key), expected, annotation


def _section_of(annotation: Any) -> type[Section] | None:
    candidates = [annotation, *typing.get_args(annotation)]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, Section)), None)


def _choices(annotation: Any) -> Iterator[str]:
    """All texts of the Literals in a type."""
    if typing.get_origin(annotation) is Literal:
        yield from (value for value in typing.get_args(annotation) if isinstance(value, str))
    else:
        for inner in typing.get_args(annotation):
            yield from _choices(inner)


def _nearest_choice(annotation: Any, value: Any) -> str:
    found = difflib.get_close_matches(str(value), list(_choices(annotation)), n=1)
    return f"; nearest: {found[0]}" if found else ""


# ---------------------------------------------------------------------------------------------- values together


def _check_together(config: Config) -> None:
    """Values that are valid one by one and contradict each other."""
    _check_stream(config)
    if config.data.augment:
        for name in ("feature_cache", "stream"):  # a stream does not know the epoch of a sample
            if getattr(config.data, name) is not None:
                raise Invalid("data.augment", f"expected false with data.{name}: pictures change in each epoch", True)
    if config.data.packing and config.data.tokens_per_batch is None:
        raise Invalid("data.packing", "expected data.tokens_per_batch beside it, the length of a row", True)
    _check_splits(config.data)
    _check_files(config)
    visual, longest = config.vision.image_context_length, config.language.max_length
    if longest <= visual:
        problem = f"expected more than vision.image_context_length ({visual}), or no conversation with an image fits"
        raise Invalid("language.max_length", problem, longest)
    if (config.vision.train == "last_blocks") != (config.vision.last_blocks is not None):
        problem = "expected a number where vision.train is last_blocks, and null elsewhere"
        raise Invalid("vision.last_blocks", problem, config.vision.last_blocks)
    if config.language.load_in_4bit and config.language.train == "full":
        raise Invalid("language.load_in_4bit", "expected false where language.train is full", True)
    for name, how in (("prefix_tokens", "prefix"), ("adapter_width", "adapter")):
        if (size := getattr(config.language, name)) is not None and config.language.train != how:
            raise Invalid(f"language.{name}", f"expected null where language.train is not {how}", size)
    for name, part in (("vision", config.vision), ("language", config.language)):
        if part.train == "frozen" and part.learning_rate is not None:
            raise Invalid(f"{name}.learning_rate", f"expected null where {name}.train is frozen", part.learning_rate)
    _check_projector(config)
    _check_losses(config)
    _check_lora(config.lora)
    _check_generate(config.generate)


def _check_projector(config: Config) -> None:
    """A size that the kind of projector does not have, or cannot have."""
    projector = config.projector
    for name in ("layers", "hidden_size", "queries", "pool", "every"):
        if (value := getattr(projector, name)) is not None and name not in PROJECTOR_SIZES[projector.kind]:
            kinds = ", ".join(kind for kind, sizes in PROJECTOR_SIZES.items() if name in sizes)
            problem = f"expected null with projector.kind = {projector.kind}: it is a size of {kinds}"
            raise Invalid(f"projector.{name}", problem, value)
    if projector.kind == "mlp" and projector.layers == 1:
        raise Invalid("projector.layers", "expected 2 or more with projector.kind = mlp; one layer is linear", 1)
    if projector.kind == "pool" and projector.layers == 1 and projector.hidden_size is not None:
        problem = "expected null where projector.layers is 1: it is the width between layers"
        raise Invalid("projector.hidden_size", problem, projector.hidden_size)
    queries, hidden_size = projector.sizes.get("queries"), projector.hidden_size
    if projector.kind == "resampler" and queries is not None and math.isqrt(queries) ** 2 != queries:
        problem = "expected a square number with projector.kind = resampler, whose queries have positions on a square"
        raise Invalid("projector.queries", problem, queries)
    if projector.kind == "qformer" and hidden_size is not None and hidden_size % min(64, hidden_size):
        problem = "expected a multiple of 64 with projector.kind = qformer, whose heads are 64 wide"
        raise Invalid("projector.hidden_size", problem, hidden_size)
    if projector.path is not None:
        _check_pretrained_projector(config)
    if projector.align_steps:
        _check_alignment(config)
    if projector.kind == "cross_attention":
        _check_cross_attention(config)
    if queries is not None and queries != config.vision.image_context_length:
        giver = f"projector.kind = {projector.kind} gives (projector.queries {queries})"
        problem = f"expected {queries}, which is what {giver}"
        raise Invalid("vision.image_context_length", problem, config.vision.image_context_length)


def _check_pretrained_projector(config: Config) -> None:
    """What does not go with the weights of a BLIP-2's Q-Former."""
    projector = config.projector
    if projector.kind != "qformer":
        problem = f"expected null with projector.kind = {projector.kind}: it holds the weights of a qformer"
        raise Invalid("projector.path", problem, projector.path)
    if projector.standardize:
        problem = "expected false with projector.path: BLIP-2's Q-Former was trained on features as they are"
        raise Invalid("projector.standardize", problem, True)
    if config.train.start_from is not None:
        problem = "expected null with train.start_from, whose projector the run begins with"
        raise Invalid("projector.path", problem, projector.path)


def _check_alignment(config: Config) -> None:
    """Only a fresh projector whose tokens are among the words is aligned with them."""
    projector, train = config.projector, config.train
    reasons = {
        "model, which brings a trained projector": config.model is not None,
        "train.start_from, which brings a trained projector": train.start_from is not None,
        "train.losses of a Q-Former alone, which loads no language model": train.qformer_alone,
        "projector.kind = cross_attention, whose tokens are not among the words": projector.kind == "cross_attention",
    }
    for reason, holds in reasons.items():
        if holds:
            raise Invalid("projector.align_steps", f"expected 0 with {reason}", projector.align_steps)


def _check_cross_attention(config: Config) -> None:
    """What does not go with pictures outside the sequence."""
    kind = "with projector.kind = cross_attention"
    if config.vision.image_context_length != 1:
        problem = f"expected 1 {kind}: the picture stays outside the sequence, and one token says where it is"
        raise Invalid("vision.image_context_length", problem, config.vision.image_context_length)
    if config.language.attention == "flex_attention":
        raise Invalid("language.attention", f"expected auto, tree_attention or sdpa {kind}", "flex_attention")


def _check_losses(config: Config) -> None:
    """What the Q-Former alone needs, and cannot have."""
    losses, train = config.train.losses, config.train
    if len(set(losses)) < len(losses) or ("answers" in losses and len(losses) > 1):
        raise Invalid("train.losses", "expected [answers], or each of itc, itm, itg and mlm at most once", losses)
    if not train.qformer_alone:
        return
    needed: dict[str, tuple[Any, Any]] = {
        "projector.kind": (config.projector.kind, "qformer"),
        "vision.train": (config.vision.train, "frozen"),
        "language.train": (config.language.train, "frozen"),
        "train.start_from": (train.start_from, None),
        "train.torch_compile": (train.torch_compile, False),
        "data.packing": (bool(config.data.packing), False),
    }
    if train.eval_strategy != "no":
        needed["train.eval_questions"] = (train.eval_questions, 0)
    for key, (value, wanted) in needed.items():
        if value != wanted:
            problem = f"expected {show(wanted)} with train.losses = {show(losses)}: the Q-Former is trained alone"
            raise Invalid(key, problem, value)


def _check_generate(generate: Generate) -> None:
    if generate.min_new_tokens > generate.max_new_tokens:
        problem = f"expected at most generate.max_new_tokens ({generate.max_new_tokens})"
        raise Invalid("generate.min_new_tokens", problem, generate.min_new_tokens)


def _check_splits(data: Data) -> None:
    if not isinstance(data.validation, Path) and not isinstance(data.test, Path) and data.validation + data.test >= 1:
        problem = f"expected less than 1 together with data.validation ({data.validation:g}): the rest is for training"
        raise Invalid("data.test", problem, data.test)
    if isinstance(data.test, Path) and data.test == data.validation:
        problem = "expected another list than data.validation: what checkpoints are chosen on is no test"
        raise Invalid("data.test", problem, data.test.as_posix())


def _check_train(train: Train) -> None:
    _check_loader(train)
    _check_best(train)
    _check_schedule(train)


def _check_files(config: Config) -> None:
    names: set[str] = set()
    taken: dict[str, str] = {}
    for index, source in enumerate(config.data.sources):
        if source.name in names:
            raise Invalid(f"data.sources.{index}.name", "expected a name that no other source has", source.name)
        names.add(source.name)
        taken |= {_absolute(path): f"data.sources.{index}.annotations" for path in source.annotations}
    for name in ("image_map", "annotations", "skipped"):
        path = getattr(config.data, name)
        other = taken.setdefault(_absolute(path), f"data.{name}")
        if other != f"data.{name}":
            problem = f"expected a file of its own: process_image.py would write over {other}"
            raise Invalid(f"data.{name}", problem, path.as_posix())


def _absolute(path: Path) -> str:
    return os.path.normcase(os.path.abspath(path))


def _check_lora(lora: Lora) -> None:
    """What peft would refuse only after the models are loaded."""
    for name in ("target_modules", "exclude_modules"):
        value = getattr(lora, name)
        if isinstance(value, str) and value != "all-linear":
            try:
                re.compile(value)
            except re.error as error:
                problem = f"expected a list of module names, or a regular expression that can be read ({error})"
                raise Invalid(f"lora.{name}", problem, value) from None
    if isinstance(lora.target_modules, str):
        for name in ("layers_to_transform", "layers_pattern"):
            if (value := getattr(lora, name)) is not None:
                raise Invalid(f"lora.{name}", "expected null where lora.target_modules is not a list of names", value)
    if lora.layers_pattern is not None and lora.layers_to_transform is None:
        raise Invalid(
            "lora.layers_pattern", "expected null where lora.layers_to_transform is null", lora.layers_pattern
        )
    if lora.modules_to_save and lora.target_modules == "all-linear":
        problem = (
            "expected null with lora.target_modules = all-linear, which gives these modules adapters too; name the "
            "modules that get them, such as lora.target_modules=[q_proj,k_proj,v_proj,o_proj]"
        )
        raise Invalid("lora.modules_to_save", problem, lora.modules_to_save)


def _check_loader(train: Train) -> None:
    if train.dataloader_num_workers == 0:
        for name, off in (("dataloader_persistent_workers", False), ("dataloader_prefetch_factor", None)):
            if (value := getattr(train, name)) != off:
                problem = f"expected {show(off)} where train.dataloader_num_workers is 0"
                raise Invalid(f"train.{name}", problem, value)


def _check_best(train: Train) -> None:
    """The best checkpoint and early stopping both need validation losses."""
    if train.early_stopping_patience is not None and train.eval_strategy == "no":
        problem = "expected null where train.eval_strategy is no: patience counts evaluations"
        raise Invalid("train.early_stopping_patience", problem, train.early_stopping_patience)
    if not train.load_best_model_at_end:
        return
    key = "train.load_best_model_at_end"
    if train.eval_strategy == "no":
        raise Invalid(
            key, "expected false where train.eval_strategy is no: the best has the lowest validation loss", True
        )
    if train.save_strategy != train.eval_strategy:
        problem = f"expected train.save_strategy to be train.eval_strategy ({train.eval_strategy}): {{}}"
        raise Invalid(
            key, problem.format(f"it is {train.save_strategy}, and a checkpoint needs its validation loss"), True
        )
    if train.save_strategy == "steps" and train.save_steps % train.steps_per_eval:
        problem = f"expected a multiple of train.eval_steps ({train.steps_per_eval}) with train.load_best_model_at_end"
        raise Invalid("train.save_steps", problem, train.save_steps)


def _check_schedule(train: Train) -> None:
    """The options of a schedule: their names, their values, and those that it cannot do without."""
    key, kind, given = "train.lr_scheduler_kwargs", train.lr_scheduler_type, train.lr_scheduler_kwargs
    known = SCHEDULE_OPTIONS[kind]
    where = f"train.lr_scheduler_type = {kind}"
    for name, value in given.items():
        if name not in known:
            allowed = f"one of {', '.join(sorted(known))}" if known else "no options"
            raise Invalid(f"{key}.{name}", f"expected {allowed} with {where}", value)
        if name in ("warmup_type", "decay_type"):
            if value not in CURVES:
                raise Invalid(f"{key}.{name}", f"expected one of {', '.join(CURVES)}", value)
        elif type(value) not in (int, float) or value < 0:
            raise Invalid(f"{key}.{name}", "expected a number, 0 or more", value)
    if kind == "cosine_with_min_lr" and len({"min_lr", "min_lr_rate"} & given.keys()) != 1:
        raise Invalid(key, f"expected either min_lr or min_lr_rate with {where}", given)
    if kind == "warmup_stable_decay" and "num_decay_steps" not in given:
        raise Invalid(key, f"expected num_decay_steps with {where}", given)
    if kind == "polynomial" and given.get("lr_end", 1e-7) >= train.learning_rate:
        raise Invalid(key, f"expected an lr_end below train.learning_rate ({train.learning_rate:g})", given)


def _check_stream(config: Config) -> None:
    data, train = config.data, config.train
    if data.stream is None:
        if not data.sources:
            raise Invalid("data.sources", f"expected {SOURCES}", [])
        if data.stream_validation is not None:
            raise Invalid("data.stream_validation", "expected null where data.stream is null")
        return
    if train.max_steps is None:
        problem = "expected a number of steps with data.stream: how much the shards hold is not known"
        raise Invalid("train.max_steps", problem, None)
    if train.eval_strategy != "no" and data.stream_validation is None:
        problem = "expected shards to evaluate on, or train.eval_strategy: no"
        raise Invalid("data.stream_validation", problem, None)
    if data.feature_cache is not None:
        problem = "expected null with data.stream: features of a set that large would not fit on the disk"
        raise Invalid("data.feature_cache", problem, data.feature_cache.as_posix())


# ---------------------------------------------------------------------------------------------- nearest key


def _valid_keys(model: type[Section] = Config, prefix: str = "") -> Iterator[str]:
    """Every dotted key a config may hold; the entries of a list are under index 0."""
    for name, field in model.model_fields.items():
        key = prefix + name
        yield key
        inner = _section_of(field.annotation)
        if inner is not None:
            yield from _valid_keys(inner, f"{key}.0." if inner is Source else f"{key}.")


def nearest_key(key: str) -> str:
    """``; nearest valid key: ...`` at the level of ``key`` if something there is close, else anywhere."""
    if key in RENAMED:
        return f"; nearest valid key: {RENAMED[key]}"
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


# ---------------------------------------------------------------------------------------------- paths and models


def require_paths(config: Config, *keys: str) -> None:
    """Check that what a script is about to read exists: ``require_paths(config, "data.sources", "data.image_map")``.

    ``data.sources`` means the annotation files and image folders of all sources; ``data.validation`` and
    ``data.test`` are checked only where they are files.

    Raises:
        UserError: the key, the path, and what to run first.
    """
    for key in keys:
        if key == "data.sources":
            _require_sources(config)
        elif key in ("data.image_map", "data.annotations", "data.skipped"):
            path = getattr(config.data, key.removeprefix("data."))
            _require(key, path, os.path.isfile, "a file; run process_image.py with the same --config first")
        elif key in ("data.validation", "data.test"):
            expected = "a text file of image names, one a line, or a share such as 0.02"
            if isinstance(given := getattr(config.data, key.removeprefix("data.")), Path):
                _require(key, given, os.path.isfile, expected)
        else:
            raise KeyError(f"require_paths does not know {key}")


def _require_sources(config: Config) -> None:
    advice = "put the data there or change the path (demo data: python -m demo.scenes --output data/demo/raw)"
    if not config.data.sources:
        raise UserError(f"data.sources: missing, expected {SOURCES} (data.stream is for train.py alone)")
    for index, source in enumerate(config.data.sources):
        key = f"data.sources.{index}"
        for path in source.annotations:
            _require(f"{key}.annotations", path, os.path.exists, f"an annotations file; {advice}")
        for path in source.questions or []:
            _require(f"{key}.questions", path, os.path.isfile, f"a file of questions; {advice}")
        if all(path.suffix in (".parquet", ".arrow") or path.is_dir() for path in source.annotations):
            continue  # the pictures are inside, and process_image.py writes them to the folder images
        for path in source.images:
            _require(f"{key}.images", path, os.path.isdir, f"a folder of images; {advice}")


def _require(key: str, path: Path, is_there: Callable[[Path], bool], expected: str) -> None:
    if not is_there(path):
        found = "is something else" if os.path.exists(path) else "does not exist"
        raise UserError(f"{key} = {show(path.as_posix())}: {found}, expected {expected}{nearest_path(path)}")


def nearest_path(path: str | Path) -> str:
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
    if config.model is not None:
        return  # settings.llava.follow_model has read its config.json
    for name, section in (("vision", config.vision), ("language", config.language), ("projector", config.projector)):
        key = f"{name}.path"
        if section.path is None:
            continue
        if not _is_local(section.path):
            if not re.fullmatch(r"[\w.-]+(?:/[\w.-]+)?", section.path):
                raise Invalid(key, f"expected {type(section).model_fields['path'].description}", section.path)
            continue
        folder = local_model_folder(section.path)
        if folder is None:
            problem = "no such folder, expected one that holds config.json, or a hub name"
            raise Invalid(key, problem, section.path, nearest_path(section.path))
        if not (folder / "config.json").is_file():
            raise Invalid(key, "expected a model folder, but it holds no config.json", section.path)
        if isinstance(section, Vision):
            _check_token_count(section, config.projector, folder / "config.json")


def _check_token_count(vision: Vision, projector: Projector, file: Path) -> None:
    try:
        content = read_sizes(json.loads(file.read_text(encoding="utf-8")), file.parent)
        grid = patch_grid(content, vision.drop_first_token, vision.image_size)
    except UserError as error:
        raise Invalid("vision.path", str(error), vision.path) from None
    except (OSError, ValueError) as error:
        raise Invalid("vision.path", f"expected a readable config.json ({error})", vision.path) from None
    if projector.kind == "pool" and (wanted := grid.drop_first_for_patches) is not None:
        problem = f"expected {wanted} with projector.kind = pool, which joins the patches of a whole picture"
        raise Invalid("vision.drop_first_token", problem, vision.drop_first_token)
    given = projector.num_tokens(grid)
    if given != vision.image_context_length:
        size, patch, _ = tower_sizes(content)
        size = vision.image_size or size
        rule = f"{size} px, patch {patch}, vision.drop_first_token {show(vision.drop_first_token)}"
        giver = "the encoder" if given == grid.features else f"projector.kind = {projector.kind}"
        sizes = "".join(f", projector.{name} {value}" for name, value in projector.token_sizes.items())
        problem = f"expected {given}, which is what {giver} gives ({rule}{sizes})"
        raise Invalid("vision.image_context_length", problem, vision.image_context_length)
