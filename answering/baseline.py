"""A baseline's checkpoint that answers, with the methods of :class:`answering.assistant.Assistant`."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image

from answering.attention_map import AttentionMap, on_grid
from answering.devices import choose_device
from baselines.attention import Attention
from baselines.checkpoint import Loaded, load
from baselines.features import encode, first_patch
from baselines.words import padded
from common.errors import UserError
from dataset.prompt import IMAGE_TOKEN, Request
from model.run_checkpoints import first_undamaged


class BaselineAssistant:
    """Chooses an answer to the last question of a conversation. Settings of ``generate`` have no meaning here."""

    takes_boxes, learnt_boxes, crop = False, False, None  # it knows no boxes

    def __init__(self, loaded: Loaded, checkpoint: Path | None = None) -> None:
        self.model, self.known, self.tower, self.image_processor, self.config = loaded
        self.checkpoint = checkpoint

    @classmethod
    def load(
        cls,
        checkpoint: Path,
        device: str | None = None,
        on_stage: Callable[[str], object] = str,
        verify: bool = False,
        overrides: Sequence[str] = (),
    ) -> BaselineAssistant:
        """As :meth:`answering.assistant.Assistant.load`."""
        target, _ = choose_device(device)
        on_stage("weights")
        folder, loaded = first_undamaged(
            checkpoint, lambda folder: load(folder, target, verify=verify, overrides=overrides)
        )
        return cls(loaded, folder)

    @property
    def baseline(self) -> str:
        """Which model it is."""
        return self.known.name

    @property
    def device(self) -> str:
        return str(self.tower.device)

    @torch.inference_mode()
    def answer(self, requests: list[Request], **options) -> list[str]:
        """The most likely answers to a batch of requests, in order; each sees its last question and its picture.

        Raises:
            UserError: a request shows several pictures.
        """
        if not requests:
            return []
        logits = self.model(*self._inputs(requests))  # [B, A]
        return [self.known.answers.text(i) for i in logits.argmax(-1).tolist()]

    def stream(self, request: Request, stop: threading.Event | None = None, **options) -> Iterator[str]:
        """The answer, in one piece."""
        yield self.answer([request])[0]

    @torch.inference_mode()
    def where_it_looks(self, request: Request, **options) -> AttentionMap:
        """The mean of the glimpses at the picture, for the last turn's question.

        Raises:
            UserError: the model is given no patches, or there is not exactly one picture.
        """
        if not isinstance(self.model, Attention):
            raise UserError(f"the baseline {self.baseline} does not look at parts of the picture; attention does")
        if len(request.images) != 1:
            raise UserError("where the model looks can be shown for an answer about one picture")
        weights = self.model.weights(*self._inputs([request])).mean(1).cpu()  # [1, N]
        tokens = weights.shape[1]
        side = math.isqrt(tokens + first_patch(self.config))
        extra = tokens - side * side  # a class token that was kept, or (-1) a patch that was dropped
        maps = on_grid(weights, side, side, class_tokens=max(0, extra), dropped_patches=max(0, -extra))
        text = request.turns[-1].answer or ""
        return AttentionMap(text, [(0, len(text))], maps)

    def _inputs(self, requests: Sequence[Request]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Patches, ``input_ids`` and lengths of the requests' last questions."""
        texts = [request.turns[-1].question.replace(IMAGE_TOKEN, " ") for request in requests]
        input_ids, lengths = padded([self.known.words.encode(text) for text in texts])
        return self._patches(requests), input_ids.to(self.tower.device), lengths

    def _patches(self, requests: Sequence[Request]) -> torch.Tensor:
        """[B, N, D]; a picture that several requests show is encoded once."""
        if any(len(request.images) > 1 for request in requests):
            raise UserError(f"the baseline {self.baseline} answers about one picture, not about several")
        if self.model.picture == "none":
            return torch.zeros(len(requests), 1, 1)
        images: dict[int, Image.Image] = {id(image): image for request in requests for image in request.images}
        encoded: dict[int, torch.Tensor] = {}
        if images:
            patches = encode(self.tower, self.image_processor, list(images.values()), self.config)  # [I, N, D]
            encoded = dict(zip(images, patches, strict=True))
        blank = self._no_picture(len(next(iter(encoded.values()))) if encoded else 1)
        return torch.stack([encoded[id(r.images[0])] if r.images else blank for r in requests])

    def _no_picture(self, patches: int) -> torch.Tensor:
        """[N, D]: what the model is given instead of a picture."""
        blank = self.model.no_picture()
        if blank is None:
            blank = torch.zeros(self.known.patch, device=self.tower.device)
        return blank.expand(patches, -1)
