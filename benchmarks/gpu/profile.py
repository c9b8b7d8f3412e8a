"""Part 3: where the time of a training step goes. It profiles the best setting of part 2, or else ours in trees of 5.

Hooks mark each part of the model as a region of the forward pass. A kernel belongs to the innermost region around
the operation that launched it. In the backward pass an operation belongs to the region of the forward operation whose
gradient it computes: autograd gives both the same sequence number. Where a layer is compiled, its kernels have no
inner regions and are listed as "compiled layer".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.gpu.models import Setting, Step, build, language_of, synchronise, timed
from benchmarks.gpu.part import Part
from model.model import MMultiModal, base_of

PREFIX = "part: "
BACKWARD = "autograd::engine::evaluate_function: "
# The profiler also lists regions among the kernels of the device.
SHADOWS = (PREFIX, "Optimizer.", "optimiser", "ProfilerStep", "Torch-Compiled Region", "## ")
STEPS = 2


def run(part: Part) -> None:
    eager, best = settings(part)
    part.measure(f"{best[0]}, {best[1]} rows", take_profile, part, *best)
    if best != eager:
        part.measure(f"{eager[0]}, {eager[1]} rows", take_profile, part, *eager, needs=20)


def settings(part: Part) -> tuple[tuple[Setting, int], tuple[Setting, int]]:
    """The fastest setting in trees of 5 that is not compiled, and the fastest one; each with its rows."""
    found = []
    for record in part.records("training"):
        if record["status"] == "ok" and "setting" in record:
            setting = Setting(**record["setting"])
            if (setting.side, setting.questions, setting.size, setting.dropout) == ("ours", 5, "1.5b", 0.0):
                found.append((record["questions/s"], setting, record["rows"]))
    found = found or [(0.0, Setting("ours", 5, attention="tree_attention", fused=True), 2 if part.tiny else 8)]
    eager = max((one for one in found if not one[1].compiled), default=found[0], key=lambda one: one[0])
    best = max(found, key=lambda one: one[0])
    return eager[1:], best[1:]


def take_profile(part: Part, setting: Setting, rows: int) -> dict:
    model = build(setting, part.device, part.tiny)
    step = Step(model, setting, part.device, part.tiny, rows)
    step()
    plain, *_ = timed(step, part.device, seconds=0.0 if part.tiny else 1.0)
    mark_regions(model)
    step()
    synchronise(part.device)
    cuda = part.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities):  # the first one only starts the tracing
        step()
        synchronise(part.device)
    with profile(activities=activities) as profiler:
        for _ in range(STEPS):
            step()
        synchronise(part.device)
    events = profiler.events()
    regions = time_by_region(events, cuda)
    total = sum(regions.values())
    return {
        "ms without the profiler": 1000 * plain,
        **(device_facts(events) if cuda else {}),
        "operations in a step": sum(e.name.startswith("aten::") for e in events) // STEPS,
        "shares": {name: value / total for name, value in sorted(regions.items(), key=lambda pair: -pair[1])},
        "ms by region": {name: value / 1000 / STEPS for name, value in regions.items()},
        "kernels": top_kernels(events, cuda),
    }


def mark_regions(model: MMultiModal) -> None:
    """Name the parts of the model in the profile; the innermost name counts."""
    mark(model.vision, "tower")
    mark(model.projector, "projector")
    language = language_of(model)
    mark(language.get_input_embeddings(), "embedding")
    mark(language.lm_head, "head")
    mark(language.model.norm, "norms")
    for layer in language.model.layers:
        if layer._compiled_call_impl is not None:
            # A hook would be compiled into the layer, where the compiler drops its region.
            layer._compiled_call_impl = in_region(layer._compiled_call_impl, "compiled layer")
            continue
        mark(layer, "layer, residuals")
        mark(layer.self_attn, "attention")
        mark(layer.mlp, "MLP")
        for name, module in layer.named_modules():
            if name.rpartition(".")[2] in ("input_layernorm", "post_attention_layernorm", "q_norm", "k_norm"):
                mark(module, "norms")
            if name.rpartition(".")[2] in ("q_proj", "k_proj", "v_proj", "o_proj"):
                mark(module, "LoRA")  # casts, scaling and sums; the base layer has a region of its own
                mark(base_layer(module), "attention, projections")
            if name.rpartition(".")[2] in ("gate_proj", "up_proj", "down_proj"):
                mark(module, "LoRA")
                mark(base_layer(module), "MLP, matrices")


def base_layer(module: nn.Module) -> nn.Module:
    return base_of(getattr(module, "base_layer", module))


def mark(module: nn.Module, name: str) -> None:
    """Open a region before the module's forward and close it after."""
    opened = []

    def before(*_) -> None:
        opened.append(record_function(PREFIX + name))
        opened[-1].__enter__()

    def after(*_) -> None:
        opened.pop().__exit__(None, None, None)

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)


