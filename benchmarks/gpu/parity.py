"""Part 1: compare every way to compute a step with the plainest one in float64.

Four layers of the widths of Qwen2.5-1.5B (12 heads on 2 keys) and 0.5B (14 on 2), 728 visual tokens, five questions.
Weights are rounded to bf16 first, so that they are the same in all dtypes. "float64 rows" (eager, a question a row) is
the reference. The same rows in the lower dtype show how much of a difference is rounding.

For each group of trained weights, the error is that of its worst tensor: the norm of the gradients' difference over
the norm of the reference gradient.
"""

from __future__ import annotations

import contextlib
import dataclasses
from unittest import mock

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.common import PRESETS, Shape, batch_of, build_ours, image_token, rows_of_one_image, visual_tokens
from benchmarks.gpu.models import RANK, Generation, exactly, language_of, layers_of
from benchmarks.gpu.part import Part, Skip
from dataset.collate import collate, model_inputs
from dataset.trees import grow_tree, root_length
from model.fused_lora import fuse_lora, unfuse_lora
from model.model import MMultiModal

QUESTIONS = 5
WAYS = {  # layout, attention, last layer narrowed?, layers compiled?, LoRA fused?
    "rows sdpa": ("rows", "sdpa", True, False, False),
    "trees sdpa": ("trees", "sdpa", True, False, False),
    "rows eager": ("rows", "eager", True, False, False),
    "trees eager": ("trees", "eager", True, False, False),
    "trees sdpa, last layer whole": ("trees", "sdpa", False, False, False),
    "trees sdpa, fused LoRA": ("trees", "sdpa", True, False, True),
    "rows tree_attention, fused LoRA": ("rows", "tree_attention", True, False, True),
    "trees tree_attention, fused LoRA": ("trees", "tree_attention", True, False, True),
    "packed sdpa": ("packed", "sdpa", True, False, False),
    "packed tree_attention, fused LoRA": ("packed", "tree_attention", True, False, True),
    "trees flex_attention": ("trees", "flex_attention", True, False, False),
    "packed flex_attention": ("packed", "flex_attention", True, False, False),
    "rows flex_attention": ("rows", "flex_attention", True, False, False),
    "trees sdpa compiled": ("trees", "sdpa", True, True, False),
    "trees tree_attention, fused LoRA, compiled": ("trees", "tree_attention", True, True, True),
}
QUICK, COMPILED = list(WAYS)[:10], list(WAYS)[10:]
BF16, FP32 = torch.bfloat16, torch.float32


def run(part: Part) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    pairs = {size: Pair(shape_of(size, part.tiny), part) for size in ("1.5b", "0.5b")}

    def compare(size: str, dtype: torch.dtype, way: str) -> None:
        needs = 15 if way in COMPILED and part.compiles else 0
        name = f"{size} {str(dtype).removeprefix('torch.')}, {way}"
        part.measure(name, pairs[size].compare, dtype, *WAYS[way], needs=needs)

    for way in QUICK:
        compare("1.5b", BF16, way)
    compare("1.5b", BF16, "trees tree_attention, fused LoRA, compiled")
    compare("1.5b", BF16, "trees flex_attention")
    compare("1.5b", BF16, "trees sdpa compiled")
    for size, dtype in (("1.5b", FP32), ("0.5b", BF16), ("0.5b", FP32)):
        for way in QUICK:
            compare(size, dtype, way)
    part.measure("SDPA's kernels at odd lengths, bf16", kernels_at_lengths, part)
    part.measure("decoding: static cache, dynamic cache, whole prompt", decoding, pairs["1.5b"])
    part.measure("QLoRA against the same weights in bf16", four_bits, pairs["1.5b"])
    compare("0.5b", BF16, "trees flex_attention")
    for way in COMPILED:
        compare("1.5b", FP32, way)
    compare("1.5b", BF16, "rows flex_attention")


def shape_of(size: str, tiny: bool) -> Shape:
    if tiny:
        return PRESETS["tiny"]
    return dataclasses.replace(
        PRESETS[f"qwen2.5-{size}"],
        layers=4,
        vocab_size=16_384,
        tower_hidden=256,
        tower_intermediate=1024,
        tower_layers=2,
        tower_heads=4,
    )


