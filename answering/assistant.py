"""Asking a trained model: ``evaluate.py`` asks in batches, ``ask.py`` and the window stream, all through here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image
from transformers import StoppingCriteria, TextIteratorStreamer

from answering.attention_map import AttentionMap, answer_attention, on_grid, token_spans
from answering.prefix_cache import Kept, generate_keeping, generate_on_prefixes
from common.errors import UserError
from dataset.image import prepare_image
from dataset.prompt import (
    IMAGE_TOKEN,
    PromptError,
    Request,
    Turn,
    encode_text,
    fit_prompt,
    skip_thoughts,
    token_id,
    without_thoughts,
)
from model.checkpoint import load_undamaged
from settings import Config


class Assistant:
    """A model, its tokenizer and its image processor, ready to answer."""

    def __init__(self, model, tokenizer, image_processor, config: Config, checkpoint: Path | None = None) -> None:
        self.model, self.tokenizer, self.image_processor = model, tokenizer, image_processor
        self.config, self.checkpoint = config, checkpoint
        self._kept: tuple[list[Image.Image], Kept] | None = None

    @classmethod
    def load(cls, checkpoint: Path, device: str | None = None, stage: Callable[[str], None] = str) -> Assistant:
        """Read a checkpoint, or the best one of a run's folder; ``stage`` is told "weights", then "device".

        Raises:
            UserError: there is none, it is damaged, its base models are not there, or the device is not.
        """
        place, dtype = choose_device(device)
        stage("weights")
        folder, (model, tokenizer, image_processor, config) = load_undamaged(checkpoint, dtype, place)
        model.merge_adapters()
        stage("device")
        return cls(model.to(place), tokenizer, image_processor, config, folder)

    @property
    def device(self) -> str:
        return str(self.model.device)

    @property
    def compiles(self) -> bool:
        """Whether decoding is compiled: asked for, and on CUDA."""
        return self.config.generate.compile and self.model.device.type == "cuda"

    def answer(self, requests: list[Request], **overrides) -> list[str]:
        """Answers to a batch of requests, in order.

        ``overrides`` are fields of the config's ``generate`` section, or ``system``, the first text of the prompt.

        What requests share up to their last image is computed once: five questions about a picture cost one picture.
        """
        if not requests:
            return []
        prompts = [self._prompt(request, overrides) for request in requests]
        owners: dict[tuple, int] = {}  # the images, by identity -> their place in pixels
        numbers = [owners.setdefault(tuple(map(id, request.images)), len(owners)) for request in requests]
        ids = generate_on_prefixes(
            self.model,
            prompts,
            [self._end_of_images(prompt) for prompt in prompts],
            numbers,
            [self._pixels(requests[numbers.index(number)].images) for number in range(len(owners))],
            self.tokenizer.pad_token_id,
            **self.generation(overrides),
        )  # [B, new]
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        if self.config.language.thinking:
            texts = [without_thoughts(text) for text in texts]
        return [text.strip() for text in texts]

    def stream(self, request: Request, stop: threading.Event | None = None, **overrides) -> Iterator[str]:
        """The answer in pieces, as it comes; nothing while the model thinks. Setting ``stop`` ends it within a token.

        The model runs in a thread of its own; leaving the loop early stops it too. What was computed is kept, so the
        next question about the same images begins behind all that both have in common.
        """
        stop = stop or threading.Event()
        prompt = self._prompt(request, overrides)
        pieces = _Pieces(self.tokenizer)
        options = {**self.generation(overrides), "streamer": pieces, "stopping_criteria": [_StopWhen(stop)]}
        worker = threading.Thread(
            target=pieces.run, args=(self._generate_keeping, request.images, prompt, options), daemon=True
        )
        worker.start()
        try:
            yield from skip_thoughts(pieces) if self.config.language.thinking else pieces
        finally:
            stop.set()
            worker.join()
        if pieces.error is not None:
            raise pieces.error

    def where_it_looks(self, request: Request, **overrides) -> AttentionMap:
        """How much each visual token of the one picture counted for the last turn's answer, which is there already.

        Raises:
            UserError: the last turn has no answer, or there is not exactly one picture.
        """
        *before, last = request.turns
        answer = list(encode_text(self.tokenizer, last.answer or ""))
        if not answer or len(request.images) != 1:
            raise UserError("where the model looks can be shown for an answer about one picture")
        prompt = self._prompt(Request([*before, Turn(last.question)], request.images), overrides)
        kept, pixels = self._take_kept(request.images), lambda: self._pixels(request.images)
        weights, result = answer_attention(self.model, prompt, answer, self._end_of_images(prompt), pixels, kept)
        self._kept = (request.images, result)
        maps = on_grid(weights)
        return AttentionMap(last.answer, token_spans(self.tokenizer, answer), maps)

    def _take_kept(self, images: list[Image.Image]) -> Kept | None:
        """What was kept of the last call, where that showed the same images; the caller uses it up."""
        (shown, kept), self._kept = self._kept or ([], None), None
        if kept is not None and list(map(id, shown)) != list(map(id, images)):
            kept = Kept([], kept.cache) if self.compiles else None  # another picture; its memory may serve
        return kept

    def _generate_keeping(self, images: list[Image.Image], prompt: list[int], options: dict) -> None:
        """``generate`` on what was kept of the last call, and keep the result."""
        kept, pixels = self._take_kept(images), lambda: self._pixels(images)
        end = self._end_of_images(prompt)
        _, result = generate_keeping(self.model, prompt, end, pixels, kept, static=self.compiles, **options)
        self._kept = (images, result)  # the images themselves, so that their id() stays theirs

    def _pixels(self, images: list[Image.Image]) -> torch.Tensor:
        """[n, 3, H, W] float32 on the model's device; n may be 0."""
        prepared = [prepare_image(image, self.image_processor) for image in images]
        return (torch.stack(prepared) if prepared else torch.zeros(0)).to(self.model.device)

    def _end_of_images(self, prompt: list[int]) -> int:
        """How many tokens to the end of the last image; at least one, and never all."""
        image = token_id(self.tokenizer, IMAGE_TOKEN)
        last = max((i for i, token in enumerate(prompt) if token == image), default=0)
        return last + 1

    def _prompt(self, request: Request, overrides: dict | None = None) -> list[int]:
        """Ids of a request's prompt, short enough that the answer fits behind it."""
        settings = {"system": self.config.language.system, **self.config.generate.model_dump(), **(overrides or {})}
        room = self.config.language.max_length - settings["max_new_tokens"]
        wanted = sum(turn.question.count(IMAGE_TOKEN) for turn in request.turns)
        if wanted != len(request.images):
            raise UserError(f"the conversation has places for {wanted} images, but {len(request.images)} were given")
        turns = request.turns
        if self.config.language.thinking:  # what was thought about earlier questions is not shown again
            turns = [Turn(turn.question, turn.answer and without_thoughts(turn.answer)) for turn in turns]
        try:
            ids, _ = fit_prompt(
                self.tokenizer,
                turns,
                max_length=room,
                system=settings["system"],
                image_context_length=self.config.vision.image_context_length,
                thinking=self.config.language.thinking,
            )
        except PromptError as error:
            raise UserError(f"the question cannot be asked: {error}") from error
        return ids

    def generation(self, overrides: dict) -> dict:
        """Arguments of ``generate`` from the config's section and a call's overrides; greedy unless told."""
        settings = {**self.config.generate.model_dump(), **overrides}
        arguments = {"max_new_tokens": settings["max_new_tokens"], "do_sample": settings["do_sample"]}
        if settings["do_sample"]:
            arguments |= {"temperature": settings["temperature"], "top_p": settings["top_p"], "top_k": 0}
        return arguments


class _Pieces(TextIteratorStreamer):
    """transformers' streamer, which holds half-finished characters back, with an end even when the model fails."""

    def __init__(self, tokenizer) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.error: BaseException | None = None

    def run(self, generate, *arguments) -> None:
        try:
            generate(*arguments)
        except BaseException as error:  # handed to the thread that reads
            self.error = error
            self.text_queue.put(self.stop_signal)


class _StopWhen(StoppingCriteria):
    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: torch.Tensor, scores, **kwargs) -> torch.Tensor:
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)


def choose_device(wanted: str | None = None) -> tuple[torch.device, torch.dtype]:
    """The device asked for, else CUDA where there is one; bf16 where CUDA has it, else fp32."""
    name = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device {name!r} is not known; use cpu, cuda or cuda:0") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {name!r}: torch sees no CUDA here; use cpu, or install a CUDA build of torch")
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return device, torch.bfloat16 if has_bf16 else torch.float32
