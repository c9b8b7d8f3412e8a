"""Conversations about images as training samples: token ids, labels and pixels.

Every sample is a pure function of (seed, epoch, index): no worker keeps a random state, so a resumed run reads what
the uninterrupted one would have read.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from common.errors import UserError
from dataset.conversations import Given, read_conversations
from dataset.image import ImageError, load_image, prepare_image
from dataset.prompt import PromptError, Turn, encode_text, fit_prompt, images_first
from dataset.trees import grow_tree, root_length, split_into_trees
from qwen.tokenizer import IMAGE_TOKEN, token_id

if TYPE_CHECKING:
    from settings import Config

logger = logging.getLogger(__name__)


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
