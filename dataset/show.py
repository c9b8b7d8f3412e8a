"""One sample as the model will see it, with the tokens that are learnt from in green.

python -m dataset.show --config demo.yaml [--index 3]
"""

from __future__ import annotations

import argparse
import sys

from common.errors import UserError
from dataset.image import load_image_processor
from dataset.image_caption_dataset import ImageCaptionDataset
from dataset.prompt import IGNORE_INDEX
from dataset.streaming import StreamedDataset
from qwen.tokenizer import IMAGE_TOKEN, load_tokenizer
from settings import Config, add_config_arguments, load_config, require_paths


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
    return StreamedDataset(config, tokenizer, image_processor, split).first_window()


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Print one training sample as the model will see it: learnt tokens are green.",
        epilog="example: python -m dataset.show --config demo.yaml --index 3",
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
