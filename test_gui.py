"""A window to ask about a picture. (This is the window, not a test.)

    python test_gui.py [--checkpoint checkpoints/demo] [picture] [generate.num_beams=4]

The window is in window/; the conversation and the thread that answers are in answering/, which does not use Tk.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from answering.checkpoints import add_checkpoint_arguments, base_overrides, is_override
from common.errors import UserError

NO_WINDOW = (
    "error: {reason}; install Tk (Debian and Ubuntu: apt install python3-tk, Fedora: dnf install python3-tkinter, "
    "macOS: brew install python-tk, Windows: tick tcl/tk in Python's installer) or ask on the terminal: "
    'python ask.py --checkpoint {checkpoint} --image {picture} "question"'
)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    try:
        check(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        import tkinter
    except ImportError as error:
        return no_window(f"this Python has no Tk ({error})", args)
    from window.look import sharp_on_windows

    sharp_on_windows()
    try:
        root = tkinter.Tk(className="Ask-a-picture")
    except tkinter.TclError as error:
        return no_window(f"no display to open a window on ({error})", args)
    from window.controller import Window  # once the window is there: this import takes half a second

    can_drop = takes_files(root)
    options = {"can_drop": can_drop, "verify": args.verify, "overrides": args.overrides}
    window = Window(root, args.checkpoint, args.device, args.picture, **options)
    root.mainloop()
    if not window.worker.close(timeout=3):
        sys.stdout.flush()
        os._exit(0)  # still loading: torch aborts if one of its threads outlives the interpreter
    return 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Open a window to ask a trained model about a picture.")
    parser.add_argument(
        "--checkpoint", type=Path, metavar="DIR", help="a checkpoint or a run's folder (default: the newest there is)"
    )
    parser.add_argument("--device", help="cpu, cuda, ... (default: as in the window's settings)")
    add_checkpoint_arguments(parser)
    parser.add_argument(
        "words",
        nargs="*",
        metavar="PICTURE | KEY=VALUE",
        help="a picture to open at once. KEY=VALUE: a generate. key or data.max_pixels",
    )
    args = parser.parse_intermixed_args(argv)
    pictures = [word for word in args.words if not is_override(word)]
    if len(pictures) > 1:
        parser.error(f"one picture; {pictures[1]!r} is a second, and no generate.KEY=VALUE")
    args.picture = pictures[0] if pictures else None
    args.overrides = [word for word in args.words if is_override(word)]
    return args


def check(args: argparse.Namespace) -> None:
    """Raises UserError for an unknown device or a wrong folder. The window says what is wrong with a checkpoint."""
    from answering.devices import check_device

    check_device(args.device)
    args.overrides += base_overrides(args)


def takes_files(root: object) -> bool:
    """Whether files can be dropped on the window: if tkinterdnd2 is installed, and made for this Tcl."""
    try:
        from tkinterdnd2 import TkinterDnD

        TkinterDnD.require(root)
    except (ImportError, RuntimeError):
        return False
    return True


def no_window(reason: str, args: argparse.Namespace) -> int:
    """Say how to get a window, or the same on the terminal; returns the exit status."""
    checkpoint, picture = args.checkpoint or "DIR", args.picture or "FILE"
    print(NO_WINDOW.format(reason=reason, checkpoint=checkpoint, picture=picture), file=sys.stderr)
    return 2


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
