"""The assistant: a trained model that answers. ``evaluate.py`` asks it in batches; ``ask.py`` and the window stream."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import StaticCache, StoppingCriteria, TextIteratorStreamer

from answering.attention_map import AttentionMap, Shows, answer_attention, on_grid, to_patches, token_spans
from answering.decoding import StopAt, cut_at_stop, generate_arguments, pieces_to_stop
from answering.devices import choose_device
from answering.graphs import Graphs
from answering.prefix_cache import PrefixCache, generate_cached, generate_on_prefixes, to_dynamic
from common.errors import UserError
from dataset.boxes import Crop, crop_of
from dataset.image import prepare_image
from dataset.prompt import (
    IMAGE_TOKEN,
    PromptError,
    Request,
    Turn,
    decode_said,
    encode_said,
    fit_prompt,
    skip_thoughts,
    token_id,
    without_thoughts,
)
from model.checkpoint import load_undamaged
from model.model import MMultiModal
from qwen.tokenizer import box_tokens, untrained_box_rows
from settings import Config, Generate, change_generate


class Assistant:
    """A model, its tokenizer and its image processor, ready to answer."""

    baseline = ""  # the name of the baseline that it is; it is none

    def __init__(
        self, model: MMultiModal, tokenizer: Any, image_processor: Any, config: Config, checkpoint: Path | None = None
    ) -> None:
        self.model, self.tokenizer, self.image_processor = model, tokenizer, image_processor
        self.config, self.checkpoint = config, checkpoint
        recorded = config.generate.cuda_graphs and model.device.type == "cuda" and Graphs.serve(model)
        self.graphs = Graphs(model) if recorded else None
        self.most_prefixes = 1  # more where several conversations take turns
        self._prefixes: list[tuple[list[Image.Image], PrefixCache]] = []  # a call's images and cache, the oldest first

    @classmethod
    def load(
        cls,
        checkpoint: Path,
        device: str | None = None,
        on_stage: Callable[[str], object] = str,
        verify: bool = False,
        overrides: Sequence[str] = (),
    ) -> Assistant:
        """Read a checkpoint, or the best one of a run's folder. ``on_stage`` is called with "weights", then "device".

        ``overrides`` are KEY=VALUE for keys of its config.

        ``verify`` reads all files to check their hashes; by default, large ones that are unchanged since they were
        last read are not read again.

        Raises:
            UserError: the checkpoint, a base model or the device is not there, or the checkpoint is damaged.
        """
        target, dtype = choose_device(device)
        on_stage("weights")
        folder, (model, tokenizer, image_processor, config) = load_undamaged(
            checkpoint, dtype, target, verify=verify, overrides=overrides
        )
        model.merge_adapters(rounded=config.generate.merge_adapters)
        on_stage("device")
        return cls(model.to(target), tokenizer, image_processor, config, folder)

    @property
    def device(self) -> str:
        return str(self.model.device)

    @property
    def takes_boxes(self) -> bool:
        """Whether the model has tokens for the marks of boxes."""
        return bool(box_tokens(self.tokenizer))

    @property
    def learnt_boxes(self) -> bool:
        """Whether it was trained on boxes: by its own run, or (Qwen-VL) by its language model's."""
        return self.takes_boxes and (self.config.data.has_boxes or not untrained_box_rows(self.tokenizer))

    @property
    def crop(self) -> Crop | None:
        """What the tower is not shown of a picture."""
        return crop_of(self.image_processor.to_dict())

    def answer(self, requests: list[Request], **overrides) -> list[str]:
        """Answers to a batch of requests, in order.

        ``overrides`` are fields of the config's ``generate`` section, or ``system``, the system prompt. What requests
        share up to their last image is computed once: the picture of five questions is encoded once.
        """
        if not requests:
            return []
        generate = self._generate_section(overrides)
        prompts = [self._prompt(request, overrides) for request in requests]
        indices: dict[tuple[int, ...], int] = {}  # a request's images, by identity -> their index in pixels
        owners = [indices.setdefault(tuple(map(id, request.images)), len(indices)) for request in requests]
        self._seed(generate)
        self._leave_graphs()
        ids = generate_on_prefixes(
            self.model,
            prompts,
            [self.end_of_images(prompt) for prompt in prompts],
            owners,
            [self._pixels(requests[owners.index(index)].images) for index in range(len(indices))],
            self.tokenizer.pad_token_id,
            self.graphs,
            **generate_arguments(generate),
            stopping_criteria=self._stops(generate),
        )  # [B, new]
        return [cut_at_stop(self.said(answer.tolist()), generate.stop_strings).strip() for answer in ids]

    def said(self, ids: Sequence[int]) -> str:
        """What generated ids say, without thoughts."""
        text = decode_said(self.tokenizer, ids)
        return without_thoughts(text) if self.config.language.thinking else text

    def stream(self, request: Request, stop: threading.Event | None = None, **overrides) -> Iterator[str]:
        """The answer in pieces, as it is generated; no pieces while the model thinks. Setting ``stop`` ends it within
        a token. With beams there is one piece, since it is not known before the end which beam is the best.

        The model runs in its own thread; leaving the loop early stops it too. The prefix cache is kept, so the next
        question about the same images does not compute what both have in common.
        """
        stop = stop or threading.Event()
        generate = self._generate_section(overrides)
        prompt = self._prompt(request, overrides)
        pieces = _Pieces(self.tokenizer)
        options = generate_arguments(generate)
        options["stopping_criteria"] = [_StopWhen(stop), *self._stops(generate)]

        def work() -> None:
            self._seed(generate)
            if generate.num_beams == 1:
                self._generate(request.images, prompt, {**options, "streamer": pieces})
            else:
                pieces.put_answer(self._generate(request.images, prompt, options)[0])

        worker = threading.Thread(target=pieces.run, args=(work,), daemon=True)
        worker.start()
        try:
            answer = skip_thoughts(pieces) if self.config.language.thinking else pieces
            yield from pieces_to_stop(answer, generate.stop_strings)
        finally:
            stop.set()
            worker.join()
        if pieces.error is not None:
            raise pieces.error

    def where_it_looks(self, request: Request, picture: int = 0, **overrides) -> AttentionMap:
        """How much the last turn's answer attends to each part of a picture; ``picture`` counts from 0.

        Raises:
            UserError: the last turn has no answer, or there is no such picture.
        """
        *before, last = request.turns
        text = last.answer or ""
        answer = list(encode_said(self.tokenizer, text))
        if not answer or picture >= len(request.images):
            raise UserError("where the model looks can be shown for an answer about a picture")
        prompt = self._prompt(Request([*before, Turn(last.question)], request.images, request.system), overrides)
        prefix = self._take_prefix(request.images)
        weights, result = answer_attention(
            self.model, prompt, answer, self.end_of_images(prompt), lambda: self._pixels(request.images), prefix
        )
        self._prefixes.append((request.images, result))
        weights = weights.chunk(len(request.images), dim=1)[picture]  # [A, N] of [A, n * N]
        grid = self.model.projector.token_grid(self.model.patch_grid)
        shows: Shows = "tokens"
        if grid is None:
            grid = self.model.patch_grid
            looks = self.model.where_queries_look(self._pixels([request.images[picture]]))
            weights, shows = (weights, "cross_attention") if looks is None else (weights @ looks[0].cpu(), "queries")
        maps = on_grid(
            weights,
            grid.rows,
            grid.columns,
            class_tokens=grid.kept_class_tokens,
            dropped_patches=grid.dropped_patches,
        )
        if grid.cell > 1:
            patches = self.model.patch_grid
            maps = to_patches(maps, grid.cell, patches.rows, patches.columns)
        return AttentionMap(text, token_spans(self.tokenizer, answer), maps, shows)

    def _take_prefix(self, images: list[Image.Image]) -> PrefixCache | None:
        """The prefix cache of an earlier call that showed the same images. The next call cannot take it again.

        Without one, room is made for the cache that the call will leave: the oldest are dropped.
        """
        shown = list(map(id, images))
        for index, (kept, prefix) in enumerate(self._prefixes):
            if list(map(id, kept)) == shown:
                del self._prefixes[index]
                return prefix
        while len(self._prefixes) >= self.most_prefixes:
            self._prefixes.pop(0)
        return None

    def _leave_graphs(self) -> None:
        """Copy a prefix cache out of the graphs' memory, which the next call overwrites."""
        for _, prefix in self._prefixes:
            if isinstance(prefix.cache, StaticCache):
                prefix.cache = to_dynamic(self.model, prefix.cache)

    def _generate(self, images: list[Image.Image], prompt: list[int], options: dict[str, Any]) -> torch.Tensor:
        """Ids [1, new] of the answer, on the prefix cache of the last call; the new one is kept."""
        prefix = self._take_prefix(images)
        end = self.end_of_images(prompt)
        pixels = lambda: self._pixels(images)  # noqa: E731
        self._leave_graphs()
        ids, result = generate_cached(self.model, prompt, end, pixels, prefix, self.graphs, **options)
        self._prefixes.append((images, result))  # the images too: while they live, no other image gets their id()
        return ids

    def _pixels(self, images: list[Image.Image]) -> torch.Tensor:
        """[n, 3, H, W] float32 on the model's device; n may be 0."""
        prepared = [prepare_image(image, self.image_processor) for image in images]
        return (torch.stack(prepared) if prepared else torch.zeros(0)).to(self.model.device)

    def end_of_images(self, prompt: list[int]) -> int:
        """The number of tokens up to the end of the last image: at least 1, and never all."""
        image = token_id(self.tokenizer, IMAGE_TOKEN)
        last = max((i for i, token in enumerate(prompt) if token == image), default=0)
        return last + 1

    def _prompt(self, request: Request, overrides: dict[str, Any] | None = None) -> list[int]:
        """Ids of a request's prompt, short enough for the answer to fit after it."""
        overrides = overrides or {}
        system = overrides.get("system", self.config.language.system)
        wanted = sum(turn.question.count(IMAGE_TOKEN) for turn in request.turns)
        if wanted != len(request.images):
            raise UserError(f"the conversation shows {wanted} images, but {len(request.images)} were given")
        system = system if request.system is None else request.system
        return self.prompt_of(request.turns, system, self._generate_section(overrides).max_new_tokens)

    def prompt_of(self, turns: list[Turn], system: str, max_new_tokens: int) -> list[int]:
        """Ids of a conversation's prompt, short enough for ``max_new_tokens`` to fit after it.

        Raises:
            UserError: the last turn alone is too long.
        """
        if self.config.language.thinking:  # the thoughts about earlier questions are not shown again
            turns = [Turn(turn.question, turn.answer and without_thoughts(turn.answer)) for turn in turns]
        try:
            ids, _ = fit_prompt(
                self.tokenizer,
                turns,
                max_length=self.config.language.max_length,
                max_new_tokens=max_new_tokens,
                system=system,
                image_context_length=self.config.vision.image_context_length,
                thinking=self.config.language.thinking,
                picture_numbers=self.config.language.picture_numbers,
            )
        except PromptError as error:
            raise UserError(f"the question cannot be asked: {error}") from error
        return ids

    def _generate_section(self, overrides: dict[str, Any]) -> Generate:
        """The config's ``generate`` section with a call's overrides.

        Raises:
            UserError: a value is wrong, or two do not go together.
        """
        return change_generate(self.config.generate, {key: overrides[key] for key in overrides if key != "system"})

    def _stops(self, generate: Generate) -> list[StopAt]:
        if not generate.stop_strings:
            return []
        return [StopAt(self.tokenizer, generate.stop_strings, self.config.language.thinking)]

    def _seed(self, generate: Generate) -> None:
        """The same seed gives the same sampled answer, whatever was asked before."""
        if generate.seed is not None:
            torch.manual_seed(generate.seed)


class _Pieces(TextIteratorStreamer):
    """transformers' streamer, which waits for whole characters; it also ends if the model fails."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(_Decoder(tokenizer), skip_prompt=True)
        self.error: BaseException | None = None

    def put_answer(self, ids: torch.Tensor) -> None:
        """The whole answer [new], as one piece."""
        self.on_finalized_text(self.tokenizer.decode(ids.tolist()), stream_end=True)

    def run(self, generate: Callable[[], None]) -> None:
        try:
            generate()
        except BaseException as error:  # raised again in the thread that reads
            self.error = error
            self.text_queue.put(self.stop_signal)


class _Decoder:
    """What transformers' streamer asks a tokenizer for."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def decode(self, ids: Sequence[int]) -> str:
        return decode_said(self.tokenizer, ids)


class _StopWhen(StoppingCriteria):
    """Stops ``generate`` once an event is set."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)
