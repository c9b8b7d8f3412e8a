"""Part 4: answering at the size of Qwen2.5-1.5B, in bf16: ours and transformers' LLaVA, adapters folded in.

The first question comes with its picture; the follow-up comes after the first question and its answer. Ours
keeps keys and values; transformers computes them again. Evaluation answers 8 tokens to each question, in batches.
Decoding reads weights, keys and values for every token; their bytes per second are compared with those of a copy.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from transformers import PreTrainedModel

from answering.graphs import Graph, Graphs
from answering.prefix_cache import PrefixCache, generate_cached, generate_on_prefixes
from benchmarks.answer import Clock
from benchmarks.common import Shape, build_llava, build_ours, rows_of_one_image, visual_tokens
from benchmarks.gpu.models import (
    RANK,
    Generation,
    copy_bandwidth,
    exactly,
    layer_weights,
    shape_of,
    synchronise,
    timed,
    working_dtype,
)
from benchmarks.gpu.part import Part
from model.fused_lora import unfuse_lora
from model.model import MMultiModal

QUESTION, EVALUATED = 20, 8  # tokens of a follow-up question; tokens answered in an evaluation


def run(part: Part) -> None:
    bench = Answering(part)
    bandwidth = part.measure("copy bandwidth", copy_bandwidth, part.device, part.tiny)
    bench.bandwidth = (bandwidth or {}).get("bandwidth")
    part.measure("ours, first question and follow-up", bench.conversation, "ours")
    part.measure("llava, first question and follow-up", bench.conversation, "llava")
    for each in (1, 5, 10):
        part.measure(f"evaluation, {each} a picture", bench.evaluation, each, needs=0 if part.tiny else 6)
    part.measure("ours without graphs, first question and follow-up", bench.conversation, "ours", False)
    part.measure("where an answer's time goes", bench.stages, needs=0 if part.tiny else 4)
    part.measure("ours, adapters not merged", bench.conversation, "adapters", needs=0 if part.tiny else 6)


class Answering:
    """Both models as they answer, built at first use."""

    def __init__(self, part: Part) -> None:
        self.part, self.device, self.dtype = part, part.device, working_dtype(part.device)
        self.shape = shape_of("1.5b", part.tiny)
        self.new = 8 if part.tiny else 32
        self.repeats = 1 if part.tiny else 2
        self.bandwidth: float | None = None
        self.models: dict[str, MMultiModal | PreTrainedModel] = {}
        self.recorded: dict[str, Graphs] = {}
        generator = torch.Generator().manual_seed(0)
        self.prompt = rows_of_one_image(self.shape, 1, generator)[0][0]
        self.question = torch.randint(1, self.shape.vocab_size - 2, (QUESTION,), generator=generator).tolist()
        size = self.shape.image_size
        self.pixels = torch.rand(1, 3, size, size, generator=generator).to(self.device, self.dtype)
        self.end = 12 + visual_tokens(self.shape)

    def model(self, side: str) -> MMultiModal | PreTrainedModel:
        """ours, llava, or ours with adapters that are not merged ("adapters"), all in the working dtype."""
        if side not in self.models:
            form = (self.shape, self.dtype, self.device, RANK, False)  # without checkpointing
            if side == "llava":
                self.models[side] = build_llava(*form).eval().to(self.dtype).merge_and_unload().eval()
            else:
                model = build_ours(*form).eval().to(self.dtype)
                if side == "ours":
                    model.language = model.language.merge_and_unload()
                    unfuse_lora(model.language)  # as MMultiModal.merge_adapters, which takes fp32 only
                self.models[side] = model.eval()
        return self.models[side]

    def graphs(self, side: str) -> Graphs:
        if side not in self.recorded:
            self.recorded[side] = Graphs(self.model(side))
        return self.recorded[side]

    def conversation(self, side: str, recorded: bool = True) -> dict:
        """Time to the first token and tokens per second, of a first question and its follow-up."""
        model = self.model(side)
        ask = self.ask_llava if side == "llava" else partial(self.ask_ours, self.graphs(side) if recorded else None)
        seen: dict[str, list[tuple[float, float]]] = {"first": [], "follow-up": []}
        begin = time.monotonic()
        said: list[list[int]] = []  # of each turn, everything
        for repeat in range(self.repeats + 3):
            first, talk, kept = ask(model, self.prompt, None)
            again, talk, _ = ask(model, talk + self.question, kept)
            said.append(talk[len(self.prompt) :])
            if repeat == 2:  # the second calls record
                warm = time.monotonic() - begin
            if repeat > 2:
                seen["first"].append(first)
                seen["follow-up"].append(again)
        waits = {name: [1000 * wait for wait, _ in numbers] for name, numbers in seen.items()}
        rates = [rate for numbers in seen.values() for _, rate in numbers]
        rate = statistics.median(rates)
        found: dict[str, float | list[float]] = {
            f"{name}, first token ms": statistics.median(times) for name, times in waits.items()
        }
        found |= {f"{name}, least and most ms": [min(times), max(times)] for name, times in waits.items()}
        found["first over follow-up"] = statistics.median(waits["first"]) / statistics.median(waits["follow-up"])
        # The first turn is launched, the second records, later ones replay; tokens should be equal, but for rounding.
        found["tokens of each turn as in the first"] = [len(os.path.commonprefix([said[0], turn])) for turn in said]
        found |= {"tokens/s": rate, "least and most tokens/s": [min(rates), max(rates)], "warm-up s": warm}
        return found | self.roofline(1 / rate)

    def ask_ours(self, graphs: Graphs | None, model: MMultiModal, prompt: list[int], kept: PrefixCache | None):
        clock = Clock()
        options: Generation = {**exactly(self.new), "streamer": clock}
        synchronise(self.device)
        begin = time.perf_counter()
        new, kept = generate_cached(model, prompt, self.end, lambda: self.pixels, kept, graphs, **options)
        synchronise(self.device)
        return self.clocked(clock, begin), prompt + new[0].tolist(), kept

    def ask_llava(self, model, prompt: list[int], kept: None):
        clock = Clock()
        ids = torch.tensor([prompt], device=self.device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": self.pixels}
        synchronise(self.device)
        begin = time.perf_counter()
        talk = model.generate(**inputs, streamer=clock, **exactly(self.new))[0].tolist()
        synchronise(self.device)
        return self.clocked(clock, begin), talk, None

    def clocked(self, clock: Clock, begin: float) -> tuple[float, float]:
        """Seconds to the first token, and tokens per second after it."""
        assert clock.first is not None, "generate gave no token"
        return clock.first - begin, (self.new - 1) / (time.perf_counter() - clock.first)

    def roofline(self, seconds: float) -> dict:
        """GB that decoding reads for a token, and its rate as a share of a copy's bandwidth."""
        context = len(self.prompt) + self.new // 2
        size = bytes_read(self.shape, context, self.dtype)
        share = size / seconds / self.bandwidth if self.bandwidth else None
        return {"GB read for a token": size / 1e9, "share of the copy's bandwidth": share}

    def stages(self) -> dict:
        """Milliseconds of each recorded part, and of the same without recording: the cost of launches."""
        return {**self.parts_of_an_answer("recorded"), **self.parts_of_an_answer("launched")}

    @torch.no_grad()
    def parts_of_an_answer(self, way: str) -> dict:
        graphs = Graphs(self.model("ours"))
        graphs.recorder.records &= way == "recorded"
        tokens = len(self.prompt)
        batch = graphs.batch(1, tokens + self.new)
        embeds = graphs.embed(self.prompt, self.pixels)
        ending = embeds[:, : QUESTION + 4]
        positions = torch.arange(tokens, device=self.device)[None]
        step = Graph(batch.step, graphs.recorder)

        def token() -> None:
            batch.end_at(tokens, [tokens])
            step()

        work: dict[str, Callable[[], object]] = {
            "picture": lambda: graphs.encode(self.pixels),
            "first question": lambda: batch.read(embeds, 0, positions),
            "follow-up": lambda: batch.read(ending, self.end, positions[:, : ending.shape[1]] + self.end),
            "token": token,
        }
        seconds = {what: timed(call, self.device, seconds=0.4)[0] for what, call in work.items()}
        found = {f"{what}, {way}, ms": 1000 * time for what, time in seconds.items()}
        return found | {f"{what}, {way}": value for what, value in self.roofline(seconds["token"]).items()}

    def evaluation(self, each: int) -> dict:
        """Questions per second of ours, then of llava, with ``each`` questions about a picture."""
        images = max(1, (4 if self.part.tiny else 40) // each)
        generator = torch.Generator().manual_seed(0)
        size = self.shape.image_size
        pixels = torch.rand(images, 3, size, size, generator=generator).to(self.device, self.dtype)
        prompts = [ids for _ in range(images) for ids, _ in rows_of_one_image(self.shape, each, generator)]
        owner = [image for image in range(images) for _ in range(each)]
        ids = torch.tensor(prompts, device=self.device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels[owner]}
        options = exactly(EVALUATED)
        ours, llava = self.model("ours"), self.model("llava")

        def run_ours() -> None:
            owned = [picture[None] for picture in pixels]
            ends = [self.end] * len(prompts)
            generate_on_prefixes(ours, prompts, ends, owner, owned, 0, self.graphs("ours"), **options)

        seconds = {
            "ours": timed(run_ours, self.device, seconds=0.0, groups=self.repeats),
            "llava": timed(lambda: llava.generate(**inputs, **options), self.device, 0.0, self.repeats),
        }
        found = {f"{side}, questions/s": len(prompts) / times[0] for side, times in seconds.items()}
        found |= {
            f"{side}, least and most": [len(prompts) / t for t in times[:0:-1]] for side, times in seconds.items()
        }
        return {"questions": len(prompts), **found, "times llava": seconds["llava"][0] / seconds["ours"][0]}


def bytes_read(shape: Shape, context: int, dtype: torch.dtype) -> int:
    """Bytes that decoding reads for a token: weights of layers and head, keys and values of ``context`` tokens."""
    head = shape.hidden_size * shape.vocab_size
    keys = 2 * shape.layers * context * shape.key_value_heads * (shape.hidden_size // shape.heads)
    return dtype.itemsize * (layer_weights(shape) + head + keys)
