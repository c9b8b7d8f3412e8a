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
from pathlib import Path

import torch
from torch.utils.data import Dataset

from dataset.image import ImageError, load_image, load_image_processor, prepare_image
from dataset.prompt import IGNORE_INDEX, IMAGE_TOKEN, PromptError, Turn, fit_prompt, load_tokenizer
from settings import Config, UserError, add_config_arguments, load_config, require_paths

logger = logging.getLogger(__name__)


class ImageCaptionDataset(Dataset):
    """Conversations about images, as token ids, labels and pixels.

    ``dataset[i]`` is sample i of epoch 0; ``dataset[epoch * len(dataset) + i]`` is the same sample in a later epoch,
    where another of its reference answers may be drawn. A sample is a dict:

    - ``input_ids``, ``labels``: lists of int, equally long, placeholders already expanded
    - ``pixel_values``: list of float32 tensors [3, H, W], one per image, in the order of the placeholders
    - ``id``: which conversation it is, for messages
    - ``skipped``: one line for each sample that could not be used and that this one stands in for
    """

    def __init__(self, config: Config, tokenizer, image_processor, split: str = "train") -> None:
        self.tokenizer, self.image_processor = tokenizer, image_processor
        self.system = config.language.system
        self.max_length = config.language.max_length  # in tokens, visual ones included
        self.image_context_length = config.vision.image_context_length
        self.max_pixels = config.data.max_pixels
        self.seed = config.data.seed
        self.paths, self.conversations = read_conversations(config.data.image_map, config.data.annotations, split)
        if not self.conversations:
            raise UserError(f"data.annotations: {config.data.annotations} holds no {split} conversation")

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, key: int) -> dict:
        """The sample, or the next usable one where it cannot be used.

        Raises:
            UserError: a hundred in a row cannot be used.
        """
        epoch, index = divmod(key, len(self))
        skipped: list[str] = []
        for candidate in range(index, index + min(100, len(self))):
            name, conversation = self.conversations[candidate % len(self)]
            try:
                return {**self._sample(name, conversation, epoch), "skipped": skipped}
            except (ImageError, PromptError) as error:
                skipped.append(f"{name}: {error}")
        raise UserError(f"{len(skipped)} samples in a row cannot be used; the first: {skipped[0]}")

    def _sample(self, name: str, conversation: dict, epoch: int) -> dict:
        rng = random.Random(f"{self.seed}:{epoch}:{name}")
        turns = [Turn(turn["q"], rng.choice(turn["a"])) for turn in conversation["turns"]]
        input_ids, labels = self.encode(turns)
        paths = [self.paths[image] for image in conversation["images"]]
        pixel_values = [prepare_image(load_image(p, self.max_pixels), self.image_processor) for p in paths]
        placeholders = sum(turn.question.count(IMAGE_TOKEN) for turn in turns)
        if placeholders != len(paths):
            raise PromptError(f"{placeholders} image placeholders for {len(paths)} images")
        return {"input_ids": input_ids, "labels": labels, "pixel_values": pixel_values, "id": name}

    def encode(self, turns: list[Turn]) -> tuple[list[int], list[int]]:
        return fit_prompt(
            self.tokenizer,
            turns,
            max_length=self.max_length,
            system=self.system,
            image_context_length=self.image_context_length,
        )

    def length(self, index: int) -> int:
        """Tokens of a sample, visual ones included, without opening its images; 0 if it cannot be used."""
        turns = [Turn(turn["q"], max(turn["a"], key=len)) for turn in self.conversations[index][1]["turns"]]
        try:
            return len(self.encode(turns)[0])
        except PromptError:
            return 0


