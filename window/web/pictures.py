"""The pictures of a conversation as HTML, with the map of an answer over them.

They are small copies inside the page itself (``data:``), so that no file is made for them.
"""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from answering.heat import heat_ramp, with_heat
from window.web.sessions import Session

if TYPE_CHECKING:
    from answering.attention_map import AttentionMap

LARGEST = 640  # pixels on a side: 40 KB for a photo, and more than the column is wide
SHOWS = {"tokens": "shows_tokens", "queries": "shows_queries", "cross_attention": "shows_cross_attention"}


def pictures_html(session: Session) -> str:
    """All pictures of a session, with the maps of the shown turn if they are there."""
    if not session.conversation.images:
        return f'<div class="no-picture">{escape(session.t("drop_here"))}</div>'
    turn = session.shown_turn()
    maps: list[AttentionMap | None] = list(session.maps.get(turn, [])) if turn is not None else []
    maps += [None] * (len(session.conversation.images) - len(maps))
    named = zip(session.conversation.images, session.conversation.paths, maps, strict=True)
    figures = [_figure(session, *one) for one in named]
    legend = _legend(session) if any(maps) else ""
    return f'<div class="pictures">{"".join(figures)}</div>{legend}'


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
