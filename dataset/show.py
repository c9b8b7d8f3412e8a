"""One sample as the model will see it, its supervised tokens in green.

python -m dataset.show --config demo.yaml [--index 3]
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from common.errors import UserError
from common.text import prepare_console
from dataset.conversations import SPLITS
from dataset.image import ImageProcessor, load_image_processor
from dataset.prompt import IGNORE_INDEX
from qwen.tokenizer import IMAGE_TOKEN, Tokenizer, load_tokenizer
from settings import Config, add_config_arguments, load_config, require_paths

if TYPE_CHECKING:
    from dataset.image_caption_dataset import ImageCaptionDataset


def show_sample(dataset: ImageCaptionDataset, index: int, color: bool) -> str:
    """One sample as text: runs of visual tokens shortened, supervised tokens in green (or in [brackets])."""
    sample, tokenizer = dataset[index], dataset.tokenizer
    green, plain = ("\033[32m", "\033[0m") if color else ("[", "]")
    visual, image_id = IMAGE_TOKEN * dataset.image_context_length, tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    tokens = list(zip(sample["input_ids"], sample["labels"], sample["segments"], strict=True))
    kinds = [(label != IGNORE_INDEX, token == image_id, segment) for token, label, segment in tokens]
    pieces: list[str] = []
    start = 0
    for end in range(1, len(tokens) + 1):
        if end < len(tokens) and kinds[end] == kinds[start]:
            continue
        supervised, _, segment = kinds[start]
        text = tokenizer.decode([token for token, _, _ in tokens[start:end]])
        text = text.replace(visual, f"{IMAGE_TOKEN} x {end - start}")
        pieces.append(f"{green}{text}{plain}" if supervised else text)
        if end < len(tokens) and kinds[end][2] != segment:
            pieces.append(f"\n-- branch {kinds[end][2]}:\n")
        start = end
    return "".join(pieces)


def open_split(
    config: Config, tokenizer: Tokenizer, image_processor: ImageProcessor, split: str
) -> ImageCaptionDataset:
    """A split; of a stream, its first window."""
    from dataset.image_caption_dataset import ImageCaptionDataset  # torch: seconds, after everything is checked
    from dataset.streaming import StreamedDataset

    if config.data.stream is None:
        return ImageCaptionDataset(config, tokenizer, image_processor, split)
    return StreamedDataset(config, tokenizer, image_processor, split).first_window()


def main() -> None:
    prepare_console()
    parser = argparse.ArgumentParser(
        description="Print one training sample as the model will see it: supervised tokens are green.",
        epilog="example: python -m dataset.show --config demo.yaml --index 3",
    )
    parser.add_argument("--index", type=int, default=0, help="which sample of the split (default: 0)")
    parser.add_argument("--split", choices=SPLITS, default="train")
    add_config_arguments(parser)
    args = parser.parse_intermixed_args()
    try:
        config = load_config(args.config, args.overrides)
        if config.data.stream is None:
            require_paths(config, "data.image_map", "data.annotations")
        tokenizer = load_tokenizer(config.language.path, config.data.has_boxes)
        processor = load_image_processor(config.vision.path, config.vision.image_size)
        dataset = open_split(config, tokenizer, processor, args.split)
        if not 0 <= args.index < len(dataset):
            raise UserError(f"--index {args.index}: the {args.split} split has samples 0 to {len(dataset) - 1}")
        text = show_sample(dataset, args.index, color=sys.stdout.isatty())
        sample = dataset[args.index]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(text)
    supervised = sum(label != IGNORE_INDEX for label in sample["labels"])
    visual = sample["visual_tokens"]
    print(f"-- {sample['id']}: {len(sample['labels'])} tokens, {visual} visual, {supervised} supervised")
    for line in sample["skipped"]:
        print(f"-- stands in for {line}")


if __name__ == "__main__":
    main()
