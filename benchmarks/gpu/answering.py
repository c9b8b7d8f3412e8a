"""Part 4: answering at the size of Qwen2.5-1.5B, in bf16: ours and transformers' LLaVA, adapters folded in.

The first question comes with its picture; the follow-up comes after the first question and its answer. Ours
keeps keys and values; transformers computes them again. Evaluation answers 8 tokens to each question, in batches.
Decoding reads weights, keys and values for every token; their bytes per second are compared with those of a copy.
"""

from __future__ import annotations

import statistics
import time

import torch
from transformers import PreTrainedModel

from answering.prefix_cache import PrefixCache, generate_cached, generate_on_prefixes, prefill, to_static
from benchmarks.answer import Clock
from benchmarks.common import Shape, build_llava, build_ours, rows_of_one_image, visual_tokens
from benchmarks.gpu.models import (
    RANK,
    Generation,
    copy_bandwidth,
    exactly,
    language_of,
    layer_weights,
    shape_of,
    synchronise,
    timed,
    working_dtype,
)
from benchmarks.gpu.part import Part, Skip
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
    part.measure("decoding, a static cache in a CUDA graph", bench.graph, needs=0 if part.tiny else 4)
    part.measure("ours, compiled, first question and follow-up", bench.compiled, needs=0 if part.tiny else 20)
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
                self.models[side] = model.eval()
        return self.models[side]

    def conversation(self, side: str, static: bool = False) -> dict:
        """Time to the first token and tokens per second, of a first question and its follow-up."""
        model = self.model(side)
        ask = self.ask_llava if side == "llava" else self.ask_ours
        seen: dict[str, list[tuple[float, float]]] = {"first": [], "follow-up": []}
        kept, begin = None, time.monotonic()
        for repeat in range(self.repeats + 1):
            first, talk, kept = ask(model, self.prompt, None if kept is None else emptied(kept), static)
            again, _, kept = ask(model, talk + self.question, kept, static)
            if repeat == 0:
                warm = time.monotonic() - begin
            if repeat or self.part.tiny:
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
        found |= {"tokens/s": rate, "least and most tokens/s": [min(rates), max(rates)], "warm-up s": warm}
        return found | self.roofline(1 / rate)

    def ask_ours(self, model, prompt: list[int], kept, static: bool):
        clock = Clock()
        options: Generation = {**exactly(self.new), "streamer": clock}
        synchronise(self.device)
        begin = time.perf_counter()
        new, kept = generate_cached(model, prompt, self.end, lambda: self.pixels, kept, static=static, **options)
        synchronise(self.device)
        return self.clocked(clock, begin), prompt + new[0].tolist(), kept

    def ask_llava(self, model, prompt: list[int], kept, static: bool):
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

    def compiled(self) -> dict:
        if not self.part.compiles:
            raise Skip("compiled code is measured on CUDA only")
        return self.conversation("ours", static=True)

    @torch.inference_mode()
    def graph(self) -> dict:
        """A decoding step with a static cache, with and without a CUDA graph: the cost of launches."""
        model = self.model("ours")
        language = language_of(model)
        ids = torch.tensor([self.prompt], device=self.device)
        cache = prefill(model, ids[:, : self.end], torch.ones_like(ids[:, : self.end]), [self.pixels])
        cache = to_static(model, cache, len(self.prompt) + self.new)
        room = cache.layers[0].max_cache_len
        token = torch.ones(1, 1, dtype=torch.long, device=self.device)
        position = torch.full((1, 1), self.end, device=self.device)
        mask = (torch.arange(room, device=self.device) <= self.end)[None, None, None]

        def step() -> torch.Tensor:
            return language(
                input_ids=token, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True
            ).logits

        def rewind() -> None:
            for layer in cache.layers:
                layer.cumulative_length.fill_(self.end)

        def rewind_and_step() -> None:
            rewind()
            step()

        eager, *_ = timed(rewind_and_step, self.device, seconds=0.6)
        if self.device.type != "cuda":
            return {"ms without": 1000 * eager}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
                rewind()
        torch.cuda.current_stream().wait_stream(stream)
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded):
            step()

        def replay() -> None:
            rewind()
            recorded.replay()

        median, least, most = timed(replay, self.device, seconds=0.6)
        figures = {"ms": 1000 * median, "least ms": 1000 * least, "most ms": 1000 * most, "ms without": 1000 * eager}
        return {**figures, "tokens/s": 1 / median, **self.roofline(median)}

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
            generate_on_prefixes(ours, prompts, [self.end] * len(prompts), owner, owned, 0, **options)

        seconds = {
            "ours": timed(run_ours, self.device, seconds=0.0, groups=self.repeats, warm_up=1),
            "llava": timed(lambda: llava.generate(**inputs, **options), self.device, 0.0, self.repeats, 1),
        }
        found = {f"{side}, questions/s": len(prompts) / times[0] for side, times in seconds.items()}
        found |= {
            f"{side}, least and most": [len(prompts) / t for t in times[:0:-1]] for side, times in seconds.items()
        }
        return {"questions": len(prompts), **found, "times llava": seconds["llava"][0] / seconds["ours"][0]}


def emptied(kept: PrefixCache) -> PrefixCache:
    """The cache of another picture, of which only the memory is used: a compiled step is bound to its addresses."""
    return PrefixCache([], kept.cache)


def bytes_read(shape: Shape, context: int, dtype: torch.dtype) -> int:
    """Bytes that decoding reads for a token: weights of layers and head, keys and values of ``context`` tokens."""
    head = shape.hidden_size * shape.vocab_size
    keys = 2 * shape.layers * context * shape.key_value_heads * (shape.hidden_size // shape.heads)
    return dtype.itemsize * (layer_weights(shape) + head + keys)
