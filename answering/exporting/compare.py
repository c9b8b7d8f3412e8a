"""Whether an export is the model that it was made from: ids, pixels and logits of both are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from answering.assistant import Assistant
from answering.exporting.formats import Reopened
from common.errors import UserError
from dataset.image import prepare_image
from dataset.prompt import IMAGE_TOKEN, Request, Turn, build_prompt, question_with_images
from model.model import MMultiModal

LAST = 16  # positions whose logits are compared: the question and the end of the picture; a row is 151,936 wide


def sample_picture(width: int, height: int) -> Image.Image:
    """A picture with a different color at every place, the same each time."""
    bands = [Image.linear_gradient("L"), Image.linear_gradient("L").rotate(90), Image.radial_gradient("L")]
    return Image.merge("RGB", [band.resize((width, height)) for band in bands])


def sample_requests() -> list[Request]:
    """One picture; two pictures over two turns; two pictures at once; none."""
    wide, high = sample_picture(90, 60), sample_picture(57, 101)
    first, second = question_with_images("What is in the picture?", 1), question_with_images("And here? 这是什么？", 1)
    return [
        Request([Turn(first)], [wide]),
        Request([Turn(first, "A red circle."), Turn(second)], [wide, high]),
        Request([Turn(question_with_images("Which one is larger?", 2))], [high, wide]),
        Request([Turn("Who are you?", "A model."), Turn("What can you do?")], []),
    ]


@dataclass
class Reference:
    """Our side for each sample: ids, pixels [n, 3, H, W]; and logits [LAST, V] of the first."""

    requests: list[Request]
    ids: list[list[int]]
    pixels: list[torch.Tensor]
    logits: torch.Tensor


def reference_of(source: Assistant) -> Reference:
    """What our own model says to the samples."""
    requests = sample_requests()
    ids = [prompt_of(source, request) for request in requests]
    pixels = [pixels_of(source, request.images) for request in requests]
    return Reference(requests, ids, pixels, last_logits(source.model, ids[0], pixels[0]))


def prompt_of(source: Assistant, request: Request) -> list[int]:
    """The ids of a request's prompt, whatever its length."""
    config = source.config
    ids, _ = build_prompt(
        source.tokenizer,
        request.turns,
        system=config.language.system,
        image_context_length=config.vision.image_context_length,
        thinking=config.language.thinking,
        picture_numbers=config.language.picture_numbers,
    )
    return ids


def pixels_of(source: Assistant, images: Sequence[Image.Image]) -> torch.Tensor:
    """``pixel_values`` [n, 3, H, W]; n may be 0."""
    prepared = [prepare_image(image, source.image_processor) for image in images]
    return torch.stack(prepared) if prepared else torch.zeros(0)


@torch.no_grad()
def last_logits(model: MMultiModal, ids: list[int], pixels: torch.Tensor) -> torch.Tensor:
    """Logits [LAST, V] of the last positions, float32."""
    input_ids = torch.tensor([ids])  # [1, T]
    shown = torch.tensor([len(pixels)])
    return model(
        input_ids, torch.ones_like(input_ids), pixel_values=pixels, images_per_row=shown, logits_to_keep=LAST
    ).logits[0]


def check(reference: Reference, peer: Reopened, rounded: torch.Tensor, bound: float) -> str:
    """Compare an export with our model; gives the line that says how far they are apart.

    Args:
        rounded: our logits for the first sample with the weights rounded to the export's dtype.
        bound: of the difference from ``rounded``, as a share of the largest logit.

    Raises:
        UserError: ids or pixels differ, or logits by more than the bound.
    """
    for request, ids, pixels in zip(reference.requests, reference.ids, reference.pixels, strict=True):
        found = peer.prompt(request)
        if found != ids:
            where = next((i for i, pair in enumerate(zip(found, ids, strict=False)) if pair[0] != pair[1]), len(ids))
            shown = [turn.question.replace(IMAGE_TOKEN, "<image>") for turn in request.turns]
            raise UserError(f"the export's prompt of {shown} differs from ours at token {where}")
        if request.images and not torch.equal(peer.pixels(request.images), pixels):
            raise UserError("the export's pixel_values differ from ours")
    logits = peer.logits(reference.ids[0], reference.pixels[0], LAST)
    largest = reference.logits.abs().max().item()
    apart, rounding = ((logits - ours).abs().max().item() for ours in (rounded, reference.logits))
    if not apart <= bound * largest:  # also if it is not a number
        raise UserError(f"the export's logits differ from ours by {apart:.3g}, allowed are {bound * largest:.3g}")
    line = f"ids and pixels equal, logits within {apart:.2g} (largest {largest:.3g}, bound {bound * largest:.2g})"
    return line + (f"; rounding the weights moves them by {rounding:.2g}" if rounding > 2 * apart else "")


def round_weights(model: MMultiModal, dtype: torch.dtype) -> None:
    """Round every weight to ``dtype``, and keep it in fp32."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype).float())
