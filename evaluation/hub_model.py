"""Any vision-language model of transformers, with the prompts and pixels of its own processor.

What transformers' image-text-to-text pipeline opens is asked through its chat template (:class:`ChatModel`). BLIP and
ViLT have none: each has a class here.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from jinja2 import TemplateError
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BlipForConditionalGeneration,
    BlipForQuestionAnswering,
    GenerationConfig,
    PreTrainedModel,
    ViltForQuestionAnswering,
)

from answering.decoding import count_no_padding, cut_at_stop, generate_arguments
from answering.devices import choose_device
from common.errors import UserError
from common.hub import model_folder, read_config
from common.optional import is_installed
from dataset.prompt import IMAGE_TOKEN, Request, without_thoughts
from dataset.question_types import question_type
from evaluation.baselines import GREY
from evaluation.messages import messages_of
from settings import Generate

IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


class HubModel(ABC):
    """A model and its processor; ``system`` is the system text of questions that have none of their own."""

    def __init__(self, model: PreTrainedModel, processor: Any, system: str = "") -> None:
        self.model, self.processor, self.system = model, processor, system

    @property
    def device(self) -> str:
        return str(self.model.device)

    def answer(self, requests: list[Request], **options) -> list[str]:
        """Answers to a batch of requests, in order; those with equally many pictures are computed together.

        Raises:
            UserError: the processor refuses a request.
        """
        generate = Generate(**options)
        if generate.seed is not None:
            torch.manual_seed(generate.seed)
        alike: dict[int, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            alike[len(request.images)].append(index)
        answers = [""] * len(requests)
        for indices in alike.values():
            try:
                texts = self.texts([requests[index] for index in indices], generate)
            except (ValueError, TypeError, LookupError, TemplateError) as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                raise UserError(f"the question cannot be asked: {reason}") from error
            for index, text in zip(indices, texts, strict=True):
                answers[index] = cut_at_stop(without_thoughts(text), generate.stop_strings).strip()
        return answers

    @abstractmethod
    def texts(self, requests: list[Request], generate: Generate) -> list[str]:
        """What the model says to requests with equally many pictures."""


class ChatModel(HubModel):
    """A model that is asked through its chat template: LLaVA, Qwen2.5-VL, Qwen3-VL, SmolVLM and others."""

    def texts(self, requests: list[Request], generate: Generate) -> list[str]:
        made = self.processor.apply_chat_template(
            [messages_of(request, self.system, picture_part) for request in requests],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        )
        inputs = made.to(self.model.device, self.model.dtype)  # input_ids [B, T], and pixels
        options = count_no_padding(generate_arguments(generate), inputs["attention_mask"])
        ids = self.model.generate(**inputs, **options)  # [B, T + new]
        return self.processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


class BlipQuestions(HubModel):
    """BlipForQuestionAnswering: it encodes the question, and decodes an answer that begins without a prompt."""

    def texts(self, requests: list[Request], generate: Generate) -> list[str]:
        texts = []
        for request in requests:  # one by one: its decoder reads the padding of a question as part of it
            inputs = self.processor(images=picture_of(request), text=question_of(request), return_tensors="pt")
            inputs = inputs.to(self.model.device, self.model.dtype)
            (ids,) = self.model.generate(**inputs, **generate_arguments(generate))
            texts.append(self.processor.decode(ids, skip_special_tokens=True))
        return texts


class BlipCaptions(HubModel):
    """BlipForConditionalGeneration: it captions, and continues a text. A request to describe is no text to continue."""

    def texts(self, requests: list[Request], generate: Generate) -> list[str]:
        texts = []
        for request in requests:
            describes = question_type(question_of(request)) == "caption"
            text = {} if describes else {"text": question_of(request)}
            inputs = self.processor(images=picture_of(request), return_tensors="pt", **text)
            inputs = inputs.to(self.model.device, self.model.dtype)
            (ids,) = self.model.generate(**inputs, **generate_arguments(generate))
            said = self.processor.decode(ids, skip_special_tokens=True)
            given = "" if describes else self.processor.decode(inputs["input_ids"][0], skip_special_tokens=True)
            texts.append(said.removeprefix(given))
        return texts


class ViltQuestions(HubModel):
    """ViltForQuestionAnswering: a choice among the answers that it was trained with."""

    @torch.no_grad()
    def texts(self, requests: list[Request], generate: Generate) -> list[str]:
        made = self.processor(
            images=[picture_of(request) for request in requests],
            text=[question_of(request) for request in requests],
            padding=True,
            truncation=True,  # to the 40 tokens that it has positions for
            max_length=self.model.config.max_position_embeddings,
            return_tensors="pt",
        )
        logits = self.model(**made.to(self.model.device, self.model.dtype)).logits  # [B, answers]
        return [self.model.config.id2label[index] for index in logits.argmax(-1).tolist()]


BY_CLASS = {
    "BlipForQuestionAnswering": (BlipForQuestionAnswering, BlipQuestions),
    "BlipForConditionalGeneration": (BlipForConditionalGeneration, BlipCaptions),
    "ViltForQuestionAnswering": (ViltForQuestionAnswering, ViltQuestions),
}


# ---------------------------------------------------------------------------------------------- requests


def picture_part(image: Image.Image) -> dict[str, Any]:
    return {"type": "image", "image": image}


def question_of(request: Request) -> str:
    """The last question as plain text."""
    return request.turns[-1].question.replace(IMAGE_TOKEN, " ").strip()


def picture_of(request: Request) -> Image.Image:
    """The one picture of a request; a grey one for a request without.

    Raises:
        ValueError: there are several.
    """
    if len(request.images) > 1:
        raise ValueError(f"this model is asked about one picture, not {len(request.images)}")
    return request.images[0] if request.images else GREY


# ---------------------------------------------------------------------------------------------- loading


def load_hub_model(path: str, device: str | None = None, system: str = "") -> HubModel:
    """A model of a folder or of the hub, on a device, which decodes as the ``generate`` section says and not as its own
    generation_config.json does.

    Raises:
        UserError: it is not here, is of another kind, lacks weights, or its processor lacks a package.
    """
    folder = model_folder(path, "--model")
    architecture = (read_config(folder, "--model").get("architectures") or [""])[0]
    target, dtype = choose_device(device)
    try:
        config = AutoConfig.from_pretrained(folder)
        model_class, answers = BY_CLASS.get(architecture, (AutoModelForImageTextToText, ChatModel))
        if model_class is AutoModelForImageTextToText and type(config) not in model_class._model_mapping:
            raise UserError(f"--model = {path}: {architecture or config.model_type} does not answer about pictures")
        processor = load_processor(folder, config)
        model, found = model_class.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    except ImportError as error:
        raise UserError(f"--model = {path}: its processor needs a package: {first_line(error)}") from error
    except (OSError, ValueError, LookupError, RuntimeError) as error:
        raise UserError(f"--model = {path}: cannot be opened by transformers: {first_line(error)}") from error
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise UserError(f"--model = {path}: {len(missing)} tensors are missing, the first {missing[0]}")
    if answers is ChatModel and not getattr(processor, "chat_template", None):
        raise UserError(f"--model = {path}: it has no chat template, so it is not known how it is asked")
    if model.can_generate():
        ids = {name: getattr(model.generation_config, name, None) for name in IDS}
        if ids["pad_token_id"] is None:
            ids["pad_token_id"] = processor.tokenizer.pad_token_id
        model.generation_config = GenerationConfig(**ids)
    return answers(model.to(target).eval(), processor, system)


def first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]


def load_processor(folder: str, config: Any) -> Any:
    """The model's own processor. Without torchvision, which only videos need, it is one without its video part."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    own = PROCESSOR_MAPPING.get(type(config), None)
    if own is not None and "video_processor" in own.get_attributes() and not is_installed("torchvision"):
        return image_only(own).from_pretrained(folder)
    return AutoProcessor.from_pretrained(folder)


def image_only(processor_class: Any) -> Any:
    """The same class without a video processor.

    transformers 5.23 has video processors for torchvision alone, and torchvision's builds on PyPI need CUDA's torch.
    """

    class ImageOnly(processor_class):
        video_processor = SimpleNamespace(num_frames=None, fps=None)  # SmolVLM's reads them for every prompt

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in processor_class.get_attributes() if name != "video_processor"]

        @classmethod
        def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **options: Any) -> Any:
            return super().from_args_and_dict([*args, None], processor_dict, **options)  # it is the last of the three

    ImageOnly.__name__ = processor_class.__name__  # it is saved under this name
    return ImageOnly


def folder_hash(folder: str | Path) -> str:
    """SHA-256 of a model's configs and of the names and sizes of its other files: cheap, for 15 GB of weights."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).iterdir()):
        if file.is_file():
            digest.update(f"{file.name} {file.stat().st_size}\n".encode())
            if file.suffix == ".json":
                digest.update(file.read_bytes())
    return digest.hexdigest()
