"""What is in the clipboard or was dropped: a picture, or the path or address of a file. Without Tk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageGrab

from common.errors import UserError
from dataset.image import load_image


def files_in(copied: str) -> list[str]:
    """The files that a copied text names, one a line, by path or as file://; [] if a line is no file."""
    lines = [
        line for line in copied.strip().splitlines() if line not in ("copy", "cut", "x-special/nautilus-clipboard")
    ]
    paths = [local_path(line) for line in lines]
    try:
        return paths if all(path and Path(path).is_file() for path in paths) else []
    except (OSError, ValueError):  # not the name of a file
        return []


def local_path(name: str) -> str:
    """A file's path; a file manager or a browser may name it as file://."""
    if not name.startswith("file://"):
        return name
    from urllib.request import url2pathname  # it imports http and ssl, which the window would wait for

    return url2pathname("/" + name.removeprefix("file://").partition("/")[2])  # it begins with a host or nothing


def clipboard_picture(t: Callable[..., str], said: Callable[[str], str], max_pixels: int) -> tuple[str, Image.Image]:
    """A name for the picture in the system's clipboard, and the picture.

    ``t`` gives the window's texts, ``said`` an error's message in the window's language; ``max_pixels`` is the largest
    width times height of a file.

    Raises:
        UserError: there is none, or this system does not give access to it.
        ImageError: it is a file that cannot be read.
    """
    try:
        found = ImageGrab.grabclipboard()
    except (NotImplementedError, OSError, ChildProcessError) as error:  # it needs xclip on X11, wl-paste on Wayland
        raise UserError(t("cannot_paste", reason=said(str(error)))) from error
    if isinstance(found, list) and found:
        return str(Path(found[0]).resolve()), load_image(found[0], max_pixels)
    if not isinstance(found, Image.Image):
        raise UserError(t("no_picture_in_clipboard"))
    return t("clipboard"), found.convert("RGB")
