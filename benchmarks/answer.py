"""Answering: time to the first token and tokens per second, for a first question and a follow-up.

    python -m benchmarks.answer
    python -m benchmarks.answer --preset qwen2.5-1.5b    # on a GPU

"llava" is transformers' own ``generate``, which computes the picture for every question. "ours" keeps a prefix cache:
a follow-up about the same picture computes only what is new. The weights are random, decoding is greedy, and the runs
are interleaved. The follow-up comes after the first question and its answer, as in a conversation.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from answering.prefix_cache import PrefixCache, generate_cached
from benchmarks.common import (
    PRESETS,
    build_to_answer,
    device_and_dtype,
    finish,
    parser,
    ratio,
    rows_of_one_image,
    synchronise,
)

NEW = 20  # tokens of an answer
_R = TypeVar("_R")


class Clock:
    """A streamer that only notes the time of the first new token."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.prompt = True

    def put(self, ids: torch.Tensor) -> None:
        if self.prompt:  # the first call brings the prompt
            self.prompt = False
        elif self.first is None:
            synchronise()
            self.first = time.perf_counter()

    def end(self) -> None:
        pass


def timed(generate: Callable[..., _R], *arguments: Any) -> tuple[tuple[float, float], _R]:
    """Seconds to the first token and tokens per second after it; and what the call returned."""
    clock = Clock()
    synchronise()
    begin = time.perf_counter()
    result = generate(*arguments, clock)
    synchronise()
    end = time.perf_counter()
    assert clock.first is not None, "generate gave no token"
    return (clock.first - begin, (NEW - 1) / (end - clock.first)), result


def main() -> None:
    args = parser(__doc__, ["cpu", "tiny", "qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-7b"]).parse_args()
    shape, (device, dtype) = PRESETS[args.preset], device_and_dtype()
    generator = torch.Generator().manual_seed(0)
    first = rows_of_one_image(shape, 1, generator)[0][0]
    question = torch.randint(1, shape.vocab_size - 2, (20,), generator=generator).tolist()
    pixels = torch.rand(1, 3, shape.image_size, shape.image_size, generator=generator).to(device, dtype)
    options: dict[str, Any] = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
    ours, llava = build_to_answer(shape, dtype, device)

    def ask_llava(prompt: list[int], clock: Clock) -> list[int]:
        """The ids of the conversation so far, with the answer."""
        ids = torch.tensor([prompt], device=device)
        mask = torch.ones_like(ids)
        inputs = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}
        return llava.generate(**inputs, streamer=clock, **options)[0].tolist()

    def ask_ours(prompt: list[int], prefix: PrefixCache | None, clock: Clock) -> tuple[list[int], PrefixCache]:
        end = len(first) - 28  # of the image
        new, prefix = generate_cached(ours, prompt, end, lambda: pixels, prefix, streamer=clock, **options)
        return prompt + new[0].tolist(), prefix

    def one_round() -> dict[str, tuple[float, float]]:
        seen = {}
        seen["llava 1"], talk = timed(ask_llava, first)
        seen["llava 2"], _ = timed(ask_llava, talk + question)
        seen["ours 1"], (talk, prefix) = timed(ask_ours, first, None)
        seen["ours 2"], _ = timed(ask_ours, talk + question, prefix)
        return seen

    one_round()  # to warm up
    rounds = [one_round() for _ in range(args.repeats)]
    seen = {name: [numbers[name] for numbers in rounds] for name in rounds[0]}
    rows = []
    for name, numbers in seen.items():
        waits = [wait for wait, _ in numbers]
        median, least, most = ratio([wait for wait, _ in seen[name[:-1] + "1"]], waits)
        rows.append(
            {
                "": name.replace(" 1", ", first question").replace(" 2", ", follow-up"),
                "first token ms": 1000 * statistics.median(waits),
                "tokens/s": statistics.median(rate for _, rate in numbers),
                "times its first": median,
                "least": least,
                "most": most,
            }
        )
    finish(rows, args)


if __name__ == "__main__":
    main()
