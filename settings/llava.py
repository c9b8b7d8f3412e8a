"""The key ``model``: a run begins with a LLaVA or a Qwen-VL, and its config.json decides on keys of the run's config.

Tower, projector and language model come from one folder, so ``model`` takes the place of ``vision.path`` and
``language.path``, and the keys below follow from it. One that says something else is an error.
"""

from __future__ import annotations

from typing import Any

from common.errors import UserError
from common.hub import fetch_config
from common.qwen_vl import is_qwen_vl, visual_sizes
from settings.invalid import Invalid, show
from visual.geometry import patch_grid

LANGUAGES = ("qwen2", "qwen3")
TOWERS = ("siglip_vision_model", "clip_vision_model")


def follow_model(raw: dict[str, Any]) -> None:
    """Fill in what follows from ``model``, if a config's content has one.

    Raises:
        Invalid: it is no LLaVA or Qwen-VL that can be read here, or a key contradicts it.
    """
    model = raw.get("model")
    if not isinstance(model, str) or not model.strip():
        return  # the schema says what is wrong with it, if anything
    for name in ("vision", "language", "projector"):
        if not isinstance(raw.setdefault(name, {}), dict):
            return
        path = raw[name].get("path", model)
        if name != "projector" and path != model:
            raise Invalid(f"{name}.path", "expected to be left out where model is set: model holds that part too", path)
    try:
        content = fetch_config(model, "model")
        followed = keys_of(content, raw["vision"].get("image_size"))
    except UserError as error:
        raise Invalid("model", str(error), model) from None
    for key, value in followed.items():
        section, name = key.split(".")
        given = raw[section].setdefault(name, value)
        if given != value:
            raise Invalid(key, f"expected {show(value)}, which is what model = {model} was trained with", given)
    raw["vision"]["path"] = raw["language"]["path"] = model
    if is_qwen_vl(content):
        raw["language"].setdefault("picture_numbers", True)
    else:
        raw["language"].setdefault("system", "")  # what its own template says


def keys_of(content: dict[str, Any], image_size: Any = None) -> dict[str, Any]:
    """The keys that follow from the config.json of a LLaVA; ``image_size`` is another resolution than its own.

    Values that a config.json leaves out are LLaVA's defaults.

    Raises:
        UserError: it is another kind of model.
    """
    if is_qwen_vl(content):
        return qwen_vl_keys(content)
    kind = content.get("model_type")
    if kind != "llava":
        raise UserError(
            f"a {kind} model, expected LLaVA itself (model_type llava) with a SigLIP or CLIP tower and a Qwen, or the "
            "first Qwen-VL"
        )
    tower, text = content.get("vision_config"), content.get("text_config")
    if not isinstance(tower, dict) or not isinstance(text, dict):
        raise UserError("expected a config.json with vision_config and text_config")
    for name, part, known in (("text_config", text, LANGUAGES), ("vision_config", tower, TOWERS)):
        if part.get("model_type") not in known:
            raise UserError(f"its {name} is a {part.get('model_type')} model; expected one of {', '.join(known)}")
    if (act := content.get("projector_hidden_act", "gelu")) != "gelu":
        raise UserError(f"its projector has {act} between its layers; expected gelu")
    drops = content.get("vision_feature_select_strategy", "default") == "default"
    size = image_size if type(image_size) is int else None
    return {
        "vision.layer": _layer(content.get("vision_feature_layer", -2), tower),
        # SigLIP's last hidden state in LLaVA is the one before the final norm, unless this key ties the two.
        "vision.final_norm": bool(tower.get("tie_last_hidden_states", False)),
        "vision.drop_first_token": drops,
        "vision.image_context_length": patch_grid(content, drops, size).features,
        "projector.kind": "mlp",
        "projector.layers": None,
        "projector.hidden_size": None,
        "projector.standardize": False,
    }


def qwen_vl_keys(content: dict[str, Any]) -> dict[str, Any]:
    """The keys that follow from the config.json of a Qwen-VL.

    Raises:
        UserError: a size is missing.
    """
    queries = visual_sizes(content)["n_queries"]
    return {
        "vision.layer": -1,
        "vision.final_norm": True,
        "vision.drop_first_token": False,
        "vision.image_context_length": queries,
        "projector.kind": "resampler",
        "projector.queries": queries,
        "projector.standardize": False,
    }


def _layer(layer: Any, tower: dict[str, Any]) -> int | list[int]:
    """``vision_feature_layer``, counted from the end."""
    blocks = tower.get("num_hidden_layers", 12)
    layers = layer if isinstance(layer, list) else [layer]
    if not layers or not all(type(one) is int and -blocks <= one <= blocks for one in layers):
        raise UserError(f"vision_feature_layer is {show(layer)} for an encoder of {blocks} blocks")
    counted = [one - blocks - 1 if one >= 0 else one for one in layers]
    return counted if len(counted) > 1 else counted[0]
