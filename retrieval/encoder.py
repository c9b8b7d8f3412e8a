"""From pictures and texts to vectors of length 1."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from common.errors import UserError
from common.hashing import hash_model
from dataset.image import ImageError, load_image, load_image_processor, prepare_image
from evaluation.baselines import GREY
from model.manifest import MANIFEST, read_manifest
from visual.two_towers import TOWERS, TwoTowers, load_two_towers, towers_folder

BATCH = 32  # pictures or texts at once
Item = TypeVar("Item")


class Encoder:
    """Two towers that encode, and the image processor of the one for pictures.

    ``loss`` is the one that they were trained with, softmax or sigmoid: it says how cosines become probabilities.
    """

    def __init__(
        self, towers: TwoTowers, image_processor: Any, max_pixels: int = 50_000_000, loss: str | None = None
    ) -> None:
        self.towers, self.image_processor, self.max_pixels = towers.eval(), image_processor, max_pixels
        self.loss = loss or ("sigmoid" if towers.is_siglip else "softmax")

    def pixels(self, file: str | Path) -> torch.Tensor | str:
        """The tower's input [3, H, W] for a picture, or why it cannot be read."""
        try:
            return prepare_image(load_image(file, self.max_pixels), self.image_processor)
        except ImageError as error:
            return str(error)

    @torch.no_grad()
    def images(
        self, files: Sequence[Path], problems: dict[Path, str], bar: str | None = None
    ) -> Iterator[tuple[list[Path], np.ndarray]]:
        """Batches of files and their vectors [n, D] float32. What cannot be read goes into ``problems``.

        ``bar`` is the name of a progress bar; None: there is none.
        """
        with ThreadPoolExecutor(4) as pool:  # decoding frees the interpreter
            for some in batches(files, bar):
                read = dict(zip(some, pool.map(self.pixels, some), strict=True))
                problems |= {file: why for file, why in read.items() if isinstance(why, str)}
                pixels = {file: tensor for file, tensor in read.items() if isinstance(tensor, torch.Tensor)}
                if pixels:
                    batch = torch.stack(list(pixels.values())).to(self.towers.device)  # [n, 3, H, W]
                    yield list(pixels), unit(self.towers.encode_images(batch))

    def image(self, file: Path) -> np.ndarray:
        """The vector [D] of one picture.

        Raises:
            UserError: it cannot be read.
        """
        problems: dict[Path, str] = {}
        for _, vectors in self.images([file], problems):
            return vectors[0]
        raise UserError(f"{file}: {problems[file]}")

    @torch.no_grad()
    def grey(self) -> np.ndarray:
        """The vector [D] of a grey picture, which shows nothing: a tower cannot be asked without a picture."""
        pixels = prepare_image(GREY, self.image_processor)  # [3, H, W]
        return unit(self.towers.encode_images(pixels[None].to(self.towers.device)))[0]

    @torch.no_grad()
    def texts(self, texts: Sequence[str], bar: str | None = None) -> np.ndarray:
        """The vectors [n, D] float32 of texts; ``bar`` as in :meth:`images`."""
        found = []
        for some in batches(texts, bar):
            tokens = self.towers.tokenize(list(some))
            found.append(unit(self.towers.encode_texts({k: v.to(self.towers.device) for k, v in tokens.items()})))
        return np.concatenate(found)

    def logits(self, cosines: np.ndarray) -> np.ndarray:
        """Cosines as the towers were trained to see them: times the learnt scale, plus SigLIP's bias."""
        bias = 0.0 if self.towers.bias is None else float(self.towers.bias.detach())
        return cosines * float(self.towers.log_scale.detach().exp()) + bias


def batches(items: Sequence[Item], bar: str | None) -> Iterator[Sequence[Item]]:
    """BATCH items at a time, with a progress bar of that name on a terminal."""
    with tqdm(total=len(items), desc=bar, disable=bar is None or not sys.stderr.isatty()) as progress:
        for start in range(0, len(items), BATCH):
            yield items[start : start + BATCH]
            progress.update(len(items[start : start + BATCH]))


def unit(vectors: torch.Tensor) -> np.ndarray:
    return F.normalize(vectors.float(), dim=-1).cpu().numpy()


def load_encoder(path: str, device: torch.device, max_pixels: int = 50_000_000) -> Encoder:
    """The encoder of ``--model``.

    Raises:
        UserError: it is missing, incomplete or of another kind.
    """
    folder = Path(towers_folder(path, "--model"))
    tuned = folder.name == TOWERS and (folder.parent / MANIFEST).is_file()
    loss = read_manifest(folder.parent).get("two_towers", {}).get("loss") if tuned else None
    return Encoder(load_two_towers(path).to(device), load_image_processor(str(folder)), max_pixels, loss)


def model_hash(path: str) -> str:
    return hash_model(towers_folder(path, "--model"), "--model", verify=False)
