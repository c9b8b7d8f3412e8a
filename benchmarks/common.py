"""Shared by the benchmarks: models of a preset's shapes with random weights, samples, timing and tables.

"llava" is what a user would otherwise write: transformers' ``LlavaForConditionalGeneration`` (SigLIP tower, patch 0
dropped, Qwen2) with peft LoRA on the language model and a trained projector. "ours" is :class:`MMultiModal` of the
same shapes. The weights are random: the time of a step does not depend on their values.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from torch import nn
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from dataset.collate import collate, model_inputs
from dataset.prompt import IGNORE_INDEX
from dataset.trees import grow_tree, root_length
from model.connectors import MLPConnector
from model.fused_lora import fuse_lora
from model.model import MMultiModal
from model.plain_peft import LoraConfig, get_peft_model
from qwen.Mqwen import MQwen2ForCausalLM
from visual.SIGLIP_VIT import SiglipViT


@dataclass(frozen=True)
class Shape:
    """Sizes of a language model and of a tower; 384 px in patches of 14 give 728 visual tokens."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    key_value_heads: int
    tower_hidden: int
    tower_intermediate: int
    tower_layers: int
    tower_heads: int
    tied: bool = True
    image_size: int = 384
    patch_size: int = 14


SO400M = (1152, 4304, 27, 16)
SMALL_TOWER = (256, 1024, 6, 4)
PRESETS = {
    # The head is the same share of the language model as in Qwen2.5-0.5B: 8.4 M of 32 M, 136 M of 494 M.
    "cpu": Shape(16_384, 512, 1408, 8, 8, 2, *SMALL_TOWER),
    "cpu-vocab": Shape(151_936, 512, 1408, 8, 8, 2, *SMALL_TOWER),
    "tiny": Shape(1000, 64, 128, 2, 4, 2, 32, 64, 2, 4, image_size=112),
    "qwen2.5-0.5b": Shape(151_936, 896, 4864, 24, 14, 2, *SO400M),
    "qwen2.5-1.5b": Shape(151_936, 1536, 8960, 28, 12, 2, *SO400M),
    "qwen2.5-7b": Shape(152_064, 3584, 18_944, 28, 28, 4, *SO400M, tied=False),
}
_M = TypeVar("_M", bound=nn.Module)
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def visual_tokens(shape: Shape) -> int:
    return (shape.image_size // shape.patch_size) ** 2 - 1


def image_token(shape: Shape) -> int:
    return shape.vocab_size - 1


def configs(shape: Shape) -> tuple[SiglipVisionConfig, Qwen2Config]:
    vision = SiglipVisionConfig(
        hidden_size=shape.tower_hidden,
        intermediate_size=shape.tower_intermediate,
        num_hidden_layers=shape.tower_layers,
        num_attention_heads=shape.tower_heads,
        image_size=shape.image_size,
        patch_size=shape.patch_size,
        vision_use_head=False,
    )
    language = Qwen2Config(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        tie_word_embeddings=shape.tied,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return vision, language


def build_ours(
    shape: Shape, dtype: torch.dtype, device: torch.device, rank: int = 16, checkpointing: bool = True
) -> MMultiModal:
    """Frozen tower and language model, trained projector and LoRA, as :class:`MMultiModal`; in training mode."""
    vision_config, language_config = configs(shape)
    with torch.device(device):
        torch.set_default_dtype(dtype)
        tower, qwen = SiglipViT(vision_config), MQwen2ForCausalLM(language_config)
        torch.set_default_dtype(torch.float32)
        tower.requires_grad_(False)
        qwen.requires_grad_(False)
        qwen.image_token_id = image_token(shape)
        lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LINEARS)
        projector = MLPConnector(shape.tower_hidden, shape.hidden_size)
        language = get_peft_model(qwen, lora)
        fuse_lora(language)
        model = MMultiModal(tower, language, projector)
    return _ready(model, checkpointing, model.gradient_checkpointing_enable)


def build_llava(
    shape: Shape, dtype: torch.dtype, device: torch.device, rank: int = 16, checkpointing: bool = True
) -> Any:
    """The same as transformers' LLaVA with peft."""
    vision, language = configs(shape)
    config = LlavaConfig(
        vision_config=vision,
        text_config=language,
        image_token_index=image_token(shape),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",  # drops the first token, as ours
        image_seq_length=visual_tokens(shape),
        tie_word_embeddings=shape.tied,
    )
    with torch.device(device):
        torch.set_default_dtype(dtype)
        model = LlavaForConditionalGeneration(config)
        torch.set_default_dtype(torch.float32)
        model.requires_grad_(False)
        lora = LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            target_modules=rf".*language_model.*\.({'|'.join(LINEARS)})",
            modules_to_save=["multi_modal_projector"],
        )
        model = get_peft_model(model, lora)
    base = model.get_base_model()
    enable = lambda: base.model.language_model.gradient_checkpointing_enable(  # noqa: E731
        gradient_checkpointing_kwargs={"use_reentrant": False}
    )
    return _ready(model, checkpointing, enable)