def in_region(function: Callable, name: str) -> Callable:
    """``function``, each call of it inside a region."""

    def inside(*args, **kwargs):
        with record_function(PREFIX + name):
            return function(*args, **kwargs)

    return inside


# ---------------------------------------------------------------------------------------------- attribution


def time_by_region(events, cuda: bool) -> dict[str, float]:
    """Microseconds of each region: of its kernels on CUDA, of its operations themselves on a CPU."""
    forward = {}  # sequence number -> region
    for event in events:
        if event.device_type == DeviceType.CPU and event.sequence_nr >= 0 and not event.name.startswith(BACKWARD):
            region = region_of(event, {})
            if region is not None:  # keep the last: a view has the number of the operation before it
                forward[event.sequence_nr] = region
    found: dict[str, float] = defaultdict(float)
    for event in events:
        if event.device_type != DeviceType.CPU:
            continue
        kernels = [kernel for kernel in event.kernels if not kernel.name.startswith(SHADOWS)]
        cost = sum(kernel.duration for kernel in kernels) if cuda else event.self_cpu_time_total
        if cost and not event.name.startswith(PREFIX):
            found[region_of(event, forward) or unnamed(event)] += cost
    return dict(found)


def region_of(event, forward: dict[int, str]) -> str | None:
    """The innermost region around an operation, or the one whose gradient it computes."""
    while event is not None:
        if event.name.startswith(PREFIX):
            return event.name.removeprefix(PREFIX)
        if event.name == "optimiser" or event.name.startswith("Optimizer.step"):
            return "optimiser"
        if event.name.startswith(BACKWARD) and event.sequence_nr in forward:
            return forward[event.sequence_nr]
        event = event.cpu_parent
    return None


def unnamed(event) -> str:
    """A name for what is outside every region, from its outermost operation."""
    while event.cpu_parent is not None:
        event = event.cpu_parent
    name = event.name.removeprefix(BACKWARD)
    if "AccumulateGrad" in name:
        return "gradients, accumulated"
    if "norm" in name or "foreach" in name:
        return "clipping"
    if "cross_entropy" in name or "nll" in name.lower() or "softmax" in name.lower():
        return "loss"
    return "other"


def on_device(events) -> list:
    """Kernels and copies that ran on the device, without the regions that the profiler lists among them."""
    return [e for e in events if e.device_type == DeviceType.CUDA and not e.name.startswith(SHADOWS)]


def device_facts(events) -> dict:
    """How long the device was busy and idle between the first and the last kernel, and where it waited longest."""
    kernels = sorted(on_device(events), key=lambda event: event.time_range.start)
    last, busy, gaps = kernels[0], kernels[0].time_range.elapsed_us(), []
    for event in kernels[1:]:
        start, end, reached = event.time_range.start, event.time_range.end, last.time_range.end
        if start > reached:
            gaps.append((start - reached, last.name[:60], event.name[:60]))
        busy += max(0.0, end - max(start, reached))
        last = event if end > reached else last
    wall = last.time_range.end - kernels[0].time_range.start
    return {
        "profiled ms": wall / 1000 / STEPS,
        "busy ms": busy / 1000 / STEPS,
        "idle share": 1 - busy / wall,
        "kernels in a step": len(kernels) // STEPS,
        "idle ms by length of the wait": idle_by_length([gap for gap, *_ in gaps]),
        "longest waits: ms, kernel before, kernel after": [[us / 1000, *names] for us, *names in sorted(gaps)[:-21:-1]],
    }


def idle_by_length(gaps: list[float]) -> dict[str, float]:
    """Milliseconds of a step that the device waited, from the microseconds of each wait."""
    bounds = {"up to 10 us": (0, 10), "10 to 100 us": (10, 100), "longer": (100, float("inf"))}
    return {name: sum(g for g in gaps if low < g <= high) / 1000 / STEPS for name, (low, high) in bounds.items()}


def top_kernels(events, cuda: bool, count: int = 40) -> list[dict]:
    """The kernels that take the most time, or on a CPU the operations."""
    times: dict[str, list[float]] = defaultdict(list)
    for event in on_device(events) if cuda else events:
        if cuda or not event.name.startswith(PREFIX):
            times[event.name].append(event.time_range.elapsed_us() if cuda else event.self_cpu_time_total)
    total = sum(map(sum, times.values()))
    ranked = sorted(times.items(), key=lambda pair: -sum(pair[1]))[:count]
    return [
        {"kernel": name[:120], "ms": sum(t) / 1000 / STEPS, "share": sum(t) / total, "times": len(t) // STEPS}
        for name, t in ranked
    ]
