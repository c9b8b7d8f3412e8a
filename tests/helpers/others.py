"""Tiny random models of other families, in folders as transformers writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForQuestionAnswering,
    BlipImageProcessorPil,
    BlipProcessor,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessorPil,
    SmolVLMProcessor,
    ViltConfig,
    ViltForQuestionAnswering,
    ViltImageProcessorPil,
    ViltProcessor,
)

from evaluation.hub_model import image_only
from tests.helpers.tiny import TOKENIZER

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *LETTERS, "?", *map("##{}".format, LETTERS)]
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ 'IMAGE' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def qwen_vl(folder: Path, version: str = "2.5") -> Path:
    """A Qwen2.5-VL or Qwen3-VL that turns 28 px into 2 x 2 patches and one token."""
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    added = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer.add_tokens(added, special_tokens=True)
    start, end, image, video = tokenizer.convert_tokens_to_ids(added)
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
    text = {**SIZES, "num_key_value_heads": 2, "vocab_size": 768, "rope_parameters": rope}
    vision = {"depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": 16}
    ids = {"image_token_id": image, "video_token_id": video, "vision_start_token_id": start, "vision_end_token_id": end}
    model: PreTrainedModel
    if version == "2.5":
        vision |= {"patch_size": 14, "window_size": 28, "fullatt_block_indexes": [1]}
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids))
        kind = Qwen2_5_VLProcessor
    else:
        vision |= {"patch_size": 14, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
        text |= {"head_dim": 8}
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **ids))
        kind = Qwen3VLProcessor
    pictures = Qwen2VLImageProcessorPil(patch_size=14, size={"shortest_edge": 28 * 28, "longest_edge": 56 * 56})
    template = CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    return save(folder, model, image_only(kind)(pictures, tokenizer, chat_template=template))


def smolvlm(folder: Path) -> Path:
    """A SmolVLM of 28 px, whose four patches become one token."""
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    tokenizer.add_tokens(["<image>", "<fake_token_around_image>", "<global-img>"], special_tokens=True)
    vision = {**SIZES, "image_size": 28, "patch_size": 14}
    text = {**SIZES, "model_type": "llama", "num_key_value_heads": 2, "vocab_size": 768, "pad_token_id": 0}
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = SmolVLMConfig(text_config=text, vision_config=vision, image_token_id=image, scale_factor=2)
    pictures = SmolVLMImageProcessorPil(
        size={"longest_edge": 28}, max_image_size={"longest_edge": 28}, do_image_splitting=False
    )
    processor = image_only(SmolVLMProcessor)(
        pictures, tokenizer, None, image_seq_len=1, chat_template=CHATML.replace("IMAGE", "<image>")
    )
    return save(folder, SmolVLMForConditionalGeneration(config), processor)


def blip(folder: Path, question_answering: bool) -> Path:
    """A BLIP of 32 px."""
    text = {**SIZES, "encoder_hidden_size": 16, "vocab_size": len(WORDS), "bos_token_id": 5, "sep_token_id": 3}
    text |= {"pad_token_id": 0, "eos_token_id": 3, "projection_dim": 8, "max_position_embeddings": 64}
    config = BlipConfig(
        text_config=text, vision_config={**SIZES, "image_size": 32, "patch_size": 16}, projection_dim=8,
        image_text_hidden_size=8,
    )  # fmt: skip
    cls = BlipForQuestionAnswering if question_answering else BlipForConditionalGeneration
    return save(
        folder, cls(config), BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), bert(folder))
    )


def vilt(folder: Path) -> Path:
    """A ViLT that knows four answers."""
    labels = dict(enumerate(["red", "green", "blue", "yes"]))
    config = ViltConfig(**SIZES, image_size=32, patch_size=16, vocab_size=len(WORDS), id2label=labels, num_labels=4)
    pictures = ViltImageProcessorPil(size={"shortest_edge": 32}, size_divisor=16)
    return save(folder, ViltForQuestionAnswering(config), ViltProcessor(pictures, bert(folder)))


def bert(folder: Path) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS), encoding="utf-8")
    return BertTokenizer(str(vocabulary))


def save(folder: Path, model: PreTrainedModel, processor: Any) -> Path:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # as they are made, all pictures give the same answer
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
