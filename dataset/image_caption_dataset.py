"""From the two JSON files to batches: the data side of training.

    python -m dataset.image_caption_dataset --config demo.yaml [--index 3]

prints one sample as the model will see it, with the tokens that are learnt from in green.

Every sample is a pure function of (seed, epoch, index): no worker keeps a random state, so a resumed run reads what
the uninterrupted one would have read.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from common.errors import UserError
from dataset.image import ImageError, load_image, load_image_processor, prepare_image
from dataset.prompt import (
    IGNORE_INDEX,
    IMAGE_TOKEN,
    PromptError,
    Turn,
    encode_text,
    fit_prompt,
    images_first,
    load_tokenizer,
    token_id,
)
from dataset.trees import grow_tree, root_length, split_into_trees

if TYPE_CHECKING:
    from settings import Config

logger = logging.getLogger(__name__)

PADDING = -1  # the segment of padding: neither root nor branch
Given = tuple[dict[int, str | bytes], list[tuple[str, dict]]]  # images (paths, or files' contents) and conversations


class ImageCaptionDataset(Dataset):
    """Conversations about images, as token ids, labels and pixels.

    A sample is a message tree (:mod:`dataset.trees`): all conversations about one image, or about as many as fit
    into ``language.max_length`` tokens; with ``data.message_trees`` off, a single conversation. ``dataset[i]`` is
    sample i of epoch 0; ``dataset[epoch * len(dataset) + i]`` is the same sample in a later epoch, where other
    reference answers may be drawn. A sample is a dict:

    - ``input_ids``, ``labels``, ``segments``, ``position_ids``: lists of int, equally long, placeholders expanded
    - ``pixel_values``: list of float32 tensors [3, H, W], one per image, in the order of the placeholders; features
      [N, D] where ``features`` gives them
    - ``images``: their ids
    - ``visual_tokens``: how many of its tokens are visual
    - ``id``: which conversations it holds, for messages
    - ``skipped``: one line for each conversation that could not be used
    """

    def __init__(
        self, config: Config, tokenizer, image_processor, split: str = "train", given: Given | None = None
    ) -> None:
        """``given`` is read instead of the two files."""
        self.tokenizer, self.image_processor = tokenizer, image_processor
        self.system, self.thinking = config.language.system, config.language.thinking
        self.max_length = config.language.max_length  # in tokens, visual ones included
        self.image_context_length = config.vision.image_context_length
        self.max_pixels, self.images_first = config.data.max_pixels, config.data.images_first
        self.seed = config.data.seed
        self.image_token_id = token_id(tokenizer, IMAGE_TOKEN)
        self.features: Callable[[str], torch.Tensor] | None = None  # of a path, instead of pixels, if set
        self.paths, self.conversations = given or read_conversations(
            config.data.image_map, config.data.annotations, split
        )
        if not self.conversations and given is None:
            raise UserError(f"data.annotations: {config.data.annotations} holds no {split} conversation")
        self.trees: list[list[int]] = []  # numbers of conversations
        self.lengths: list[int] = []  # tokens of each tree at most, visual ones included; 0 if it cannot be used
        self._plan(config.data.message_trees, config.data.progress and given is None)

    def __len__(self) -> int:
        return len(self.trees)

    def __getitem__(self, key: int) -> dict:
        """The sample, or the next usable one where it cannot be used.

        Raises:
            UserError: a hundred in a row cannot be used.
        """
        epoch, index = divmod(key, len(self))
        skipped: list[str] = []
        for candidate in range(index, index + min(100, len(self))):
            sample = self._sample(self.trees[candidate % len(self)], epoch, skipped)
            if sample is not None:
                return {**sample, "skipped": skipped}
        raise UserError(f"{len(skipped)} samples in a row cannot be used; the first: {skipped[0]}")

    def _sample(self, tree: list[int], epoch: int, skipped: list[str]) -> dict | None:
        """What can be used of a tree; lines about the rest are added to ``skipped``."""
        names, rows = [], []
        for number in tree:
            name, conversation = self.conversations[number]
            rng = random.Random(f"{self.seed}:{epoch}:{name}")
            try:
                rows.append(self._encode(conversation, rng.choice))
                names.append(name)
            except PromptError as error:
                skipped.append(f"{name}: {error}")
        if not rows:
            return None
        images = self.conversations[tree[0]][1]["images"]
        try:
            pixel_values = {image: self._pixels(self.paths[image]) for image in images}
        except ImageError as error:
            skipped.append(f"{', '.join(names)}: {error}")
            return None
        root = root_length(rows, self.image_token_id, self.image_context_length)
        shared = rows[0][0][:root].count(self.image_token_id) // self.image_context_length
        images = images[:shared] + [image for _ in rows for image in images[shared:]]  # those after the root
        return {
            **grow_tree(rows, root),
            "pixel_values": [pixel_values[image] for image in images],
            "images": images,
            "visual_tokens": len(images) * self.image_context_length,
            "id": ", ".join(names),
        }

    def _pixels(self, path: str | bytes) -> torch.Tensor:
        if self.features is not None:
            return self.features(path)
        return prepare_image(load_image(path, self.max_pixels), self.image_processor)

    def _encode(self, conversation: dict, choose) -> tuple[list[int], list[int]]:
        """``input_ids`` and ``labels`` of a conversation; ``choose`` picks one of each turn's reference answers.

        Raises:
            PromptError: it is too long, or its placeholders and its images differ in number.
        """
        turns = [Turn(turn["q"], choose(turn["a"])) for turn in conversation["turns"]]
        placeholders, images = sum(turn.question.count(IMAGE_TOKEN) for turn in turns), len(conversation["images"])
        if placeholders != images:
            raise PromptError(f"{placeholders} image placeholders for {images} images")
        return fit_prompt(
            self.tokenizer,
            images_first(turns) if self.images_first else turns,
            max_length=self.max_length,
            system=self.system,
            image_context_length=self.image_context_length,
            thinking=self.thinking,
        )

    def _plan(self, message_trees: bool, progress: bool) -> None:
        """Put conversations with the same images into trees, where their images lie in what they share."""
        groups: dict[tuple, list[int]] = {}
        for number, (name, conversation) in enumerate(self.conversations):
            together = message_trees and conversation["images"]
            groups.setdefault(tuple(conversation["images"]) if together else (name,), []).append(number)
        bar = tqdm(total=len(self.conversations), desc="measuring conversations", leave=False, disable=not progress)
        with bar:
            for numbers in groups.values():
                self._plan_group(numbers)
                bar.update(len(numbers))

    def _plan_group(self, numbers: list[int]) -> None:
        rows, usable = [], []
        for number in numbers:
            try:
                rows.append(self._encode(self.conversations[number][1], self._longest))
                usable.append(number)
            except PromptError:  # alone: it is named and counted when its turn comes
                self.trees.append([number])
                self.lengths.append(0)
        root = root_length(rows, self.image_token_id, self.image_context_length)
        wanted = len(self.conversations[numbers[0]][1]["images"]) * self.image_context_length
        if len(rows) > 1 and rows[0][0][:root].count(self.image_token_id) == wanted:
            trees = split_into_trees([len(ids) for ids, _ in rows], root, self.max_length)
        else:  # an image behind the question is no part of what is shared
            root, trees = 0, [[i] for i in range(len(rows))]
        for tree in trees:
            self.trees.append([usable[i] for i in tree])
            self.lengths.append(root + sum(len(rows[i][0]) - root for i in tree))

    def _longest(self, answers: list[str]) -> str:
        return max(answers, key=lambda answer: len(encode_text(self.tokenizer, answer))) if answers[1:] else answers[0]


def read_conversations(image_map: Path, annotations: Path, split: str) -> Given:
    """Read ``process_image.py``'s two files: image paths by id, and the (name, conversation) pairs of one split.

    Each conversation gets an ``images`` list of ids, empty for a text-only one. Its name is "<image id>/<number>".

    Raises:
        UserError: the files cannot be read, are not what ``process_image.py`` writes, or are of different runs.
    """
    try:
        paths = {int(entry["ID"]): str(entry["path"]) for entry in _read_object(image_map).values()}
        conversations = [
            (f"{key}/{number}", {"images": [] if key == "text" else [int(key)], **checked(conversation)})
            for key, group in _read_object(annotations).items()
            for number, conversation in enumerate(group)
            if conversation["split"] == split
        ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise UserError(
            f"{image_map} and {annotations} cannot be read as what process_image.py writes ({reason}); run it again"
        ) from error
    missing = {i for _, c in conversations for i in c["images"]} - paths.keys()
    if missing:
        raise UserError(
            f"{annotations} names {len(missing)} images that {image_map} lacks (ID {min(missing)} first): "
            "the two files are of different runs; run process_image.py again"
        )
    return paths, conversations


def _read_object(path: Path) -> dict:
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    if not isinstance(content, dict):
        raise TypeError(f"{path} holds no object")
    return content


def checked(conversation: dict) -> dict:
    """A conversation as :mod:`process_image` writes it; what follows relies on these types."""
    texts = [text for turn in conversation["turns"] for text in (turn["q"], *turn["a"])]
    lists = [conversation["turns"], *(turn["a"] for turn in conversation["turns"])]
    if not all(isinstance(each, list) and each for each in lists) or not all(isinstance(text, str) for text in texts):
        raise TypeError("a conversation without turns, or a turn without text")
    if not all(type(image) is int for image in conversation.get("images", [])):
        raise TypeError("an image's id that is not a whole number")
    return conversation


def collate(samples: list[dict], pad_token_id: int) -> dict:
    """Stack samples into a batch, padded on the right by position.

    Returns ``input_ids``, ``attention_mask``, ``labels`` [B, T] int64; ``images_per_row`` [B] int64; ``pixel_values``
    [K, 3, H, W] float32 for the K images of all rows in order (absent where no row has one; ``image_features``
    [K, N, D] instead where samples bring those). An image that comes more than once is there once, and
    ``image_index`` [K] int64 says which one stands at each place. Where a row has several branches, also ``segments``
    and ``position_ids`` [B, T] int64. For people: ``ids`` and ``skipped``, lists of
    strings, and ``counts`` of ``tokens``, of the ``visual`` ones among them, and of ``padding``.
    """
    longest = max(len(sample["input_ids"]) for sample in samples)

    def padded(key: str, fill: int) -> torch.Tensor:
        return torch.tensor([sample[key] + [fill] * (longest - len(sample[key])) for sample in samples])

    lengths = torch.tensor([len(sample["input_ids"]) for sample in samples])
    images = [image for sample in samples for image in sample["images"]]
    unique = dict(zip(images, (pixels for sample in samples for pixels in sample["pixel_values"]), strict=True))
    batch = {
        "input_ids": padded("input_ids", pad_token_id),  # [B, T]
        # By position, not by id: the padding token may be a token that also ends answers.
        "attention_mask": (torch.arange(longest)[None, :] < lengths[:, None]).long(),  # [B, T]
        "labels": padded("labels", IGNORE_INDEX),  # [B, T]
        "images_per_row": torch.tensor([len(sample["pixel_values"]) for sample in samples]),  # [B]
        "ids": [sample["id"] for sample in samples],
        "counts": {
            "tokens": int(lengths.sum()),
            "visual": sum(sample["visual_tokens"] for sample in samples),
            "padding": len(samples) * longest - int(lengths.sum()),
        },
        "skipped": [line for sample in samples for line in sample["skipped"]],
    }
    if any(sample["segments"][-1] > 1 for sample in samples):
        batch["segments"] = padded("segments", PADDING)  # [B, T]
        batch["position_ids"] = padded("position_ids", 0)  # [B, T]
    if unique:
        stacked = torch.stack(list(unique.values()))  # [U, 3, H, W], or [U, N, D]
        batch["pixel_values" if stacked.ndim == 4 else "image_features"] = stacked
    if len(unique) < len(images):
        numbers = {image: number for number, image in enumerate(unique)}
        batch["image_index"] = torch.tensor([numbers[image] for image in images])  # [K]
    return batch


def show_sample(dataset: ImageCaptionDataset, index: int, color: bool) -> str:
    """One sample as text: runs of visual tokens shortened, supervised tokens in green (or in [brackets])."""
    sample = dataset[index]
    green, plain = ("\033[32m", "\033[0m") if color else ("[", "]")
    tokenizer, pieces, run = dataset.tokenizer, [], []

    def flush(supervised: bool) -> None:
        if run:
            text = tokenizer.decode(run)
            text = text.replace(IMAGE_TOKEN * dataset.image_context_length, f"{IMAGE_TOKEN} x {len(run)}")
            pieces.append(f"{green}{text}{plain}" if supervised else text)
            run.clear()

    image_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    previous = None
    for token, label, segment in zip(sample["input_ids"], sample["labels"], sample["segments"], strict=True):
        kind = (label != IGNORE_INDEX, token == image_id, segment)
        if kind != previous and previous is not None:
            flush(previous[0])
            if segment != previous[2]:
                pieces.append(f"\n-- branch {segment}:\n")
        run.append(token)
        previous = kind
    flush(previous[0])
    return "".join(pieces)


def open_split(config: Config, tokenizer, image_processor, split: str) -> ImageCaptionDataset:
    """A split, or of a stream its first window."""
    if config.data.stream is None:
        return ImageCaptionDataset(config, tokenizer, image_processor, split)
    from dataset.streaming import StreamedDataset  # which is made of this module's class

    return StreamedDataset(config, tokenizer, image_processor, split).first_window()


def main() -> None:
    from settings import add_config_arguments, load_config, require_paths  # pydantic, which benchmarks run without

    parser = argparse.ArgumentParser(
        description="Print one training sample as the model will see it: learnt tokens are green.",
        epilog="example: python -m dataset.image_caption_dataset --config demo.yaml --index 3",
    )
    parser.add_argument("--index", type=int, default=0, help="which sample of the split (default: 0)")
    parser.add_argument("--split", choices=("train", "held_out"), default="train")
    add_config_arguments(parser)
    args = parser.parse_intermixed_args()
    try:
        config = load_config(args.config, args.overrides)
        if config.data.stream is None:
            require_paths(config, "data.image_map", "data.annotations")
        tokenizer = load_tokenizer(config.language.path)
        processor = load_image_processor(config.vision.path, config.vision.image_size)
        dataset = open_split(config, tokenizer, processor, args.split)
        if not 0 <= args.index < len(dataset):
            raise UserError(f"--index {args.index}: the {args.split} split has samples 0 to {len(dataset) - 1}")
        text = show_sample(dataset, args.index, color=sys.stdout.isatty())
        sample = dataset[args.index]
    except UserError as error:
        sys.exit(f"error: {error}")
    print(text)
    supervised = sum(label != IGNORE_INDEX for label in sample["labels"])
    visual = sample["visual_tokens"]
    print(f"-- {sample['id']}: {len(sample['labels'])} tokens, {visual} visual, {supervised} learnt from")
    for line in sample["skipped"]:
        print(f"-- stands in for {line}")


if __name__ == "__main__":
    main()