def read_conversations(image_map: Path, annotations: Path, split: str) -> tuple[dict[int, str], list[tuple[str, dict]]]:
    """Read ``process_image.py``'s two files: image paths by id, and the (name, conversation) pairs of one split.

    Each conversation gets an ``images`` list of ids, empty for a text-only one. Its name is "<image id>/<number>".
    """
    with open(image_map, encoding="utf-8") as file:
        paths = {entry["ID"]: entry["path"] for entry in json.load(file).values()}
    with open(annotations, encoding="utf-8") as file:
        by_image = json.load(file)
    conversations = []
    for key, group in by_image.items():
        own = [] if key == "text" else [int(key)]
        for number, conversation in enumerate(group):
            if conversation["split"] == split:
                conversations.append((f"{key}/{number}", {"images": own, **conversation}))
    missing = {i for _, c in conversations for i in c["images"]} - paths.keys()
    if missing:
        raise UserError(
            f"{annotations} names {len(missing)} images that {image_map} lacks (ID {min(missing)} first): "
            "the two files are of different runs; run process_image.py again"
        )
    return paths, conversations


def collate(samples: list[dict], pad_token_id: int) -> dict:
    """Stack samples into a batch, padded on the right by position.

    Returns ``input_ids``, ``attention_mask``, ``labels`` [B, T] int64; ``images_per_row`` [B] int64; ``pixel_values``
    [K, 3, H, W] float32 for the K images of all rows in order (absent where no row has one); ``ids`` and ``skipped``,
    lists of strings.
    """
    longest = max(len(sample["input_ids"]) for sample in samples)

    def padded(key: str, fill: int) -> torch.Tensor:
        return torch.tensor([sample[key] + [fill] * (longest - len(sample[key])) for sample in samples])

    lengths = torch.tensor([len(sample["input_ids"]) for sample in samples])
    pixel_values = [image for sample in samples for image in sample["pixel_values"]]
    batch = {
        "input_ids": padded("input_ids", pad_token_id),  # [B, T]
        # By position, not by id: the padding token may be a token that also ends answers.
        "attention_mask": (torch.arange(longest)[None, :] < lengths[:, None]).long(),  # [B, T]
        "labels": padded("labels", IGNORE_INDEX),  # [B, T]
        "images_per_row": torch.tensor([len(sample["pixel_values"]) for sample in samples]),  # [B]
        "ids": [sample["id"] for sample in samples],
        "skipped": [line for sample in samples for line in sample["skipped"]],
    }
    if pixel_values:
        batch["pixel_values"] = torch.stack(pixel_values)  # [K, 3, H, W]
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
    for token, label in zip(sample["input_ids"], sample["labels"], strict=True):
        kind = (label != IGNORE_INDEX, token == image_id)
        if kind != previous and previous is not None:
            flush(previous[0])
        run.append(token)
        previous = kind
    flush(previous[0])
    return "".join(pieces)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Print one training sample as the model will see it: learnt tokens are green.",
        epilog="example: python -m dataset.image_caption_dataset --config demo.yaml --index 3",
    )
    parser.add_argument("--index", type=int, default=0, help="which conversation of the split (default: 0)")
    parser.add_argument("--split", choices=("train", "held_out"), default="train")
    add_config_arguments(parser)
    args = parser.parse_intermixed_args()
    try:
        config = load_config(args.config, args.overrides)
        require_paths(config, "data.image_map", "data.annotations")
        tokenizer = load_tokenizer(config.language.path)
        processor = load_image_processor(config.vision.path)
        dataset = ImageCaptionDataset(config, tokenizer, processor, args.split)
        if not 0 <= args.index < len(dataset):
            raise UserError(f"--index {args.index}: the {args.split} split has conversations 0 to {len(dataset) - 1}")
        text = show_sample(dataset, args.index, color=sys.stdout.isatty())
        sample = dataset[args.index]
    except UserError as error:
        sys.exit(f"error: {error}")
    print(text)
    supervised = sum(label != IGNORE_INDEX for label in sample["labels"])
    images = len(sample["pixel_values"])
    visual = images * dataset.image_context_length
    print(f"-- conversation {sample['id']}: {len(sample['labels'])} tokens, {visual} visual, {supervised} learnt from")
    for line in sample["skipped"]:
        print(f"-- stands in for {line}")


if __name__ == "__main__":
    main()
