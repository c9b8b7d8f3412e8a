"""Both GGUF files in transformers' classes, in fp32 on the CPU, to compare an export with our model.

Nothing but the files is used. The language model and the tokenizer come through transformers' own reader of GGUF;
tower, projector and pixels from the mmproj's tensors and keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from answering.exporting.gguf_file import read_keys, read_tensors
from answering.exporting.hf import messages_of as llava_messages
from answering.exporting.template import IMAGE
from dataset.image import prepare_image
from dataset.prompt import IMAGE_TOKEN, Request

if TYPE_CHECKING:
    from PIL import Image

MARKER = "<__media__>"  # what llama.cpp's programs put where a picture is
TOWER = "vision_tower.vision_model."  # the names under which the package gguf knows a tower's tensors


class ReopenedGguf:
    """See :class:`answering.exporting.formats.Reopened`."""

    def __init__(self, folder: Path) -> None:
        from gguf import GGUFReader

        (file,), (mmproj,) = folder.glob("model-*.gguf"), folder.glob("mmproj-*.gguf")
        keys = read_keys(GGUFReader(file))
        config = AutoConfig.from_pretrained(folder, gguf_file=file.name)
        config.head_dim = keys[f"{config.model_type}.attention.key_length"]  # transformers 5.23 does not read it
        self.language = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=file.name, config=config, dtype=torch.float32
        ).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
        self.template = keys["tokenizer.chat_template"]
        self.image_token_id = self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        reader = GGUFReader(mmproj)
        self.keys = {name.removeprefix("clip.vision."): value for name, value in read_keys(reader).items()}
        self.tensors = {name: torch.from_numpy(value.copy()).float() for name, value in read_tensors(reader).items()}
        self.normed = "v.post_ln.weight" in self.tensors
        self.tower = self._tower()

    def _tower(self) -> SiglipVisionModel:
        """The tower that the keys describe; without the tensors of a final norm, its norm is not used."""
        import gguf

        config = SiglipVisionConfig(
            hidden_size=self.keys["embedding_length"],
            intermediate_size=self.keys["feed_forward_length"],
            num_hidden_layers=self.keys["block_count"],
            num_attention_heads=self.keys["attention.head_count"],
            layer_norm_eps=self.keys["attention.layer_norm_epsilon"],
            image_size=self.keys["image_size"],
            patch_size=self.keys["patch_size"],
            vision_use_head=False,
        )
        tower = SiglipVisionModel(config).eval()
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, config.num_hidden_layers)
        kept = [n for n in tower.state_dict() if self.normed or not n.startswith("post_layernorm.")]
        tower.load_state_dict({name: self.tensors[renamed(names, TOWER + name)] for name in kept}, strict=self.normed)
        return tower

    def prompt(self, request: Request) -> list[int]:
        text = self.tokenizer.apply_chat_template(
            messages_of(request), chat_template=self.template, add_generation_prompt=True, tokenize=False
        )
        patches = (self.keys["image_size"] // self.keys["patch_size"]) ** 2
        first, *others = (self.tokenizer.encode(piece, add_special_tokens=False) for piece in text.split(MARKER))
        return first + [number for piece in others for number in [self.image_token_id] * patches + piece]

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        length = self.keys["image_size"]
        processor = SiglipImageProcessorPil(
            size={"height": length, "width": length},
            image_mean=self.keys["image_mean"],
            image_std=self.keys["image_std"],
        )
        return torch.stack([prepare_image(image, processor) for image in images])

    @torch.no_grad()
    def logits(self, input_ids: list[int], pixel_values: torch.Tensor, last: int) -> torch.Tensor:
        embeddings = self._embeddings(input_ids, pixel_values)
        return self.language(inputs_embeds=embeddings, logits_to_keep=last).logits[0]

    @torch.no_grad()
    def answer(self, request: Request, max_new_tokens: int) -> str:
        pixels = self.pixels(request.images) if request.images else torch.zeros(0)
        embeddings = self._embeddings(self.prompt(request), pixels)
        end = self.tokenizer.convert_tokens_to_ids("<|im_end|>")
        new = self.language.generate(
            inputs_embeds=embeddings,
            attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=end,
        )
        return self.tokenizer.decode(new[0], skip_special_tokens=True).strip()

    def _embeddings(self, input_ids: list[int], pixel_values: torch.Tensor) -> torch.Tensor:
        """The prompt [1, T, D] with the projected features at the visual tokens."""
        ids = torch.tensor([input_ids])  # [1, T]
        embeddings = self.language.get_input_embeddings()(ids)  # [1, T, D]
        if len(pixel_values):
            out = self.tower(pixel_values, output_hidden_states=True)
            features = out.last_hidden_state if self.normed else out.hidden_states[-1]  # [n, patches, Dv]
            inner = functional.linear(features, self.tensors["mm.0.weight"], self.tensors["mm.0.bias"])
            inner = functional.gelu(inner)  # [n, patches, D]
            shown = functional.linear(inner, self.tensors["mm.2.weight"], self.tensors["mm.2.bias"])
            embeddings[ids == self.image_token_id] = shown.flatten(0, 1)
        return embeddings


def messages_of(request: Request) -> list[dict[str, Any]]:
    """A conversation as llama.cpp's server gives it to the template."""
    messages = llava_messages(request)
    for message in messages:
        if isinstance(message["content"], str):
            message["content"] = message["content"].replace(IMAGE, MARKER)
        else:
            message["content"] = [
                {"type": "media_marker", "text": MARKER} if part["type"] == "image" else part
                for part in message["content"]
            ]
    return messages


def renamed(names: Any, name: str) -> str:
    """llama.cpp's name of a tensor."""
    found = names.get_name(name, try_suffixes=(".weight", ".bias"))
    assert found is not None, f"the package gguf has no name for {name}"
    return found
