"""Does the model see? The same numbers as in training (model/sight.py), from the reference answers of the questions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from answering.assistant import Assistant
from dataset.collate import collate, model_inputs
from dataset.image_caption_dataset import ImageCaptionDataset
from evaluation.questions import Question
from evaluation.result import Sight
from model.sight import OtherPictures, PictureGap, TokenShape, token_shape, warnings_of

QUESTIONS = 256  # about as many pictures: a standard error of 0.07 nats on the demo, whose gap is 1.7
BATCH = 4  # pictures, at most


@torch.no_grad()
def measure_sight(assistant: Assistant, questions: Sequence[Question]) -> Sight | None:
    """From up to QUESTIONS of the questions that show pictures; None if there are too few to exchange them."""
    dataset = dataset_of(assistant, questions)
    gap, others, shape = PictureGap(), OtherPictures(), None
    size = min(BATCH, assistant.config.generate.batch_size)
    for start in range(0, len(dataset), size):
        batch = collate([dataset[i] for i in range(start, min(start + size, len(dataset)))], 0)
        inputs = {name: tensor.to(assistant.device) for name, tensor in model_inputs(batch).items()}
        swapped = others.swap(inputs["pixel_values"], batch["info"].images_per_tree)
        if shape is None and assistant.model.projector.in_sequence:
            shape = token_shape(assistant.model, assistant.model.encode_images(inputs["pixel_values"]))
        if swapped is not None:
            own, other = (
                float(assistant.model(**{**inputs, "pixel_values": pixels}).loss)
                for pixels in (inputs["pixel_values"], swapped)
            )
            gap.add(own, other, int((batch["labels"][:, 1:] != -100).sum()))
    found = gap.result()
    return None if found is None else summary(gap, found, shape)


def summary(gap: PictureGap, found: tuple[float, float], shape: TokenShape | None) -> Sight:
    _, labels, own, *_ = gap.sums.tolist()
    value, error = found
    return {
        "loss": own / labels,
        "loss_other_picture": own / labels + value,
        "gap": value,
        "standard_error": error if math.isfinite(error) else None,
        "visual_token_lengths": None if shape is None else shape.lengths,
        "visual_token_spread": None if shape is None else shape.relative_spread,
        "warnings": warnings_of(found, shape),
    }


def dataset_of(assistant: Assistant, questions: Sequence[Question]) -> ImageCaptionDataset:
    """Message trees of questions, evenly spread over all of them, each with its first reference answer."""
    usable = [question for question in questions if question.images and question.prediction is not None]
    chosen = usable[:: max(1, -(-len(usable) // QUESTIONS))]
    numbers = {path: number for number, path in enumerate({path: None for q in chosen for path in q.images})}
    conversations = [
        (
            str(index),
            {
                "images": [numbers[path] for path in question.images],
                "turns": [{"q": question.asked, "a": question.references[:1]}],
                **({"system": question.system} if question.system is not None else {}),
            },
        )
        for index, question in enumerate(chosen)
    ]
    given = ({number: path for path, number in numbers.items()}, conversations)
    return ImageCaptionDataset(assistant.config, assistant.tokenizer, assistant.image_processor, "test", given)
