"""The format ``hf``: a folder in transformers' LLaVA format, as the models of llava-hf on the hub are.

config.json                 LlavaConfig with every key written out
model*.safetensors          shards of at most 5 GB, under the names that llava-hf uses
tokenizer.json, ...         <|extra_0|> is named <image>, at the same id
processor_config.json, preprocessor_config.json, chat_template.jinja, generation_config.json
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedConfig,
    PreTrainedModel,
)

from answering.exporting.formats import Options
from answering.exporting.template import IMAGE, chat_template
from answering.exporting.tower import tower_part
from common.errors import UserError
from common.files import write_json
from dataset.prompt import Request
from model.adapters import base_of
from model.connectors import Connector
from model.connectors.mlp import MLPConnector
from model.model import MMultiModal
from qwen.rename import rename_token
from qwen.tokenizer import IMAGE_TOKEN, Tokenizer, token_id
from visual.geometry import tower_sizes

if TYPE_CHECKING:
    from PIL import Image

    from answering.assistant import Assistant
    from settings import Config

# A share of the largest logit, both sides in fp32 on the same weights. Seen: 1e-6 with --norm block, 0 otherwise. The
# tower without its final norm is off by 0.4.
BOUND = 1e-4
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SHARD = 5 * 10**9  # bytes
TOWER, LANGUAGE, PROJECTOR = "vision_tower.vision_model.", "language_model.", "multi_modal_projector."


def require(config: Config, options: Options) -> None:
    """See :class:`answering.exporting.formats.Format`."""
    if options.norm is not None and (config.vision.layer != -1 or not config.vision.final_norm):
        raise UserError(
            f"--norm = {options.norm}: the run takes vision.layer = {config.vision.layer} with vision.final_norm = "
            f"{str(config.vision.final_norm).lower()}, which is in front of the final norm; leave --norm out"
        )


def size(model: MMultiModal, options: Options) -> int:
    """Bytes of the weights; see :class:`answering.exporting.formats.Format`."""
    weights = sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name)
    tower = base_of(model.vision).config
    block = 4 * tower.hidden_size**2 + 2 * tower.hidden_size * tower.intermediate_size  # --norm block adds one
    return (weights + block) * DTYPES[options.dtype].itemsize


def write(source: Assistant, folder: Path, options: Options) -> None:
    """See :class:`answering.exporting.formats.Format`."""
    model, dtype = source.model, DTYPES[options.dtype]
    linears = projector_layers(model.projector, base_of(model.language).config.hidden_size)
    tower = tower_part(base_of(model.vision), options.norm)
    state = {TOWER + name: tensor for name, tensor in tower.state.items()}
    for number, (weight, bias) in enumerate(linears, start=1):
        state[f"{PROJECTOR}linear_{number}.weight"] = weight / (tower.divisor if number == 1 else 1.0)
        state[f"{PROJECTOR}linear_{number}.bias"] = bias
    language = base_of(model.language)
    state |= {LANGUAGE + name: tensor for name, tensor in untied(language).items()}
    write_shards(state, folder, dtype)
    config = llava_config(source, tower.config, options.dtype)
    write_json(folder / "config.json", public(config.to_dict()))
    write_processor(source, folder, config)
    language.generation_config.save_pretrained(folder)


def projector_layers(connector: Connector, width: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Weight [out, in] and bias [out] of the two linear layers of LLaVA's projector.

    Raises:
        UserError: the connector is another, or has another width between its layers than ``width``.
    """
    if not isinstance(connector, MLPConnector):
        raise UserError(
            f"the connector {connector.name} has no counterpart in LLaVA, whose projector is Linear, GELU, Linear; "
            "train with the connector mlp to export the model"
        )
    state = connector.folded()
    if "4.weight" in state:
        raise UserError(
            "projector.layers: above 2, and LLaVA's projector has 2; a run with projector.layers: null can be exported"
        )
    if len(state["0.weight"]) != width:
        raise UserError(
            f"projector.hidden_size: {len(state['0.weight'])}, and LLaVA's projector has the language model's width "
            f"{width} between its layers; a run with projector.hidden_size: null can be exported"
        )
    return [(state[f"{layer}.weight"], state[f"{layer}.bias"]) for layer in (0, 2)]


def untied(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict with each shared tensor once."""
    once = {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}
    return {name: tensor for name, tensor in model.state_dict().items() if name in once}


def write_shards(state: dict[str, torch.Tensor], folder: Path, dtype: torch.dtype, limit: int = SHARD) -> None:
    """Write tensors in ``dtype`` into files of at most ``limit`` bytes, and an index if there are several."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in state.items():
        needed = tensor.numel() * dtype.itemsize
        if shards[-1] and filled + needed > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += needed
    files = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    if len(shards) == 1:
        files = ["model.safetensors"]
    for file, names in zip(files, shards, strict=True):
        tensors = {name: state[name].detach().to(dtype, copy=True).contiguous() for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
    if len(shards) > 1:
        total = sum(tensor.numel() for tensor in state.values()) * dtype.itemsize
        where = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})


