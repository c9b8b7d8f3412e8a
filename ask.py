"""Ask a trained model about a picture.

    python ask.py --checkpoint checkpoints/demo --image photo.jpg "What color is the circle?"

prints the answer and nothing else on stdout. Without a question it becomes a conversation about the picture.
"""

from __future__ import annotations

import argparse
import sys

from answering.assistant import Assistant
from answering.conversation import Conversation
from common.errors import UserError
from dataset.image import ImageError, load_image
from dataset.prompt import Request
from model.model import quiet_libraries


def main() -> int:
    args = parse_arguments()
    quiet_libraries()
    try:
        conversation = Conversation([read_image(path) for path in args.image], args.image)
        assistant = Assistant.load(args.checkpoint, args.device)
        options = {} if args.max_new_tokens is None else {"max_new_tokens": args.max_new_tokens}
        if args.question is not None:
            say(assistant, conversation.ask(args.question), options)
        else:
            converse(assistant, conversation, options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Ask a trained model about one picture or several.",
        epilog='example: python ask.py --checkpoint checkpoints/demo --image photo.jpg "What is in the picture?"',
    )
    parser.add_argument(
        "--checkpoint", required=True, metavar="DIR", help="a checkpoint, or a run's folder (its best checkpoint)"
    )
    parser.add_argument(
        "--image", required=True, action="append", metavar="FILE", help="a picture; may be given several times"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda where there is one)")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer (default: the run's config)")
    parser.add_argument("question", nargs="?", help="the question; without it, a conversation on the terminal")
    args = parser.parse_args()
    if args.max_new_tokens is not None and args.max_new_tokens < 1:
        parser.error("--max-new-tokens must be at least 1")
    return args


def read_image(path: str):
    try:
        return load_image(path)
    except ImageError as error:
        raise UserError(f"{path}: {error}") from error


def say(assistant: Assistant, request: Request, options: dict) -> str:
    """Print the answer: piece by piece on a terminal, whole elsewhere."""
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


def converse(assistant: Assistant, conversation: Conversation, options: dict) -> None:
    """Questions from the terminal until end of input; the model sees what was said before."""
    print("Ask about the picture; an empty line or Ctrl-D ends.", file=sys.stderr)
    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline().strip()
        if not line:
            return
        conversation.answer(say(assistant, conversation.ask(line), options))


if __name__ == "__main__":
    sys.exit(main())
