"""The format ``gguf``: two files for llama.cpp, LM Studio and Ollama, written with the package ``gguf``.

model-DTYPE.gguf     the language model with its tokenizer and chat template
mmproj-DTYPE.gguf    vision tower and projector, in llama.cpp's LLaVA layout (projector type ``mlp``)
Modelfile            for ``ollama create``

Matrices are in ``--dtype``; vectors and position embeddings are f32, as llama.cpp wants them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from answering.exporting.formats import Options
from answering.exporting.gguf_file import Tensors, write_file
from answering.exporting.gguf_reopened import TOWER, ReopenedGguf, renamed
from answering.exporting.hf import projector_layers, untied
from answering.exporting.template import chat_template
from answering.exporting.tower import has_final_norm
from common.errors import UserError
from common.files import write_text
from common.optional import require_packages
from dataset.layout import NO_THOUGHTS, can_think
from dataset.prompt import IMAGE_TOKEN
from model.adapters import base_of
from model.model import MMultiModal
from qwen.tokenizer import Tokenizer, token_id

if TYPE_CHECKING:
    from answering.assistant import Assistant
    from settings import Config

# A share of the largest logit. The vectors stay f32 where the comparison rounds them too, which f16 shows.
BOUND = 3e-3
DTYPES = {"f16": torch.float16, "f32": torch.float32}


def require(config: Config, options: Options) -> None:
    """See :class:`answering.exporting.formats.Format`."""
    require_packages(["gguf"], "--format gguf")
    if options.norm is not None:
        raise UserError("--norm: GGUF files hold the final norm itself; leave --norm out")
    if not isinstance(config.vision.layer, int):
        raise UserError("--format = gguf: vision.layer is a list, which was not tried in llama.cpp; hf takes it")
    if config.vision.drop_first_token and not options.keep_first_patch:
        raise UserError(
            "--format = gguf: llama.cpp cannot leave out the first patch, and this run was trained without it "
            "(vision.drop_first_token: true); --keep-first-patch shows it to the model all the same, which is not exact"
        )
    if options.keep_first_patch and not config.vision.drop_first_token:
        raise UserError("--keep-first-patch: the run was trained with the first patch; leave the option out")


def size(model: MMultiModal, options: Options) -> int:
    """Bytes of the weights; see :class:`answering.exporting.formats.Format`."""
    weights = sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name)
    return weights * DTYPES[options.dtype].itemsize


def write(source: Assistant, folder: Path, options: Options) -> None:
    """See :class:`answering.exporting.formats.Format`."""
    refuse_other_texts(source)
    language, mmproj = f"model-{options.dtype}.gguf", f"mmproj-{options.dtype}.gguf"
    arch = base_of(source.model.language).config.model_type
    tower = vision_tensors(source.model, options.dtype)  # before the long one, because it may be refused
    write_file(folder / language, language_tensors(source.model, options.dtype), language_keys(source), arch)
    write_file(folder / mmproj, tower, vision_keys(source), "clip")
    write_text(folder / "Modelfile", modelfile(source, language, mmproj))


def reopen(folder: Path) -> ReopenedGguf:
    """See :class:`answering.exporting.formats.Format`."""
    return ReopenedGguf(folder)


# ---------------------------------------------------------------------------------------------- tensors


def language_tensors(model: MMultiModal, dtype: str) -> Tensors:
    """The language model under llama.cpp's names; a tied output matrix is left out."""
    import gguf

    language = base_of(model.language)
    config = language.config
    arch = {"qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}[config.model_type]
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    return {renamed(names, name): stored(name, tensor, dtype) for name, tensor in untied(language).items()}


def vision_tensors(model: MMultiModal, dtype: str) -> Tensors:
    """Tower and projector under llama.cpp's names.

    Raises:
        UserError: a tower or a connector that llama.cpp's LLaVA cannot compute.
    """
    import gguf

    tower = base_of(model.vision)
    refuse_other_towers(tower.config.to_dict())
    linears = projector_layers(model.projector, base_of(model.language).config.hidden_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, tower.config.num_hidden_layers)
    tensors = {
        renamed(names, TOWER + name): stored(name, tensor, dtype)
        for name, tensor in tower.state_dict().items()
        if has_final_norm(tower) or not name.startswith("post_layernorm.")
    }
    for number, (weight, bias) in zip((0, 2), linears, strict=True):
        tensors[f"mm.{number}.weight"] = stored("projector", weight, dtype)
        tensors[f"mm.{number}.bias"] = stored("projector", bias, dtype)
    return tensors


def refuse_other_towers(config: dict[str, Any]) -> None:
    """Raises UserError unless the tower is a SigLIP with the GELU that llama.cpp computes."""
    if not config["model_type"].startswith("siglip"):
        raise UserError(f"--format = gguf: vision towers of {config['model_type']} were not tried; hf takes them")
    if config["hidden_act"] != "gelu_pytorch_tanh":
        raise UserError(
            f"--format = gguf: the tower computes with {config['hidden_act']}, llama.cpp with gelu_pytorch_tanh; "
            "hf takes it"
        )


def refuse_other_texts(source: Assistant) -> None:
    """Raises UserError for a language model whose positions or whose template are of another kind."""
    config = base_of(source.model.language).config
    if any(layer != "full_attention" for layer in config.layer_types):
        raise UserError("--format = gguf: layers with a sliding window are not written; hf takes them")
    kind = config.rope_parameters.get("rope_type", "default")
    if kind != "default":
        raise UserError(f"--format = gguf: positions of the kind {kind} are not written; hf takes them")
    if IMAGE_TOKEN in str(source.tokenizer.chat_template):
        raise UserError(
            "--format = gguf: the model brought its own chat template, whose pictures llama.cpp does not fill in; "
            "hf takes it"
        )


def stored(name: str, tensor: torch.Tensor, dtype: str) -> np.ndarray:
    """A tensor as the file has it: matrices in ``dtype``, vectors and position embeddings in f32.

    Raises:
        UserError: a number is too large for f16.
    """
    tensor = tensor.detach().float()
    if tensor.ndim > 1 and "position_embedding" not in name:
        tensor = tensor.to(DTYPES[dtype])
    if not tensor.isfinite().all():
        raise UserError(f"--dtype = {dtype}: {name} has numbers beyond 65,504; use --dtype f32")
    return tensor.contiguous().numpy()


# ---------------------------------------------------------------------------------------------- keys


def language_keys(source: Assistant) -> dict[str, Any]:
    """Keys of the language model's file, tokenizer and template included."""
    config = base_of(source.model.language).config
    arch = config.model_type
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return {
        "general.name": source.config.train.run,
        f"{arch}.block_count": config.num_hidden_layers,
        f"{arch}.context_length": config.max_position_embeddings,
        f"{arch}.embedding_length": config.hidden_size,
        f"{arch}.feed_forward_length": config.intermediate_size,
        f"{arch}.attention.head_count": config.num_attention_heads,
        f"{arch}.attention.head_count_kv": config.num_key_value_heads,
        f"{arch}.attention.key_length": head,
        f"{arch}.attention.value_length": head,
        f"{arch}.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        f"{arch}.rope.freq_base": float(config.rope_parameters["rope_theta"]),
        **tokenizer_keys(source.tokenizer, config.vocab_size),
        "tokenizer.chat_template": chat_template(
            source.tokenizer, source.config.language.system, source.config.language.thinking, llama_cpp=True
        ),
    }


def tokenizer_keys(tokenizer: Tokenizer, rows: int) -> dict[str, Any]:
    """The vocabulary, filled up to the ``rows`` of the embedding, and the merges of Qwen's byte-level BPE."""
    from gguf import TokenType

    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    tokens = [f"[PAD{number}]" for number in range(rows)]
    types = [int(TokenType.UNUSED)] * rows
    for token, number in tokenizer.get_vocab().items():
        tokens[number], types[number] = token, int(TokenType.NORMAL)
    for number, added in tokenizer.added_tokens_decoder.items():
        types[number] = int(TokenType.CONTROL if added.special else TokenType.USER_DEFINED)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": token_id(tokenizer, "<|im_end|>"),
        "tokenizer.ggml.padding_token_id": tokenizer.pad_token_id,
        "tokenizer.ggml.add_bos_token": False,
    }


