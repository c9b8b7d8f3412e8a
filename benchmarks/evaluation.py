"""Evaluation: questions per second with 1, 5 and 10 questions per image, against batched ``generate``.

    python -m benchmarks.evaluation

"llava" is transformers' ``generate`` on a left-padded batch with the picture in every row. "ours" computes what the
questions of an image share once and then answers all of them in one batch, as ``evaluate.py`` does. Both answer the
same number of questions with 8 new tokens each, greedily; the runs are interleaved.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch

from answering.prefix_cache import generate_on_prefixes
from benchmarks.common import (
    PRESETS,
    build_to_answer,
    device_and_dtype,
    finish,
    interleaved,
    parser,
    ratio,
    rows_of_one_image,
)

NEW = 8


def main() -> None:
    made = parser(__doc__, ["cpu", "tiny", "qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-7b"])
    made.add_argument("--batch", type=int, default=10, metavar="N", help="questions in a batch (default: %(default)s)")
    args = made.parse_args()
    shape, (device, dtype) = PRESETS[args.preset], device_and_dtype()
    options: dict[str, Any] = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
    ours, llava = build_to_answer(shape, dtype, device)
    rows = []
    for each in (1, 5, 10):
        generator = torch.Generator().manual_seed(0)
        images = max(1, args.batch // each)
        pixels = torch.rand(images, 3, shape.image_size, shape.image_size, generator=generator).to(device, dtype)
        prompts = [ids for _ in range(images) for ids, _ in rows_of_one_image(shape, each, generator)]
        owner = [image for image in range(images) for _ in range(each)]
        end = len(prompts[0]) - 28

        def run_llava(prompts=prompts, owner=owner, pixels=pixels) -> None:
            ids = torch.tensor(prompts, device=device)
            llava.generate(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels[owner], **options)

        def run_ours(prompts=prompts, owner=owner, pixels=pixels, end=end) -> None:
            generate_on_prefixes(ours, prompts, [end] * len(prompts), owner, [p[None] for p in pixels], 0, **options)

        seconds = interleaved({"llava": run_llava, "ours": run_ours}, args.repeats)
        median, least, most = ratio(seconds["llava"], seconds["ours"])
        for name, taken in seconds.items():
            row = {"": f"{name}, {each} per image", "questions/s": len(prompts) / statistics.median(taken)}
            if name == "ours":
                row |= {"times llava": median, "least": least, "most": most}
            rows.append({"times llava": None, "least": None, "most": None} | row)
    rows = [{key: row.get(key) for key in ("", "questions/s", "times llava", "least", "most")} for row in rows]
    finish(rows, args)


if __name__ == "__main__":
    main()
