"""The pictures of a conversation as HTML, with the map of an answer over them.

They are small copies inside the page itself (``data:``), so that no file is made for them.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from answering.examples import Example
from answering.heat import heat_ramp, with_heat
from dataset.image import ImageError, load_image
from window.web import limits
from window.web.sessions import Session

if TYPE_CHECKING:
    from answering.attention_map import AttentionMap

SMALL = 160  # pixels on a side of an example, which is shown with half as many
LARGEST = 640  # pixels on a side: 40 KB for a photo, and more than the column is wide
SHOWS = {"tokens": "shows_tokens", "queries": "shows_queries", "cross_attention": "shows_cross_attention"}


def pictures_html(session: Session) -> str:
    """All pictures of a session, with the maps of the shown turn if they are there."""
    turn = session.shown_turn()
    maps: list[AttentionMap | None] = list(session.maps.get(turn, [])) if turn is not None else []
    maps += [None] * (len(session.conversation.images) - len(maps))
    named = zip(session.conversation.images, session.conversation.paths, maps, strict=True)
    figures = [_figure(session, *one) for one in named]
    legend = _legend(session) if any(maps) else ""
    return f'<div class="pictures">{"".join(figures)}</div>{legend}'


def start_html(session: Session, examples: Sequence[Example]) -> str:
    """A button that opens a picture, and one for each example that can be read, before a session has a picture."""
    opening = f'<button class="no-picture">{escape(session.t("drop_here"))}</button>'
    buttons = [
        f'<button data-example="{number}"><img src="{address}" alt="{escape(Path(example.picture).name)}"></button>'
        for number, example in enumerate(examples)
        if (address := _small(example.picture))
    ]
    offered = f'<p>{escape(session.t("examples"))}</p><div class="examples">{"".join(buttons)}</div>'
    return opening + (offered if buttons else "")


@lru_cache(maxsize=64)
def _small(picture: str) -> str:
    """The address of a small copy; "" if the picture cannot be read."""
    try:
        return _address(ImageOps.fit(load_image(picture, limits.MOST_PIXELS), (SMALL, SMALL)))
    except ImageError:
        return ""


def _figure(session: Session, image: Image.Image, name: str, found: AttentionMap | None) -> str:
    scale = LARGEST / max(image.size)  # small ones are enlarged: the outlines of a map are sharp
    copy = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    about = f"{name} · {image.width} × {image.height}"
    if found is not None:
        grid = found.of()  # [G, G]
        copy = with_heat(copy, grid)
        share = f"{100 * float(np.nansum(grid)):.0f} %"
        about = session.t(SHOWS[found.shows], who=session.t("whole_answer"), share=share)
    shown = f'<img src="{_address(copy)}" alt="{escape(name)}">'
    return f"<figure>{shown}<figcaption>{escape(about)}</figcaption></figure>"


def _legend(session: Session) -> str:
    ramp = f'<img src="{_address(heat_ramp(96, 12))}" alt="">'
    return f'<p class="legend">{escape(session.t("less"))} {ramp} {escape(session.t("more"))}</p>'


def _address(image: Image.Image) -> str:
    content = io.BytesIO()
    image.save(content, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"
