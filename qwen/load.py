"""From a folder or hub name to a Qwen that takes images: strictly, without remote code and without pickles.

python -m qwen.load models/Qwen2.5-0.5B-Instruct      # what a folder holds, and what it will need in memory
python -m qwen.load Qwen/Qwen3-1.7B                   # or a model on the hub
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, which take seconds
    from qwen.command import main

    raise SystemExit(main())

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, GenerationConfig, PreTrainedConfig

from common.errors import UserError
from common.hub import load_strictly, model_folder, read_config, read_headers, what_is_missing
from common.llava import is_llava, llava_config, read_part
from common.optional import import_bitsandbytes, is_installed
from common.qwen_vl import is_qwen_vl
from common.qwen_vl import read_part as read_qwen_vl
from qwen.Mqwen import MODEL_CLASSES, ImageInputMixin
from qwen.qwen1 import MQwenForCausalLM, as_qwen2_config, is_qwen1
from qwen.tokenizer import IMAGE_TOKEN, Tokenizer, load_tokenizer, token_id, untrained_box_rows

STOPS = ("<|im_end|>", "<|endoftext|>")  # in every family, the end of an answer and the end of a text


def load_language(
    path: str, tokenizer: Tokenizer, dtype: torch.dtype, load_in_4bit: bool = False, device: torch.device | str = "cpu"
) -> ImageInputMixin:
    """A Qwen that takes images, on the CPU. Its stop tokens and its placeholder are those of the tokenizer.

    Args:
        load_in_4bit: quantise the frozen weights for QLoRA: NF4 in blocks of 64, with quantised scales.
        device: where 4-bit weights are made and stay, because each kind of device has its own layout of them.

    Raises:
        UserError: it is missing, incomplete or of an unknown kind, or 4 bits are asked for without bitsandbytes.
    """
    folder = model_folder(path, "language.path")
    content = read_config(folder, "language.path")
    cls, config = family(content, folder, path)
    options = four_bit_options(dtype, device) if load_in_4bit else {}
    if config is not None:
        options["config"] = config
    if is_llava(content):
        options["state"] = read_part(folder, "language")
    elif is_qwen_vl(content):
        options["state"] = read_qwen_vl(folder, "language")
    language = load_strictly(cls, folder, dtype, "language.path", **options)
    return take_images(language, tokenizer)


def empty_language(path: str, tokens: int) -> ImageInputMixin:
    """:func:`load_language` for a tokenizer of ``tokens``, from the config.json alone; for ``torch.device("meta")``."""
    folder = model_folder(path, "language.path")
    cls, config = family(read_config(folder, "language.path"), folder, path)
    language = cls(config or cls.config_class.from_pretrained(folder))
    if tokens > language.config.vocab_size:
        language.resize_token_embeddings(tokens, mean_resizing=False)
    return language


def family(
    content: dict[str, Any], folder: str | Path, path: str
) -> tuple[type[ImageInputMixin], PreTrainedConfig | None]:
    """The class for the content of a folder's config.json; and its config where that is not the whole content.

    That is so for Qwen-1, which gets the config of its Qwen2 architecture, and for a LLaVA's language model.

    Raises:
        UserError: it is of another kind; names ``path`` and the known ones.
    """
    if is_qwen1(content):
        try:
            return MQwenForCausalLM, as_qwen2_config(content)
        except UserError as error:
            raise UserError(f"language.path = {path}: {error}") from None
    config = llava_config(folder).text_config if is_llava(content) else None
    kind = content.get("model_type") if config is None else config.model_type
    if kind not in MODEL_CLASSES:
        known = ", ".join(["qwen (Qwen-1)", *MODEL_CLASSES])
        raise UserError(f"language.path: {path} is a {kind!r} model; expected one of: {known}")
    return MODEL_CLASSES[kind], config


def take_images(language: ImageInputMixin, tokenizer: Tokenizer) -> ImageInputMixin:
    """Give a Qwen its placeholder, an embedding for every token, and its stop tokens."""
    language.image_token_id = token_id(tokenizer, IMAGE_TOKEN)
    language.box_rows = untrained_box_rows(tokenizer)
    grow(language, len(tokenizer))
    # Instruct models bring sampling defaults (temperature 0.7, repetition penalty 1.05) that would apply whenever a
    # call does not set them. So none of theirs are kept.
    language.generation_config = GenerationConfig(
        eos_token_id=[token_id(tokenizer, token) for token in STOPS],
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=[language.image_token_id],
    )
    return language


def grow(language: ImageInputMixin, tokens: int) -> None:
    """Add rows to the matrices if there are more tokens than rows. Each new row is the mean of the old ones.

    ``language.grown_from`` is the number of rows before: the rows after it must go into the checkpoint.
    """
    rows = language.get_input_embeddings().num_embeddings
    language.grown_from = rows
    if tokens <= rows:
        return
    language.resize_token_embeddings(tokens, mean_resizing=False)
    with torch.no_grad():
        for matrix in matrices(language).values():
            matrix[rows:] = matrix[:rows].float().mean(0).to(matrix.dtype)


def matrices(language: ImageInputMixin) -> dict[str, torch.Tensor]:
    """The matrices with a row per token, by name: one if input and output share it, else two."""
    embedding, head = _matrix(language.get_input_embeddings()), _matrix(language.get_output_embeddings())
    return {"embed_tokens": embedding} if head is embedding else {"embed_tokens": embedding, "lm_head": head}


def _matrix(module: Any) -> torch.Tensor:
    """The weight of an embedding or a head, without the trained rows that peft puts around it."""
    return (module.original_module if hasattr(module, "token_adapter") else module).weight


def four_bit_options(dtype: torch.dtype, device: torch.device | str) -> dict[str, Any]:
    """The arguments with which ``from_pretrained`` quantises while it reads.

    Raises:
        UserError: bitsandbytes is not installed, or cannot be loaded here.
    """
    if not is_installed("bitsandbytes"):
        raise UserError("language.load_in_4bit = true: its weights are bitsandbytes'; pip install bitsandbytes")
    try:
        import_bitsandbytes()
    except (ImportError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"language.load_in_4bit = true: bitsandbytes cannot be loaded ({reason})") from error
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": quantization, "device_map": {"": torch.device(device)}}


# ---------------------------------------------------------------------------------------------- what a folder holds


def describe(path: str) -> list[str]:
    """What a model folder holds, line by line; reads headers, not weights.

    Raises:
        UserError: the folder is incomplete, or holds another kind of model.
    """
    folder = Path(model_folder(path, "language.path"))
    if lack := what_is_missing(folder):
        raise UserError(lack)
    content = read_config(folder, "language.path")
    cls, config = family(content, folder, path)
    config = config or cls.config_class.from_pretrained(folder)
    with torch.device("meta"):
        model = cls(config)
    parameters = sum(p.numel() for p in model.parameters())
    linear = sum(m.weight.numel() for m in model.model.modules() if isinstance(m, nn.Linear))
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    per_token = 2 * config.num_hidden_layers * kv_heads * head_dim * 2  # bytes: keys and values, in 16 bits
    stored = ", ".join(sorted({entry["dtype"] for entry in read_headers(folder).values()}))
    tokenizer = load_tokenizer(str(folder))
    rows, image = model.get_input_embeddings().num_embeddings, token_id(tokenizer, IMAGE_TOKEN)
    row = f"after the matrix of {rows:,} rows, which grows" if image >= rows else f"within the matrix of {rows:,} rows"
    name = "Qwen-1" if is_qwen1(content) else content["model_type"]
    longest = getattr(config, "seq_length", config.max_position_embeddings)
    four_bits = 2 * (parameters - linear) + four_bit_bytes(linear)
    return [
        f"folder     {folder}",
        f"family     {name}, {content['architectures'][0] if content.get('architectures') else 'unnamed'}",
        f"size       {parameters:,} parameters stored as {stored}",
        f"layers     {config.num_hidden_layers} of width {config.hidden_size}, "
        f"{heads} heads on {kv_heads} keys, longest sequence {longest:,}",
        f"tokenizer  {len(tokenizer):,} tokens, "
        + ", ".join(f"{token} {token_id(tokenizer, token)}" for token in ("<|im_start|>", *STOPS)),
        f"image      {IMAGE_TOKEN} is {image}, {row}",
        f"memory     weights {readable(2 * parameters)} in bf16, {readable(4 * parameters)} in fp32, "
        f"{readable(four_bits)} in 4 bits; "
        f"{per_token * 1000 / 2**20:.0f} MiB more for 1,000 tokens of an answer (for training: train.py --dry-run)",
    ]


def four_bit_bytes(weights: int) -> int:
    """NF4 with double quantisation: 4 bits for each weight, 8 for each block of 64, and 32 for 256 such blocks."""
    return weights // 2 + weights // 64 + weights // (64 * 256) * 4


def readable(size: float) -> str:
    """Bytes in GiB, or in MiB below 0.1 GiB."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.2f} MiB"
