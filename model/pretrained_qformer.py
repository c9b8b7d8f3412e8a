"""``projector.path``: the Q-Former and the queries of a trained BLIP-2, with which a new run's projector begins.

The folder is one that transformers' ``Blip2Model`` or a model around it was saved in. Its linear layer is left out: it
leads to another language model. Words of BLIP-2's first stage have layers and embeddings of their own, which are fresh
where the folder has none.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import Blip2QFormerConfig

from common.errors import UserError
from common.hub import model_folder, read_config, read_header, weight_files, what_is_missing

if TYPE_CHECKING:
    from model.connectors import QFormerConnector

KEY = "projector.path"
SIZES = {  # of transformers' config, and the key by which a run sets it
    "num_hidden_layers": "projector.layers",
    "hidden_size": "projector.hidden_size",
    "encoder_hidden_size": "vision.path",
}
FIXED = ("num_attention_heads", "intermediate_size", "cross_attention_frequency", "hidden_act", "layer_norm_eps")
OF_WORDS = re.compile(r"layer\.\d+\.(intermediate|output)\.")  # the MLPs that read words


@torch.no_grad()
def fill_qformer(projector: QFormerConnector, path: str) -> list[str]:
    """Copy queries and Q-Former from the BLIP-2 in ``path``; lines that say what was loaded and what is fresh.

    Raises:
        UserError: the folder is missing or incomplete, is no BLIP-2, or has other sizes; one line that names the key.
    """
    folder = Path(model_folder(path, KEY))
    check_sizes(projector, read_config(folder, KEY), path)
    if lack := what_is_missing(folder):
        raise UserError(f"{KEY} = {path}: {lack}")
    state, wanted = read_qformer(folder), projector.state_dict()
    of_qformer = [name for name in wanted if name == "query_tokens" or name.startswith("qformer.")]
    for name in of_qformer:
        if name not in state and not OF_WORDS.search(name):
            raise UserError(f"{KEY} = {path}: its weights lack {name}; download it again")
        if name in state and state[name].shape != wanted[name].shape:
            shapes = f"{list(state[name].shape)} there and {list(wanted[name].shape)} here"
            raise UserError(f"{KEY} = {path}: {name} is {shapes}, so it cannot be loaded")
    common = [name for name in of_qformer if name in state]
    for name in common:
        wanted[name].copy_(state[name])
    fresh = [name for name in wanted if name not in common]
    return [f"loaded    projector: {len(common)} tensors of {path}", f"fresh     projector: {', '.join(fresh)}"]


def check_sizes(projector: QFormerConnector, content: dict[str, Any], path: str) -> None:
    """Raises UserError unless a folder's config.json is of a BLIP-2 with the sizes of ``projector``."""
    if not isinstance(content.get("qformer_config"), dict):
        raise UserError(f"{KEY} = {path}: its config.json has no qformer_config; expected a folder of a BLIP-2")
    there, here = Blip2QFormerConfig(**content["qformer_config"]), projector.qformer.config
    if (queries := content.get("num_query_tokens", 32)) != (own := projector.query_tokens.shape[1]):
        raise UserError(f"{KEY} = {path}: it has {queries} queries; set projector.queries to that, now {own}")
    for name in (*SIZES, *FIXED):
        if (value := getattr(there, name)) != (own := getattr(here, name)):
            advice = f"; {SIZES[name]} must go with it" if name in SIZES else ", which cannot be set"
            raise UserError(f"{KEY} = {path}: its Q-Former has {name} {value}, and the run's has {own}{advice}")


def read_qformer(folder: Path) -> dict[str, torch.Tensor]:
    """``query_tokens`` and ``qformer.*`` of a folder, by these names, also where ``model.`` stands before them."""
    from safetensors import safe_open

    found = {}
    for file in weight_files(folder):
        with safe_open(file, "pt") as tensors:
            for name in read_header(file):
                own = name.removeprefix("model.")
                if own == "query_tokens" or own.startswith("qformer."):
                    found[own] = tensors.get_tensor(name)
    return found
