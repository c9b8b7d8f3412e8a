"""Requests to ask, and their answers computed without any cache."""

from __future__ import annotations

import torch

from answering.assistant import Assistant
from answering.decoding import generate_arguments
from dataset.image import prepare_image
from dataset.prompt import Request, Turn, question_with_images
from tests.helpers.tiny import picture


def requests() -> list[Request]:
    long_history = [Turn(question_with_images("What is it?", 1), "a red circle"), Turn("and where is the other one?")]
    return [
        Request([Turn(question_with_images("What color?", 1))], [picture("red")]),
        Request(long_history, [picture("blue")]),
        Request([Turn("no picture at all")], []),
        Request([Turn(question_with_images("which?", 2))], [picture("green"), picture("black")]),
    ]


def reference_answers(assistant: Assistant, requests: list[Request], **overrides) -> list[str]:
    """One by one, each whole prompt with its pictures: no prefix cache, no batch."""
    answers = []
    for request in requests:
        prompt = torch.tensor([assistant._prompt(request)])
        pixels = [prepare_image(image, assistant.image_processor) for image in request.images]
        ids = assistant.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            pixel_values=torch.stack(pixels) if pixels else None,
            images_per_row=torch.tensor([len(pixels)]),
            **generate_arguments(assistant._generate_section(overrides)),
        )
        answers.append(assistant.tokenizer.decode(ids[0], skip_special_tokens=True).strip())
    return answers


def count_pictures(assistant: Assistant) -> list[int]:
    """A list that gets the number of pictures at each call of the tower."""
    seen: list[int] = []
    assistant.model.vision.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    return seen
