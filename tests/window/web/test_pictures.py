"""The pictures as HTML: small copies inside the page, maps over them, and nothing of a file's name is markup."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
from PIL import Image

from answering.attention_map import AttentionMap
from answering.conversation import Conversation
from answering.heat import with_heat
from tests.helpers.tiny import picture
from window.web.pictures import LARGEST, pictures_html
from window.web.sessions import Session


def session_of(*names: str) -> Session:
    session = Session("checkpoint")
    session.conversation = Conversation([picture("blue") for _ in names], list(names))
    return session


def shown(html: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/webp;base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB") for one in found]


def test_each_picture_has_its_name_and_size():
    html = pictures_html(session_of("a.png", "b.png"))
    assert "a.png · 30 × 60" in html and "b.png · 30 × 60" in html
    assert [image.size for image in shown(html)] == [(LARGEST // 2, LARGEST)] * 2


def test_a_name_is_text():
    html = pictures_html(session_of("\"><img src=x onerror='alert(1)'>.png"))
    assert "<img src=x" not in html and "onerror='" not in html and html.count("&lt;img src=x") == 2


def test_the_shown_answers_map_is_over_each_picture_with_what_it_measures():
    session = session_of("a.png", "b.png")
    session.conversation.ask("What?")
    session.conversation.answer("blue")
    grids = [np.array([[[np.nan, 0.1], [0.1, 0.2]]], dtype=np.float32), np.zeros((1, 2, 2), dtype=np.float32)]
    session.maps[0] = [AttentionMap("blue", [(0, 4)], grid) for grid in grids]
    assert "Whole answer" not in pictures_html(session)
    session.looks = True
    html = pictures_html(session)
    assert "Whole answer: 40 % of its attention is on the picture" in html and "Whole answer: 0 %" in html
    first, _, legend = shown(html)
    wanted = with_heat(picture("blue").resize(first.size), grids[0][0])
    assert np.abs(np.array(first).astype(int) - np.array(wanted)).mean() < 6  # WebP is not lossless
    assert legend.width > legend.height and "less" in html
    session.language = "zh"
    assert "整个回答：40 % 的注意力在图片上" in pictures_html(session)
