"""A window to ask about a picture. (The name is the project's; it is not a test.)

    python test_gui.py [--checkpoint checkpoints/demo] [picture]

The window is in window/; what it asks and how is in answering/conversation.py, which knows nothing of Tk.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

NO_WINDOW = (
    "error: {reason}; install Tk (Debian and Ubuntu: apt install python3-tk, Fedora: dnf install python3-tkinter, "
    "macOS: brew install python-tk, Windows: tick tcl/tk in Python's installer) or ask on the terminal: "
    'python ask.py --checkpoint {checkpoint} --image {picture} "question"'
)


def main() -> int:
    args = parse_arguments()
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
    from window.app import Window  # with the window already there: it takes half a second

    window = Window(root, args.checkpoint, args.device, args.picture, can_drop=takes_files(root))
    root.mainloop()
    if not window.worker.close(timeout=3):
        sys.stdout.flush()
        os._exit(0)  # in the middle of loading; torch aborts where a thread of its own outlives the interpreter
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Open a window to ask a trained model about a picture.")
    parser.add_argument(
        "--checkpoint", type=Path, metavar="DIR", help="a checkpoint or a run's folder (default: the newest there is)"
    )
    parser.add_argument("--device", help="cpu, cuda, ... (default: as in the window's settings)")
    parser.add_argument("picture", nargs="?", help="a picture to open at once")
    return parser.parse_args()


def takes_files(root) -> bool:
    """Whether files can be dropped on the window: where tkinterdnd2 is installed, and made for this Tcl."""
    try:
        from tkinterdnd2 import TkinterDnD

        TkinterDnD.require(root)
    except (ImportError, RuntimeError):
        return False
    return True


def no_window(reason: str, args: argparse.Namespace) -> int:
    print(
        NO_WINDOW.format(reason=reason, checkpoint=args.checkpoint or "DIR", picture=args.picture or "FILE"),
        file=sys.stderr,
    )
    return 2


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
