"""Ask a trained model about pictures in a browser.

    python web.py --checkpoint checkpoints/demo

Then open the address that it prints. gradio is optional and wants an older pillow, so it has an environment of its own:

    python3 -m venv .venv-web
    .venv-web/bin/python -m pip install -r requirements-web.txt
    .venv-web/bin/python web.py --checkpoint checkpoints/demo

The page is in window/web/; the model is loaded and asked by answering/, as for ask.py and the window.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from answering.checkpoints import add_checkpoint_arguments, base_overrides, check_overrides, first_choice, open_config
from common.errors import UserError, exit_status
from common.language import system_language
from common.optional import is_installed
from common.text import prepare_console

if TYPE_CHECKING:
    from window.web.model import Model

CHECKPOINTS = Path("checkpoints")
NO_GRADIO = (
    "gradio is not installed here; it has an environment of its own: python3 -m venv .venv-web && "
    ".venv-web/bin/python -m pip install -r requirements-web.txt && .venv-web/bin/python web.py"
)


def main(argv: Sequence[str] | None = None) -> int:
    prepare_console()
    args = parse_arguments(argv)
    return exit_status(lambda: run(args), "", args.lang)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Serve a page to ask a trained model about pictures, for the browsers of this computer.",
        epilog="example: python web.py --checkpoint checkpoints/demo --port 8000 generate.max_new_tokens=100",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="a checkpoint or a run's folder (default: the newest in checkpoints/; the page offers all that are there)",
    )
    parser.add_argument(
        "--port", type=int, metavar="N", help="of http://127.0.0.1:N (default: the first free from 7860)"
    )
    parser.add_argument(
        "--share",
        action="store_true",
        help="also make a public link through gradio's servers: whoever has it can ask, and send pictures here",
    )
    parser.add_argument(
        "--prefixes",
        type=int,
        default=4,
        metavar="N",
        help="for how many conversations what was computed of their pictures is kept in memory (default: %(default)s)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    add_checkpoint_arguments(parser)
    parser.add_argument(
        "--lang", choices=("en", "zh"), default=system_language(), help="of messages here (default: by the locale)"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="a generate. key or data.max_pixels, for every checkpoint"
    )
    args = parser.parse_intermixed_args(argv)
    if args.port is not None and not 1 <= args.port <= 65535:
        parser.error("--port must be from 1 to 65535")
    if args.prefixes < 1:
        parser.error("--prefixes must be at least 1")
    return args


def check(args: argparse.Namespace) -> None:
    """Find mistakes before torch and gradio are imported, which takes seconds."""
    from answering.devices import check_device

    check_overrides(args.overrides)
    check_device(args.device)
    args.overrides += base_overrides(args)
    args.checkpoint = args.checkpoint or first_choice(CHECKPOINTS) or CHECKPOINTS
    open_config(args.checkpoint, args.overrides)
    if not is_installed("gradio"):
        raise UserError(NO_GRADIO)


def run(args: argparse.Namespace) -> None:
    """Check what can be checked without a model, load it, and serve the page until Ctrl-C or SIGTERM."""
    check(args)
    from window.web.model import Model
    from window.web.server import prepare_gradio

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: uploaded files are removed
    with tempfile.TemporaryDirectory(prefix="ask-a-picture-", ignore_cleanup_errors=True) as folder:
        prepare_gradio(folder)
        print(f"loading {args.checkpoint} ...", file=sys.stderr)
        model = Model(args.checkpoint, args.device, args.verify, args.overrides, args.prefixes)
        model.start()
        serve(model, args.port, args.share)


def serve(model: Model, port: int | None, share: bool) -> None:
    from window.web.page import Page
    from window.web.server import served
    from window.web.sessions import Sessions

    sessions = Sessions(model)
    try:
        with served(Page(sessions), port, share) as address:
            print(f"Open {address} in a browser. Ctrl-C ends.", flush=True)
            threading.Event().wait()
    finally:
        sessions.turns.close(timeout=5)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
