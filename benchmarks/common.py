"""What the benchmarks share: models of a preset's shapes with random weights, made-up samples, timing and tables.

"llava" is what a user would otherwise write: transformers' ``LlavaForConditionalGeneration`` (SigLIP tower, patch 0
dropped, Qwen2) with peft LoRA on the language model and a trained projector. "ours" is :class:`MMultiModal` of the
same shapes. Random weights serve: the time of a step does not depend on their values.
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
    # The head is as large a share of the language model as in Qwen2.5-0.5B: 8.4 M of 32 M against 136 M of 494 M.
    "cpu": Shape(16_384, 512, 1408, 8, 8, 2, *SMALL_TOWER),
    "cpu-vocab": Shape(151_936, 512, 1408, 8, 8, 2, *SMALL_TOWER),
    "tiny": Shape(1000, 64, 128, 2, 4, 2, 32, 64, 2, 4, image_size=112),
    "qwen2.5-0.5b": Shape(151_936, 896, 4864, 24, 14, 2, *SO400M),
    "qwen2.5-1.5b": Shape(151_936, 1536, 8960, 28, 12, 2, *SO400M),
    "qwen2.5-7b": Shape(152_064, 3584, 18_944, 28, 28, 4, *SO400M, tied=False),
}
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


def build_ours(shape: Shape, dtype: torch.dtype, device: torch.device, rank: int = 16, checkpointing: bool = True):
    vision, language = configs(shape)
    with torch.device(device):
        torch.set_default_dtype(dtype)
        tower, qwen = SiglipViT(vision), MQwen2ForCausalLM(language)
        torch.set_default_dtype(torch.float32)
        tower.requires_grad_(False)
        qwen.requires_grad_(False)
        qwen.image_token_id = image_token(shape)
        lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LINEARS)
        projector = MLPConnector(shape.tower_hidden, shape.hidden_size)
        model = MMultiModal(tower, get_peft_model(qwen, lora), projector)
    return _ready(model, checkpointing, model.gradient_checkpointing_enable)


def build_llava(shape: Shape, dtype: torch.dtype, device: torch.device, rank: int = 16, checkpointing: bool = True):
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


def _ready(model: nn.Module, checkpointing: bool, enable: Callable) -> nn.Module:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if checkpointing:
        enable()
    return model.train()


def build_to_answer(shape: Shape, dtype: torch.dtype, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """Ours and llava as they answer: in one dtype, adapters folded into the weights where those are fp32."""
    options = {"dtype": dtype, "device": device, "checkpointing": False}
    ours, llava = build_ours(shape, **options).eval().to(dtype), build_llava(shape, **options).eval().to(dtype)
    if dtype == torch.float32:
        ours.merge_adapters()
        llava = llava.merge_and_unload()
    return ours, llava


# ---------------------------------------------------------------------------------------------- samples


def rows_of_one_image(shape: Shape, questions: int, generator: torch.Generator, text: int = 28, answer: int = 10):
    """``input_ids`` and ``labels`` of conversations about one image, 12 + N + ``text`` tokens each.

    12 are system text and the start of the user's turn. Of the ``text`` tokens the last ``answer`` are learnt from.
    """
    opening = torch.randint(1, shape.vocab_size - 2, (12,), generator=generator).tolist()
    opening += [image_token(shape)] * visual_tokens(shape)
    rows = []
    for number in range(questions):
        ids = torch.randint(1, shape.vocab_size - 2, (text,), generator=generator).tolist()
        ids[0] = 1 + number  # conversations differ from their first own token on
        labels = [IGNORE_INDEX] * (len(opening) + text - answer) + ids[-answer:]
        rows.append((opening + ids, labels))
    return rows


def batch_of(shape: Shape, rows_per_tree: int, images: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """``images`` trees of ``rows_per_tree`` questions, as the dataset would collate them."""
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
    """Floating point operations of a training step that the model asks for, whoever computes how much besides.

    ``rows`` sequences of ``length`` tokens with one image each, ``labels`` positions in all that are learnt from. A
    matrix of P entries takes 2 P operations a token forward, and 2 P more backward for the gradient of its input; the
    trained ones (LoRA, projector) take 2 P more for their own. Attention takes 4 T^2 D a layer forward and twice that
    backward, as if every token saw every other (a causal mask needs half). The frozen tower only goes forward.
    Recomputing under checkpointing does not count; nor do, at positions without a label, the head and all of the last
    layer but keys and values.
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
    """Operations per second of a square matrix product, the most that this card gives in this dtype."""
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
    """Seconds of each run, in turn, so that a machine that slows down slows all of them."""
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
    """Median, least and greatest of slow / fast, pair by pair of the interleaved runs."""
    ratios = [one / other for one, other in zip(slow, fast, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def machine() -> dict[str, str]:
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"device": card, "python": platform.python_version(), **versions, "date": time.strftime("%Y-%m-%d")}


def parser(description: str, presets: list[str]) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--preset", choices=presets, default=presets[0], help="shapes (default: %(default)s)")
    made.add_argument("--repeats", type=int, default=5, metavar="N", help="timed runs of each (default: %(default)s)")
    made.add_argument("--output", type=Path, metavar="FILE", help="write the numbers as JSON, too")
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


def _cell(value) -> str:
    return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


def device_and_dtype() -> tuple[torch.device, torch.dtype]:
    cuda = torch.cuda.is_available()
    return torch.device("cuda" if cuda else "cpu"), torch.bfloat16 if cuda else torch.float32
