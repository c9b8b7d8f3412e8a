"""A training step: ours, with and without message trees, against what a user would otherwise write.

    python -m benchmarks.train_step                          # samples per second, CPU shapes
    python -m benchmarks.train_step --preset cpu-vocab --memory
    python -m benchmarks.train_step --preset qwen2.5-1.5b    # on a GPU

A sample is a question with its answer: 28 tokens after the system prompt and the image. "one question per row" has each
in its own sequence; "trees of n" has n questions on one image in one sequence. Every step is forward, backward and
AdamW on the same number of images. All run interleaved in one process; ratios are medians over pairs (least, most).

"Tflop/s" counts the operations that the model needs (benchmarks.common.step_flops has the formula). On CUDA it is
compared with a large matrix product on the same card in the same run. If liger_kernel is installed, "llava" also runs
with its fused cross-entropy.

With --memory, each runs once in its own process, and the peak above the weights is printed.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from benchmarks.common import (
    PRESETS,
    Shape,
    batch_of,
    build_llava,
    build_ours,
    device_and_dtype,
    finish,
    interleaved,
    matmul_ceiling,
    parser,
    ratio,
    step_flops,
)
from benchmarks.memory import peak_during
from dataset.prompt import IGNORE_INDEX

BRANCHES = (1, 2, 5, 10)


class Run(NamedTuple):
    """One optimiser step, the number of samples in it, and the floating point operations that it needs."""

    step: Callable[[], None]
    samples: int
    operations: float


def stepper(model: Any, shape: Shape, branches: int, rows: int, llava: bool) -> Run:
    """A step of ``rows`` images with ``branches`` questions each."""
    device, dtype = device_and_dtype()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    batch = batch_of(shape, branches, rows, torch.Generator().manual_seed(0))
    batch = {key: value.to(device) for key, value in batch.items()}
    if llava:
        batch.pop("images_per_row")
    else:
        batch["images_per_row"] = batch["images_per_row"].cpu()

    def step() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    labels = int((batch["labels"] != IGNORE_INDEX).sum())
    return Run(step, rows * branches, step_flops(shape, batch["input_ids"].shape[1], rows, labels))


def runs_of(args: argparse.Namespace) -> dict[str, Run]:
    """All runs by name, llava first."""
    shape = PRESETS[args.preset]
    device, dtype = device_and_dtype()
    options: dict[str, Any] = {"dtype": dtype, "device": device, "checkpointing": not args.no_checkpointing}
    ours, llava = build_ours(shape, **options), build_llava(shape, **options)
    runs = {"llava, one question per row": stepper(llava, shape, 1, args.rows, llava=True)}
    if device.type == "cuda" and importlib.util.find_spec("liger_kernel"):
        fused = with_liger(build_llava(shape, **options))
        runs["llava with Liger, one question per row"] = stepper(fused, shape, 1, args.rows, llava=True)
    for branches in args.questions:
        name = "ours, one question per row" if branches == 1 else f"ours, trees of {branches} questions"
        runs[name] = stepper(ours, shape, branches, args.rows, llava=False)
    return runs


def with_liger(llava: Any) -> Any:
    """With Liger's fused head and cross-entropy, without its other kernels."""
    from liger_kernel.transformers import apply_liger_kernel_to_llava

    apply_liger_kernel_to_llava(model=llava.get_base_model(), rope=False, rms_norm=False, swiglu=False)
    return llava


def speed(args: argparse.Namespace) -> list[dict]:
    runs = runs_of(args)
    seconds = interleaved({name: run.step for name, run in runs.items()}, args.repeats)
    device, dtype = device_and_dtype()
    ceiling = matmul_ceiling(device, dtype) if device.type == "cuda" else None
    llava = next(iter(runs))
    base = [s / runs[llava].samples for s in seconds[llava]]  # seconds per sample
    rows = []
    for name, run in runs.items():
        rate = run.operations / statistics.median(seconds[name])
        median, least, most = ratio(base, [s / run.samples for s in seconds[name]])
        rows.append(
            {
                "": name,
                "samples/s": run.samples / statistics.median(seconds[name]),
                "s/step": statistics.median(seconds[name]),
                "times llava": median,
                "least": least,
                "most": most,
                "Tflop/s": rate / 1e12,
                "of the ceiling": rate / ceiling if ceiling else None,
            }
        )
    return rows


def peak_above_weights(args: argparse.Namespace) -> list[dict]:
    """Each in its own process: the allocator of one must not hide the peak of another."""
    rows: list[dict[str, Any]] = []
    for which in ("llava", "ours"):
        command = [sys.executable, "-m", "benchmarks.train_step", "--preset", args.preset, "--one", which]
        command += ["--rows", str(args.rows)] + (["--no-checkpointing"] if args.no_checkpointing else [])
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append({"": f"{which}, one question per row", "MiB above the weights": float(done.stdout.split()[-1])})
    for row in rows:
        row["times llava"] = row["MiB above the weights"] / rows[0]["MiB above the weights"]
    return rows


def measure_one(args: argparse.Namespace) -> None:
    """Print the MiB that two steps needed above what was in memory before them."""
    shape = PRESETS[args.preset]
    device, dtype = device_and_dtype()
    build = build_llava if args.one == "llava" else build_ours
    model = build(shape, dtype=dtype, device=device, checkpointing=not args.no_checkpointing)
    step = stepper(model, shape, 1, args.rows, llava=args.one == "llava").step
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        step(), step()
        print((torch.cuda.max_memory_allocated() - before) / 2**20)
        return
    print(peak_during(lambda: (step(), step())) / 2**20)


def main() -> None:
    made = parser(__doc__, ["cpu", "cpu-vocab", "tiny", "qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-7b"])
    made.add_argument("--rows", type=int, default=1, metavar="N", help="images in a step (default: %(default)s)")
    made.add_argument(
        "--questions", type=int, nargs="+", default=list(BRANCHES), metavar="N", help="sizes of the trees"
    )
    made.add_argument("--no-checkpointing", action="store_true", help="keep all activations")
    made.add_argument("--memory", action="store_true", help="peak memory above the weights instead of speed")
    made.add_argument("--one", choices=["llava", "ours"], help="used by --memory for its processes")
    args = made.parse_args()
    if args.one:
        measure_one(args)
    else:
        finish(peak_above_weights(args) if args.memory else speed(args), args)


if __name__ == "__main__":
    main()
