"""The formats of an export, and what each of their modules offers; without torch.

A format is one module. To add one: write the module, and name it in :data:`FORMATS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from answering.assistant import Assistant
    from dataset.prompt import Request
    from model.model import MMultiModal
    from settings import Config


@dataclass(frozen=True)
class Options:
    """What the command line says about an export."""

    format: str  # one of FORMATS
    dtype: str  # one of the format's dtypes
    norm: str | None = None  # of NORMS; None: the format's own choice
    keep_first_patch: bool = False  # show it to a model that was trained without it


class Reopened(Protocol):
    """An export that its own program has opened again."""

    def prompt(self, request: Request) -> list[int]:
        """The ids of a request's prompt, each picture expanded to its visual tokens."""

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """``pixel_values`` [n, 3, H, W] of pictures."""

    def logits(self, input_ids: list[int], pixel_values: torch.Tensor, last: int) -> torch.Tensor:
        """The logits [last, V] of the last positions of a prompt, float32."""

    def answer(self, request: Request, max_new_tokens: int) -> str:
        """The greedy answer, without surrounding white space."""


class Format(Protocol):
    """A module of this room that writes one format."""

    # The largest difference of logits that a right export may show, as a share of the largest logit.
    BOUND: float

    def require(self, config: Config, options: Options) -> None:
        """Check what the config alone tells. Raises UserError if this format cannot hold such a model."""

    def size(self, model: MMultiModal, options: Options) -> int:
        """Bytes of the export; ``model`` may be on the meta device."""

    def write(self, source: Assistant, folder: Path, options: Options) -> None:
        """Write the export into an empty folder. Raises UserError if this format cannot hold such a model."""

    def reopen(self, folder: Path) -> Reopened:
        """Open the export with its own program."""


@dataclass(frozen=True)
class Entry:
    """A format's module, its dtypes (the first is the default), and what it is, for ``--help``."""

    module: str
    dtypes: tuple[str, ...]
    about: str


FORMATS = {
    "hf": Entry("answering.exporting.hf", ("bf16", "fp32"), "a LLaVA folder for transformers, vLLM, SGLang, lmms-eval"),
    "onnx": Entry("answering.exporting.onnx", ("fp32", "int8"), "graphs for onnxruntime, with an example"),
    "gguf": Entry("answering.exporting.gguf", ("f16", "f32"), "two files for llama.cpp, LM Studio and Ollama"),
}
NORMS = ("block", "tie")


def load_format(name: str) -> Format:
    """The module of a format. Imports torch."""
    return cast(Format, importlib.import_module(FORMATS[name].module))
