"""Conversations about images as training samples: token ids, labels and pixels.

Every sample is a pure function of (seed, epoch, index): no worker keeps a random state, so a resumed run reads what
the uninterrupted one would have read.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from common.errors import UserError
from dataset.batches import batch_cost
from dataset.conversations import Conversation, Named, read_conversations
from dataset.corruptions import augmented
from dataset.image import ImageError, ImageProcessor, load_image, prepare_image
from dataset.prompt import PromptError, Turn, encode_text, fit_prompt, images_first
from dataset.trees import Row, grow_tree, root_length, split_into_trees
from qwen.tokenizer import IMAGE_TOKEN, Tokenizer, token_id

if TYPE_CHECKING:
    from settings import Config

Given = tuple[Mapping[int, str | bytes], Named]  # images (paths, or files' contents) and conversations
Sample = dict[str, Any]  # see ImageCaptionDataset


class ImageCaptionDataset(Dataset[Sample]):
    """Conversations about images, as token ids, labels and pixels.

    A sample is a message tree (:mod:`dataset.trees`): all conversations about one image, or as many of them as fit
    into ``language.max_length`` tokens; with ``data.message_trees`` off, a single conversation. ``dataset[i]`` is
    sample i of epoch 0; ``dataset[epoch * len(dataset) + i]`` is the same sample in a later epoch, for which other
    reference answers may be drawn. A sample is a dict:

    - ``input_ids``, ``labels``, ``segments``, ``position_ids``: lists of int, equally long, placeholders expanded
    - ``pixel_values``: list of float32 tensors [3, H, W], one per image, in the order of the placeholders; or of
      features [N, D], from ``features``
    - ``images``: their ids
    - ``visual_tokens``: how many of its tokens are visual
    - ``id``: the names of its conversations, for messages
    - ``skipped``: one line for each conversation that could not be used

    Conversations that can never be used (too long, placeholders that do not match the images) are in no sample: they
    are listed in ``unusable``, one line each.
    """

    def __init__(
        self,
        config: Config,
        tokenizer: Tokenizer,
        image_processor: ImageProcessor,
        split: str = "train",
        given: Given | None = None,
    ) -> None:
        """``given`` replaces what the two files hold.

        Raises:
            UserError: the files cannot be read, or more than ``data.max_skipped`` of the split's conversations cannot
                be used.
        """
        self.tokenizer, self.image_processor = tokenizer, image_processor
        self.system, self.thinking = config.language.system, config.language.thinking
        self.picture_numbers = config.language.picture_numbers
        self.max_length = config.language.max_length  # in tokens, visual ones included
        self.image_context_length = config.vision.image_context_length
        self.max_pixels, self.images_first = config.data.max_pixels, config.data.images_first
        self.packing = bool(config.data.packing)
        self.augment = config.data.augment and split == "train"
        self.seed = config.data.seed
        self.image_token_id = token_id(tokenizer, IMAGE_TOKEN)
        self.features: Callable[[str], torch.Tensor] | None = None  # path -> features, which replace pixels if set
        self.paths: Mapping[int, str | bytes]
        self.conversations: Named
        self.paths, self.conversations = given or read_conversations(
            config.data.image_map, config.data.annotations, split
        )
        if not self.conversations and given is None:
            raise UserError(f"data.annotations: {config.data.annotations} holds no {split} conversation")
        self.trees: list[list[int]] = []  # numbers of conversations
        self.lengths: list[int] = []  # tokens of each tree at most, visual ones included
        self.unusable: list[str] = []  # "name: reason" of each conversation that is in no tree
        self._plan(config.data.message_trees, config.data.progress and given is None)
        if given is None:
            self.check_unusable(config.data.max_skipped, f"data.annotations: {split} split")

    def __len__(self) -> int:
        return len(self.trees)

    def __getitem__(self, key: int) -> Sample:
        """The sample, or another one if it cannot be used (its picture was damaged after preprocessing).

        Raises:
            UserError: neither it nor 99 others can be used.
        """
        epoch, index = divmod(key, len(self))
        skipped: list[str] = []
        for candidate in self._candidates(epoch, index):
            sample = self._sample(self.trees[candidate], epoch, skipped)
            if sample is not None:
                return sample
        raise UserError(f"{len(skipped)} samples in a row cannot be used; the first: {skipped[0]}")

    def _candidates(self, epoch: int, index: int) -> Iterator[int]:
        """The sample itself, then up to 99 that may stand in for it, drawn by (seed, epoch, index).

        No longer ones first: the batch was planned for the length of the missing sample.
        """
        yield index
        rng = random.Random(f"{self.seed}:{epoch}:{index}")
        drawn = rng.sample(range(len(self)), min(100, len(self)))
        others = [other for other in drawn if other != index][:99]
        yield from sorted(others, key=lambda other: self.lengths[other] > self.lengths[index])

    def _sample(self, tree: list[int], epoch: int, skipped: list[str]) -> Sample | None:
        """The usable conversations of a tree; lines about the others are added to ``skipped``."""
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
            seed = f"{self.seed}:{epoch}:{names[0]}"
            pixel_values = {image: self._pixels(self.paths[image], f"{seed}:{image}") for image in images}
        except ImageError as error:
            skipped.append(f"{', '.join(names)}: {error}")
            return None
        root = root_length(rows, self.image_token_id, self.image_context_length)
        shared = rows[0][0][:root].count(self.image_token_id) // self.image_context_length
        images = images[:shared] + [image for _ in rows for image in images[shared:]]  # each branch has those again
        return {
            **grow_tree(rows, root),
            "pixel_values": [pixel_values[image] for image in images],
            "images": images,
            "visual_tokens": len(images) * self.image_context_length,
            "id": ", ".join(names),
            "skipped": skipped,
        }

    def _pixels(self, path: str | bytes, seed: str) -> torch.Tensor:
        if self.features is not None:
            assert isinstance(path, str), "a stream has no feature cache"
            return self.features(path)
        image = load_image(path, self.max_pixels)
        return prepare_image(augmented(image, seed) if self.augment else image, self.image_processor)

    def _encode(self, conversation: Conversation, choose: Callable[[list[str]], str]) -> Row:
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
            system=conversation.get("system") or self.system,
            image_context_length=self.image_context_length,
            thinking=self.thinking,
            picture_numbers=self.picture_numbers,
        )

    def _plan(self, message_trees: bool, progress: bool) -> None:
        """Put conversations with the same images and system text into trees, if the images are in what they share."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for number, (name, conversation) in enumerate(self.conversations):
            together = message_trees and conversation["images"]
            key = (*conversation["images"], conversation.get("system") or "") if together else (name,)
            groups.setdefault(key, []).append(number)
        hidden = None if progress else True  # None: where there is no terminal
        bar = tqdm(total=len(self.conversations), desc="measuring conversations", leave=False, disable=hidden)
        with bar:
            for numbers in groups.values():
                self._plan_group(numbers)
                bar.update(len(numbers))

    def _plan_group(self, numbers: list[int]) -> None:
        rows: list[Row] = []
        usable: list[int] = []
        for number in numbers:
            name, conversation = self.conversations[number]
            try:
                rows.append(self._longest_row(conversation))
                usable.append(number)
            except PromptError as error:
                self.unusable.append(f"{name}: {error}")
        root = root_length(rows, self.image_token_id, self.image_context_length)
        wanted = len(self.conversations[numbers[0]][1]["images"]) * self.image_context_length
        if len(rows) > 1 and rows[0][0][:root].count(self.image_token_id) == wanted:
            trees = split_into_trees([len(ids) for ids, _ in rows], root, self.max_length)
        else:  # an image after the question is not shared
            root, trees = 0, [[i] for i in range(len(rows))]
        for tree in trees:
            self.trees.append([usable[i] for i in tree])
            self.lengths.append(root + sum(len(rows[i][0]) - root for i in tree))

    def _longest_row(self, conversation: Conversation) -> Row:
        """Ids and labels with the longest answers.

        A last answer that does not fit even alone is removed from the conversation if another one fits: turns before
        the last one are dropped by :func:`fit_prompt`.

        Raises:
            PromptError: the conversation can never be used.
        """
        try:
            return self._encode(conversation, self._longest)
        except PromptError:
            *earlier, last = conversation["turns"]
            fitting = []
            for answer in last["a"]:
                with suppress(PromptError):
                    self._encode({**conversation, "turns": [*earlier, {**last, "a": [answer]}]}, self._longest)
                    fitting.append(answer)
            if not fitting:
                raise
            last["a"] = fitting
            return self._encode(conversation, self._longest)

    def cost(self, batch: Sequence[int]) -> int:
        """Tokens of a batch of samples, padding included."""
        return batch_cost(self.lengths, batch, self.packing)

    def check_unusable(self, allowed: float, what: str) -> None:
        """Refuse data of which more than the share ``allowed`` cannot be used, or of which nothing can.

        Raises:
            UserError: begins with ``what``.
        """
        first = f"the first is {self.unusable[0]}" if self.unusable else "there is none"
        if not self.trees:
            raise UserError(f"{what}: none of {self.total:,} conversations can be used; {first}")
        if self.unusable_share > allowed:
            raise UserError(
                f"{what}: {self._count_unusable()}, data.max_skipped allows {allowed:.1%}; {first}; shorten or remove "
                "them, raise language.max_length, or raise data.max_skipped"
            )

    def describe_unusable(self) -> str:
        return f"{self._count_unusable()}; the first is {self.unusable[0]}"

    def _count_unusable(self) -> str:
        return f"{len(self.unusable):,} of {self.total:,} conversations ({self.unusable_share:.1%}) cannot be used"

    @property
    def total(self) -> int:
        """The number of conversations, usable or not."""
        return sum(map(len, self.trees)) + len(self.unusable)

    @property
    def unusable_share(self) -> float:
        return len(self.unusable) / max(1, self.total)

    def _longest(self, answers: list[str]) -> str:
        return max(answers, key=lambda answer: len(encode_text(self.tokenizer, answer))) if answers[1:] else answers[0]


if __name__ == "__main__":
    sys.exit("error: this command is python -m dataset.show now, with the same options")
