"""A contact sheet: found pictures in one HTML file that fetches nothing and runs no script."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from common.files import write_text
from dataset.image import ImageError, load_image

SIDE = 240  # pixels: 10 KB a picture
STYLE = (
    "body{font:14px system-ui,sans-serif;margin:24px;background:#fafafa;color:#222}"
    "main{display:grid;grid-template-columns:repeat(auto-fill,minmax(240px,1fr));gap:16px}"
    "figure{margin:0;background:#fff;border:1px solid #ddd;border-radius:6px;padding:8px}"
    "img{width:100%;height:200px;object-fit:contain}figcaption{overflow-wrap:anywhere}"
    "@media (prefers-color-scheme:dark){body{background:#181818;color:#ddd}figure{background:#222;border-color:#444}}"
)
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_sheet(output: Path, title: str, found: Sequence[tuple[str, str]], max_pixels: int = 50_000_000) -> None:
    """Write the pictures of ``found``, (path, what is said below it), in their order.

    Raises:
        UserError: the file cannot be written.
    """
    figures = [
        f"<figure>{thumbnail(path, max_pixels)}<figcaption><b>{html.escape(said)}</b><br>{html.escape(path)}"
        "</figcaption></figure>"
        for path, said in found
    ]
    name = html.escape(title)
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    page = f"<!doctype html><html><head>{head}<title>{name}</title><style>{STYLE}</style></head><body><h1>{name}</h1>"
    try:
        write_text(output, f"{page}<main>{''.join(figures)}</main></body></html>\n")
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror or error}") from error


def thumbnail(path: str, max_pixels: int) -> str:
    """An img element, or why there is none."""
    try:
        image = load_image(path, max_pixels)
    except ImageError as error:
        return html.escape(str(error))
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}">'
