"""A model that is no checkpoint of ours: which questions it is asked, and opening it."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from settings import Config, load_config
from settings.checks import validate
from settings.invalid import Invalid
from settings.yaml_file import override
from training.distributed import world_size

if TYPE_CHECKING:
    from evaluation.answerer import Answerer

NO_SYSTEM = 'language.system=""'  # a model has its own; the command line may set one


def other_config(args: argparse.Namespace) -> Config:
    """The config of --config, or one of the files of questions alone, with the command line's overrides.

    Raises:
        UserError: the config or an override is wrong, or a setting is none that a server has.
    """
    overrides = [NO_SYSTEM, *args.overrides]
    if args.config:
        config = load_config(args.config, overrides, check_models=False)
    else:
        config = default_config(args.model, overrides)
    if args.endpoint:
        from evaluation.endpoint import check_endpoint

        if world_size() > 1:
            raise UserError("--endpoint: one process is enough; generate.batch_size is how many it asks at once")
        check_endpoint(args.endpoint, config.generate)
    return config


def default_config(model: str, overrides: Sequence[str]) -> Config:
    """Default settings, for questions of given files that belong to no run. Its own files are not read."""
    files = {name: f"data/{name}.json" for name in ("image_map", "annotations", "skipped")}
    source = {"name": "none", "annotations": "none.json", "images": "."}
    raw: dict[str, Any] = {"data": {"sources": [source], **files}}
    raw |= {"vision": {"path": model}, "language": {"path": model}}
    try:
        for text in overrides:
            override(raw, text)
        return validate(raw, check_models=False)
    except Invalid as problem:
        raise UserError(f"command line: {problem}") from None


def open_other(args: argparse.Namespace, config: Config, device: str | None) -> tuple[Answerer, dict[str, Any]]:
    """The model, and what the result file says it is."""
    if args.endpoint:
        from evaluation.endpoint import Endpoint

        server = Endpoint(args.endpoint, args.model, config.language.system)
        digest = hashlib.sha256(f"{server.url} {args.model}".encode()).hexdigest()
        return server, {"checkpoint": args.model, "checkpoint_sha256": digest, "tokens": server.tokens}
    from common.hub import model_folder
    from evaluation.hub_model import folder_hash, load_hub_model

    model = load_hub_model(args.model, device, config.language.system)
    return model, {"checkpoint": args.model, "checkpoint_sha256": folder_hash(model_folder(args.model, "--model"))}