def _ready(model: _M, checkpointing: bool, enable: Callable[[], object]) -> _M:
    """In training mode, what is trained in fp32."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if checkpointing:
        enable()
    return model.train()


def build_to_answer(shape: Shape, dtype: torch.dtype, device: torch.device) -> tuple[MMultiModal, Any]:
    """Ours and llava as they answer: in one dtype, adapters merged into fp32 weights."""
    ours = build_ours(shape, dtype, device, checkpointing=False).eval().to(dtype)
    llava = build_llava(shape, dtype, device, checkpointing=False).eval().to(dtype)
    if dtype == torch.float32:
        ours.merge_adapters()
        llava = llava.merge_and_unload()
    return ours, llava


# ---------------------------------------------------------------------------------------------- samples


def rows_of_one_image(
    shape: Shape, questions: int, generator: torch.Generator, text: int = 28, answer: int = 10
) -> list[tuple[list[int], list[int]]]:
    """``input_ids`` and ``labels`` of conversations about one image, 12 + N + ``text`` tokens each.

    The 12 are the system prompt and the start of the user's turn. The last ``answer`` tokens have labels.
    """
    opening = torch.randint(1, shape.vocab_size - 2, (12,), generator=generator).tolist()
    opening += [image_token(shape)] * visual_tokens(shape)
    rows = []
    for number in range(questions):
        ids = torch.randint(1, shape.vocab_size - 2, (text,), generator=generator).tolist()
        ids[0] = 1 + number  # each conversation differs from its first own token on
        labels = [IGNORE_INDEX] * (len(opening) + text - answer) + ids[-answer:]
        rows.append((opening + ids, labels))
    return rows


def batch_of(shape: Shape, rows_per_tree: int, images: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """``images`` trees of ``rows_per_tree`` questions, collated as by the dataset."""
    samples = []
    for number in range(images):
        rows = rows_of_one_image(shape, rows_per_tree, generator)
        root = root_length(rows, image_token(shape), visual_tokens(shape))
        picture = torch.rand(3, shape.image_size, shape.image_size, generator=generator)
        tree = grow_tree(rows, root)
        image = {"pixel_values": [picture], "images": [number], "visual_tokens": visual_tokens(shape)}
        samples.append({**tree, **image, "id": "", "skipped": []})
    return model_inputs(collate(samples, pad_token_id=0))


# ---------------------------------------------------------------------------------------------- arithmetic


def step_flops(shape: Shape, length: int, rows: int, labels: int, rank: int = 16) -> float:
    """Floating point operations that a training step needs, without any that an implementation adds.

    The step has ``rows`` sequences of ``length`` tokens with one image each, and ``labels`` positions with a label in
    all. A matrix of P entries takes 2 P operations a token forward and 2 P backward for the gradient of its input; a
    trained one (LoRA, projector) takes 2 P more for its own gradient. Attention takes 4 T^2 D a layer forward and
    twice that backward, as if every token saw every other (a causal mask needs half). The frozen tower runs forward
    only. Not counted: recomputing under checkpointing, and at positions without a label, the head and all of the last
    layer except keys and values.
    """
    d, ffn, width = shape.hidden_size, shape.intermediate_size, shape.hidden_size // shape.heads
    keys_values = [(d, width * shape.key_value_heads)] * 2
    rest = [(d, d), (d, d), (d, ffn), (d, ffn), (ffn, d)]  # queries, output, MLP

    def per_token(linears: list[tuple[int, int]]) -> int:
        return sum(4 * inputs * outputs + 6 * rank * (inputs + outputs) for inputs, outputs in linears)

    tokens, patches = rows * length, rows * (visual_tokens(shape) + 1)
    layer = tokens * per_token(keys_values + rest) + 12 * tokens * length * d
    last = tokens * per_token(keys_values) + labels * per_token(rest) + 12 * labels * length * d
    head = labels * 4 * d * shape.vocab_size
    t = shape.tower_hidden
    block = patches * 2 * (4 * t * t + 2 * t * shape.tower_intermediate) + 4 * patches * (patches // rows) * t
    tower = shape.tower_layers * block + patches * 2 * 3 * shape.patch_size**2 * t
    projector = rows * visual_tokens(shape) * 6 * (t * d + d * d)
    return float((shape.layers - 1) * layer + last + head + tower + projector)


def matmul_ceiling(device: torch.device, dtype: torch.dtype, size: int = 8192, repeats: int = 20) -> float:
    """Operations per second of a large matrix product: the most that this card reaches in this dtype."""
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    taken = []
    for _ in range(repeats + 3):
        synchronise()
        begin = time.perf_counter()
        one @ other
        synchronise()
        taken.append(time.perf_counter() - begin)
    return 2 * size**3 / statistics.median(taken[3:])


# ---------------------------------------------------------------------------------------------- timing and output


def interleaved(runs: dict[str, Callable[[], None]], repeats: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each run. They take turns, so a machine that slows down slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(warm_up + repeats):
        for name, run in runs.items():
            synchronise()
            begin = time.perf_counter()
            run()
            synchronise()
            if repeat >= warm_up:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio(slow: list[float], fast: list[float]) -> tuple[float, float, float]:
    """Median, least and greatest of slow / fast, over the pairs of interleaved runs."""
    ratios = [one / other for one, other in zip(slow, fast, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def clock() -> float:
    """Seconds: of a GPU by the wall, of a CPU what this process computed, which others disturb little."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


def machine() -> dict[str, str]:
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"device": card, "python": platform.python_version(), **versions, "date": time.strftime("%Y-%m-%d")}


def parser(description: str, presets: list[str]) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--preset", choices=presets, default=presets[0], help="shapes (default: %(default)s)")
    made.add_argument("--repeats", type=int, default=5, metavar="N", help="timed runs of each (default: %(default)s)")
    made.add_argument("--output", type=Path, metavar="FILE", help="also write the numbers as JSON")
    return made


def finish(rows: list[dict], args: argparse.Namespace) -> None:
    """Print a table and write the JSON."""
    facts = {**machine(), "preset": args.preset, "shape": asdict(PRESETS[args.preset]), "repeats": args.repeats}
    print(", ".join(f"{key} {value}" for key, value in machine().items()) + f", preset {args.preset}")
    columns = list(rows[0])
    cells = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip())
    if args.output:
        args.output.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


def device_and_dtype() -> tuple[torch.device, torch.dtype]:
    """CUDA in bf16 if there is one, else the CPU in fp32."""
    cuda = torch.cuda.is_available()
    return torch.device("cuda" if cuda else "cpu"), torch.bfloat16 if cuda else torch.float32
