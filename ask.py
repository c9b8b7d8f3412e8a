"""Ask a trained model about a picture.

    python ask.py --checkpoint checkpoints/demo --image photo.jpg "What color is the circle?"

prints the answer and nothing else on stdout. Without a question it becomes a conversation about the picture.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from answering.assistant import Assistant
    from answering.conversation import Conversation
    from dataset.prompt import Request


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    try:
        ask(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    return 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Ask a trained model about one picture or several.",
        epilog='example: python ask.py --checkpoint checkpoints/demo --image photo.jpg "What is in the picture?"',
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=Path,
        metavar="DIR",
        help="a checkpoint, or a run's folder (its best checkpoint)",
    )
    parser.add_argument(
        "--image", required=True, action="append", metavar="FILE", help="a picture; may be given several times"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    parser.add_argument("--verify", action="store_true", help="read the base models' files again to check their hashes")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer (default: the run's config)")
    parser.add_argument("question", nargs="?", help="the question; without it, a conversation on the terminal")
    args = parser.parse_args(argv)
    if args.max_new_tokens is not None and args.max_new_tokens < 1:
        parser.error("--max-new-tokens must be at least 1")
    return args


def ask(args: argparse.Namespace) -> None:
    """Check the checkpoint and the pictures, then load the model, which takes seconds, and ask it."""
    from answering.checkpoints import open_config
    from answering.conversation import Conversation
    from answering.devices import check_device

    check_device(args.device)
    open_config(args.checkpoint)
    conversation = Conversation([read_image(path) for path in args.image], args.image)

    from answering.assistant import Assistant
    from model.model import quiet_libraries

    quiet_libraries()
    assistant = Assistant.load(args.checkpoint, args.device, verify=args.verify)
    options = {} if args.max_new_tokens is None else {"max_new_tokens": args.max_new_tokens}
    if args.question is not None:
        print_answer(assistant, conversation.ask(args.question), options)
    else:
        converse(assistant, conversation, options)


def read_image(path: str) -> Image.Image:
    """Raises UserError if the picture cannot be read."""
    from dataset.image import ImageError, load_image

    try:
        return load_image(path)
    except ImageError as error:
        raise UserError(f"{path}: {error}") from error


def print_answer(assistant: Assistant, request: Request, options: dict[str, Any]) -> str:
    """Print the answer: piece by piece on a terminal, whole elsewhere. Returns it."""
    if not sys.stdout.isatty():
        text = "".join(assistant.stream(request, **options)).strip()
        print(text)
        return text
    text = ""
    for piece in assistant.stream(request, **options):
        piece = piece if text else piece.lstrip()
        print(piece, end="", flush=True)
        text += piece
    print()
    return text.strip()


def converse(assistant: Assistant, conversation: Conversation, options: dict[str, Any]) -> None:
    """Answer questions from the terminal until the end of input. The model sees the conversation so far."""
    print("Ask about the picture; an empty line or Ctrl-D ends.", file=sys.stderr)
    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline().strip()
        if not line:
            return
        conversation.answer(print_answer(assistant, conversation.ask(line), options))


if __name__ == "__main__":
    sys.exit(main())