class Pair:
    """One set of weights, its gradients in float64, and models of other dtypes with the same weights."""

    def __init__(self, shape: Shape, part: Part) -> None:
        self.shape, self.part = shape, part
        self.models: dict[torch.dtype, MMultiModal] = {}
        self.wanted: tuple[float, dict[str, torch.Tensor]] | None = None

    def model(self, dtype: torch.dtype) -> MMultiModal:
        """Frozen weights in ``dtype``; trained ones in float32, or float64 with the rest."""
        if dtype in self.models:
            return self.models[dtype]
        model = build_ours(self.shape, dtype, self.part.device, rank=RANK, checkpointing=False)
        if not self.models:
            generator = torch.Generator(self.part.device).manual_seed(1)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if "lora_B" in name:  # zero at the start, which would leave lora_A without a gradient
                        parameter.normal_(std=0.02, generator=generator)
                    parameter.copy_(parameter.bfloat16())
        else:
            model.load_state_dict(next(iter(self.models.values())).state_dict())
        if dtype == torch.float64:
            model.double()
        self.models[dtype] = model
        return model

    def gradients(
        self,
        dtype: torch.dtype,
        layout: str,
        attention: str,
        narrow: bool = True,
        compiled: bool = False,
        fused: bool = False,
    ) -> tuple[float, dict[str, torch.Tensor]]:
        """Loss and gradients in float64, by name."""
        model, device = self.model(dtype), self.part.device
        model.set_attention(attention)
        batch, language = self.batch(layout), language_of(model)
        torch._dynamo.reset()
        for layer in layers_of(model):
            layer._compiled_call_impl = None
            if compiled:
                layer.compile(dynamic=True)
        model.zero_grad()
        unfuse_lora(model.language)
        if fused:
            fuse_lora(model.language)
        whole = mock.patch.object(type(language), "_narrows", lambda *_: False)
        with contextlib.nullcontext() if narrow else whole:
            with torch.autocast(device.type, BF16, enabled=dtype == BF16):
                loss = model(**batch).loss
            loss.backward()
        found = {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        return float(loss), found

    def batch(self, layout: str) -> dict[str, torch.Tensor]:
        """The same five questions about one picture, as five rows, as one tree, or as two trees packed into a row."""
        tree = batch_of(self.shape, QUESTIONS, 1, torch.Generator().manual_seed(0))
        rows = rows_of_one_image(self.shape, QUESTIONS, torch.Generator().manual_seed(0))
        parts = {"rows": [[row] for row in rows], "trees": [rows], "packed": [rows[:2], rows[2:]]}[layout]
        picture = {"pixel_values": [tree["pixel_values"][0]], "images": [0], "visual_tokens": visual_tokens(self.shape)}
        samples = []
        for part in parts:
            root = root_length(part, image_token(self.shape), visual_tokens(self.shape))
            samples.append({**grow_tree(part, root), **picture, "id": "", "skipped": []})
        batch = model_inputs(collate(samples, pad_token_id=0, packed=layout == "packed"))
        moved = {key: value.to(self.part.device) for key, value in batch.items()}
        return {**moved, "images_per_row": batch["images_per_row"]}

    def compare(
        self, dtype: torch.dtype, layout: str, attention: str, narrow: bool, compiled: bool, fused: bool
    ) -> dict:
        """Relative error of each group's gradient, and the difference of the losses, against float64."""
        device = self.part.device
        if device.type == "cpu" and attention == "flex_attention":
            raise Skip("FlexAttention's backward pass needs CUDA")
        if compiled and not self.part.compiles:
            raise Skip("compiled code is measured on CUDA only")
        if attention == "tree_attention" and device.type == "cuda" and dtype != BF16:
            raise Skip("flash kernels are for bf16 and fp16")
        if self.wanted is None:
            self.wanted = self.gradients(torch.float64, "rows", "eager")
        loss, found = self.gradients(dtype, layout, attention, narrow, compiled, fused)
        wanted_loss, wanted = self.wanted
        if found.keys() != wanted.keys():
            raise AssertionError(f"other weights have gradients: {sorted(found.keys() ^ wanted.keys())[:3]}")
        groups: dict[str, float] = {}
        for name, gradient in found.items():
            relative = float((gradient - wanted[name]).norm() / wanted[name].norm())
            groups[group_of(name)] = max(groups.get(group_of(name), 0.0), relative)
        return {
            "loss": loss,
            "loss difference": abs(loss - wanted_loss),
            "worst gradient": max(groups.values()),
            "groups": groups,
        }


def group_of(name: str) -> str:
    """projector, or adapters by the layer they are on."""
    if "lora_" not in name:
        return "projector"
    return ("A" if "lora_A" in name else "B") + " of " + name.split(".lora_")[0].rpartition(".")[2]


# ---------------------------------------------------------------------------------------------- kernels


def kernels_at_lengths(part: Part) -> dict:
    """Each of SDPA's kernels with a tree mask, against float64: errors of the output and of the worst gradient.

    The key lengths modulo 32 are 0, 1, 8 and 31; wrong results were reported for 1.
    """
    found: dict[str, list[float] | str] = {}  # worst errors, or why the kernel cannot run
    for backend in (SDPBackend.MATH, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        for length in (64, 65, 72, 95) if part.tiny else (864, 865, 872, 895, 1009):
            try:
                worst = kernel_error(backend, length, part.device)
            except RuntimeError as error:
                found[f"{backend.name.lower()} {length}"] = str(error).splitlines()[0][:80]
                continue
            found[f"{backend.name.lower()} {length}"] = worst
    numbers = {name: value for name, value in found.items() if isinstance(value, list)}
    return {"worst": max((max(value) for value in numbers.values()), default=None), "errors": found}


def kernel_error(backend: SDPBackend, length: int, device: torch.device) -> list[float]:
    """Relative errors: of the output, and the worst of the three gradients."""
    generator = torch.Generator(device).manual_seed(length)

    def random() -> torch.Tensor:
        return torch.randn(2, 12, length, 128, device=device, generator=generator).bfloat16()  # [B, heads, T, width]

    tensors, upstream = [random() for _ in range(3)], random()
    position = torch.arange(length, device=device)
    branch = (position - 3 * length // 4).clamp(min=-1) // 28 + 1
    mask = (position[:, None] >= position) & ((branch[:, None] == branch) | (branch == 0))

    def outputs(dtype: torch.dtype, kernel: SDPBackend) -> list[torch.Tensor]:
        leaves = [tensor.to(dtype).requires_grad_() for tensor in tensors]
        query, key, value = leaves
        with sdpa_kernel([kernel]):
            output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[None, None].expand(2, -1, -1, -1))
        return [output, *torch.autograd.grad(output, leaves, upstream.to(dtype))]

    wanted = outputs(torch.float64, SDPBackend.MATH)
    errors = [
        float((one.double() - other).norm() / other.norm())
        for one, other in zip(outputs(torch.bfloat16, backend), wanted, strict=True)
    ]
    return [errors[0], max(errors[1:])]


# ---------------------------------------------------------------------------------------------- answering


@torch.inference_mode()
def decoding(pair: Pair) -> dict:
    """Answers on a growing cache and from graphs on a fixed one, against the whole prompt's: tokens and logits."""
    from answering.graphs import Graphs
    from answering.prefix_cache import generate_cached, prefill

    model, shape, device = pair.model(torch.float32).eval(), pair.shape, pair.part.device
    model.set_attention("sdpa")
    generator = torch.Generator().manual_seed(0)
    prompt = rows_of_one_image(shape, 1, generator)[0][0]
    pixels = torch.rand(1, 3, shape.image_size, shape.image_size, generator=generator).to(device)
    ids, end, one = torch.tensor([prompt], device=device), 12 + visual_tokens(shape), torch.tensor([1])
    options: Generation = {**exactly(16), "suppress_tokens": [image_token(shape)]}
    mask = torch.ones_like(ids)
    whole = model.generate(ids, mask, pixel_values=pixels, images_per_row=one, **options)[0].tolist()
    growing = generate_cached(model, prompt, end, lambda: pixels, None, **options)[0][0].tolist()
    graphs = Graphs(model)
    for _ in range(3):  # the last call replays what the second has recorded
        fixed = generate_cached(model, prompt, end, lambda: pixels, None, graphs, **options)[0][0].tolist()
    wanted = model(ids, mask, pixel_values=pixels, images_per_row=one, logits_to_keep=len(prompt) - end).logits
    cache = prefill(model, ids[:, :end], mask[:, :end], [pixels])
    positions = torch.arange(end, len(prompt), device=device)[None]
    found = model(ids[:, end:], mask, past_key_values=cache, position_ids=positions).logits
    same = {"growing cache": growing == whole, "fixed cache": fixed == whole}
    model.train()
    return {
        "tokens": len(whole),
        **{f"{name}, tokens as of the whole prompt": value for name, value in same.items()},
        "largest logit": float(wanted.abs().max()),
        "largest logit difference after the kept picture": float((found - wanted).abs().max()),
    }


def four_bits(pair: Pair) -> dict:
    """Weights in NF4 against the same weights unpacked to bf16: both must give the same loss and gradients."""
    try:
        import bitsandbytes as bnb
    except ImportError:
        raise Skip("bitsandbytes is not installed") from None
    if pair.part.device.type != "cuda":
        raise Skip("training with 4-bit weights needs CUDA")
    dtype = torch.bfloat16
    model = build_ours(pair.shape, dtype, pair.part.device, rank=RANK, checkpointing=False)
    model.load_state_dict(pair.model(dtype).state_dict())
    plain = Pair(pair.shape, pair.part)
    plain.models[dtype] = build_ours(pair.shape, dtype, pair.part.device, rank=RANK, checkpointing=False)
    plain.models[dtype].load_state_dict(model.state_dict())
    unpacked = dict(language_of(plain.models[dtype]).named_modules())
    for name, module in list(language_of(model).named_modules()):
        base = getattr(module, "base_layer", None)
        if base is None:
            continue
        weight = base.weight.data
        packed = bnb.nn.Linear4bit(
            base.in_features, base.out_features, base.bias is not None, compute_dtype=dtype, quant_type="nf4"
        )
        packed.load_state_dict(base.state_dict())
        module.base_layer = packed.to(pair.part.device)
        restored = bnb.functional.dequantize_4bit(module.base_layer.weight.data, module.base_layer.weight.quant_state)
        unpacked[name].base_layer.weight.data.copy_(restored.to(weight.dtype))
    quantised = Pair(pair.shape, pair.part)
    quantised.models[dtype] = model
    loss, found = quantised.gradients(dtype, "trees", "sdpa")
    wanted_loss, wanted = plain.gradients(dtype, "trees", "sdpa")
    worst = max(float((found[name] - wanted[name]).norm() / wanted[name].norm()) for name in wanted)
    return {"loss difference": abs(loss - wanted_loss), "worst gradient": worst}
