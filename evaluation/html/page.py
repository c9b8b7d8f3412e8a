"""The page: template, style, scripts and content in one file that fetches nothing and runs nothing but its own scripts.

Questions, answers and file names come from outside. They reach the page as JSON in a script element that is not a
script (``application/json``), with every character escaped that could end the element. The scripts write them with
``textContent`` only. The content security policy names the hashes of the style and the script: a browser runs no other.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from common.errors import UserError
from common.files import write_text

PARTS = Path(__file__).resolve().parent
SCRIPTS = ("dom.js", "scores.js", "questions.js", "page.js")  # in this order: one script, one scope

# What could end a script element or start a comment in it; U+2028 and U+2029 end a line in JavaScript before 2019; half
# a surrogate pair (from a broken file name) cannot be written as UTF-8.
_UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


def render(content: Mapping) -> str:
    """The whole page as HTML. The same content gives the same bytes.

    Raises:
        ValueError: the content holds a number that JSON does not have (infinity, NaN).
    """
    script = "\n".join(_read(name) for name in SCRIPTS)
    style = _read("page.css")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {"policy": policy, "style": style, "script": script, "content": json_for_html(content)}
    # In one pass: a question that says "{{script}}" stays a question.
    return re.sub(r"\{\{(policy|style|script|content)\}\}", lambda match: parts[match[1]], _read("page.html"))


def write_page(content: Mapping, file: Path) -> Path:
    """Write the page and return its path. Raises UserError if that fails."""
    try:
        write_text(file, render(content))
    except OSError as error:
        raise UserError(f"{file}: cannot be written: {error.strerror or error}") from error
    return file


def json_for_html(content: object) -> str:
    """JSON that can stand in a script element: it holds no ``<``, ``>`` or ``&``, and every character is valid."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _read(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """A source of a content security policy that allows an inline element with this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