def vision_keys(source: Assistant) -> dict[str, Any]:
    """Keys of the file of tower and projector.

    ``image_grid_pinpoints`` [0, 0] is what stretches a picture to the tower's square: with it llama.cpp prepares the
    overview of LLaVA 1.6 alone, and without it pads the picture. It is not documented; seen with b11549.
    """
    model, processor = source.model, source.image_processor
    config = base_of(model.vision).config
    return {
        "general.type": "mmproj",
        "clip.has_vision_encoder": True,
        "clip.projector_type": "mlp",
        "clip.use_gelu": True,
        "clip.vision.image_size": config.image_size,
        "clip.vision.patch_size": config.patch_size,
        "clip.vision.embedding_length": config.hidden_size,
        "clip.vision.feed_forward_length": config.intermediate_size,
        "clip.vision.block_count": config.num_hidden_layers,
        "clip.vision.attention.head_count": config.num_attention_heads,
        "clip.vision.attention.layer_norm_epsilon": float(config.layer_norm_eps),
        "clip.vision.projection_dim": base_of(model.language).config.hidden_size,
        "clip.vision.image_mean": [float(value) for value in processor.image_mean],
        "clip.vision.image_std": [float(value) for value in processor.image_std],
        "clip.vision.feature_layer": [config.num_hidden_layers],
        "clip.vision.image_grid_pinpoints": [0, 0],
    }


def modelfile(source: Assistant, *files: str) -> str:
    """Ollama's file: both GGUF files, ChatML in its template language, the system message, greedy answers."""
    thoughts = NO_THOUGHTS if can_think(source.tokenizer) and not source.config.language.thinking else ""
    system = source.config.language.system
    lines = [
        *(f"FROM ./{file}" for file in files),
        'TEMPLATE """{{ if .System }}<|im_start|>system',
        "{{ .System }}<|im_end|>",
        '{{ end }}{{ range .Messages }}{{ if ne .Role "system" }}<|im_start|>{{ .Role }}',
        f'{{{{ if eq .Role "assistant" }}}}{thoughts}{{{{ end }}}}{{{{ .Content }}}}<|im_end|>',
        "{{ end }}{{ end }}<|im_start|>assistant",
        f'{thoughts}"""',
        *([f'SYSTEM """{system}"""'] if system else []),
        'PARAMETER stop "<|im_end|>"',
        "PARAMETER temperature 0",
        f"PARAMETER num_ctx {source.config.language.max_length}",
    ]
    return "\n".join(lines) + "\n"