def llava_config(source: Assistant, tower: PreTrainedConfig, dtype: str) -> LlavaConfig:
    """The config of the whole model."""
    model = source.model
    text = copy.deepcopy(base_of(model.language).config)
    text.architectures = [{"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}[text.model_type]]
    config = LlavaConfig(
        vision_config=tower,
        text_config=text,
        image_token_index=token_id(source.tokenizer, IMAGE_TOKEN),
        image_seq_length=model.num_visual_tokens,
        projector_hidden_act="gelu",
        vision_feature_select_strategy="default" if model.drop_first_token else "full",
        vision_feature_layer=feature_layer(base_of(model.vision)),
        multimodal_projector_bias=True,
        tie_word_embeddings=text.tie_word_embeddings,
        pad_token_id=source.tokenizer.pad_token_id,
        eos_token_id=token_id(source.tokenizer, "<|im_end|>"),
    )
    config.architectures = ["LlavaForConditionalGeneration"]
    for part in (config, config.vision_config, config.text_config):
        part.dtype = DTYPES[dtype]
    return config


def feature_layer(tower: PreTrainedModel) -> int | list[int]:
    """``vision_feature_layer``: the last hidden state that is left of the tower, or those that are joined."""
    if not tower.states:
        return -1
    return [state - tower.config.num_hidden_layers - 1 for state in tower.states]


def public(content: dict[str, Any]) -> dict[str, Any]:
    """A config's content without the names of this machine's folders."""
    own = {name: value for name, value in content.items() if name != "_name_or_path"}
    return {name: public(value) if isinstance(value, dict) else value for name, value in own.items()}


def write_processor(source: Assistant, folder: Path, config: LlavaConfig) -> None:
    """The tokenizer, the image processor and the processor that joins them."""
    source.tokenizer.save_pretrained(folder)
    rename_token(folder, IMAGE_TOKEN, IMAGE)
    image_processor = copy.deepcopy(source.image_processor)
    if not image_processor.do_center_crop:  # vLLM's transformers backend reads the size of pictures from crop_size
        image_processor.crop_size, image_processor.do_center_crop = image_processor.size, False
    _, patch, class_tokens = tower_sizes(config.vision_config.to_dict())
    processor = LlavaProcessor(
        image_processor,
        AutoTokenizer.from_pretrained(folder),
        patch_size=patch,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        chat_template=chat_template(source.tokenizer, source.config.language.system, source.config.language.thinking),
        image_token=IMAGE,
        num_additional_image_tokens=class_tokens,
    )
    processor.save_pretrained(folder)
    image_processor.save_pretrained(folder)  # older programs read preprocessor_config.json
    file = folder / "tokenizer_config.json"
    settings = {**json.loads(file.read_text(encoding="utf-8")), "tokenizer_class": tokenizer_class(source.tokenizer)}
    write_json(file, {name: value for name, value in settings.items() if name not in ("is_local", "local_files_only")})


def tokenizer_class(tokenizer: Tokenizer) -> str:
    """The name of a tokenizer's class that transformers 4 knows too, on which other programs may still run."""
    name = type(tokenizer).__name__
    return "PreTrainedTokenizerFast" if name == "TokenizersBackend" else name


# ---------------------------------------------------------------------------------------------- opened again


class StockLlava:
    """An export in transformers' own classes, in fp32 on the CPU; see :class:`answering.exporting.formats.Reopened`."""

    def __init__(self, folder: Path) -> None:
        self.model, info = LlavaForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
        if wrong := sorted({*info["missing_keys"], *info["unexpected_keys"]}):
            raise UserError(f"{folder}: transformers does not find {wrong[0]}, or does not know it")
        self.model.eval()
        self.processor = AutoProcessor.from_pretrained(folder, backend="pil")

    def prompt(self, request: Request) -> list[int]:
        return self._inputs(request)["input_ids"][0].tolist()

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        return self.processor.image_processor(images=list(images), return_tensors="pt")["pixel_values"]

    @torch.no_grad()
    def logits(self, input_ids: list[int], pixel_values: torch.Tensor, last: int) -> torch.Tensor:
        ids = torch.tensor([input_ids])  # [1, T]
        return self.model(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixel_values, logits_to_keep=last
        ).logits[0]

    @torch.no_grad()
    def answer(self, request: Request, max_new_tokens: int) -> str:
        inputs = self._inputs(request)
        ids = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        new = ids[0, inputs["input_ids"].shape[1] :]
        return self.processor.tokenizer.decode(new, skip_special_tokens=True).strip()

    def _inputs(self, request: Request) -> dict[str, Any]:
        text = self.processor.apply_chat_template(messages_of(request), add_generation_prompt=True, tokenize=False)
        return self.processor(text=text, images=list(request.images) or None, return_tensors="pt")


def reopen(folder: Path) -> StockLlava:
    """See :class:`answering.exporting.formats.Format`."""
    return StockLlava(folder)


def messages_of(request: Request) -> list[dict[str, Any]]:
    """A conversation as other programs are given it."""
    messages: list[dict[str, Any]] = []
    if request.system:
        messages.append({"role": "system", "content": [{"type": "text", "text": request.system}]})
    for turn in request.turns:
        messages.append({"role": "user", "content": content_of(turn.question)})
        if turn.answer is not None:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
    return messages


def content_of(question: str) -> str | list[dict[str, str]]:
    """A question's parts if its pictures come first, followed by a line break; else its text."""
    images, text = 0, question
    while text.startswith(IMAGE_TOKEN):
        images, text = images + 1, text.removeprefix(IMAGE_TOKEN)
    if IMAGE_TOKEN in text or images and not text.startswith("\n"):
        return question.replace(IMAGE_TOKEN, IMAGE)
    return [{"type": "image"}] * images + [{"type": "text", "text": text.removeprefix("\n") if images else text}]
