"""The page: content from outside cannot become markup or script, and the file needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.html.page import PARTS, SCRIPTS, json_for_html, render
from evaluation.html.texts import TEXTS

HOSTILE = (
    "</script>", "<script>alert(1)</script>", "<!--", "<!--<script>", "-->", "]]>", "{{script}}", "{{content}}",
    "\\u003c", "<img src=x onerror=alert(1)>", "&lt;", "&#60;", "'\"`", "\u2028", "\u2029", "\ud800", "\udfff", "\x00",
    "\u202e", "\\", "javascript:alert(1)", "%3Cscript%3E", "${alert(1)}", "\r\n", "</SCRIPT\t>", "</title>", "</style>",
)  # fmt: skip
texts = st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(), max_size=8)), max_size=8).map("".join)


def joined(text: str) -> str:
    """The text with two halves of a surrogate pair that follow each other as the one character that they make."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text of the scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.scripts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.elements and self.elements[-1][0] == "script" and self.cdata_elem == "script":
            self.scripts[-1] += data


@settings(max_examples=200, deadline=None)
@given(texts)
def test_json_from_outside_comes_back_as_it_was_and_holds_nothing_that_ends_a_script(text):
    written = json_for_html({text: [text]})
    assert json.loads(written) == {joined(text): [joined(text)]}
    assert not re.search("[<>&\u2028\u2029]", written)
    written.encode("utf-8")  # half a surrogate pair could not


@settings(max_examples=50, deadline=None)
@given(texts)
def test_a_hostile_question_leaves_the_elements_of_the_page_as_they_are(text):
    plain, hostile = Elements(render({"q": ""})), Elements(render({"q": text}))
    assert hostile.elements == plain.elements
    assert json.loads(hostile.scripts[0]) == {"q": joined(text)}
    assert hostile.scripts[1] == plain.scripts[1]


def test_only_the_pages_own_script_and_style_may_run_and_nothing_is_fetched():
    page = Elements(render({}))
    (policy,) = (a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-") and "unsafe" not in policy
    fetching = {"src", "href", "action", "data", "poster", "srcset", "background"}
    assert not [element for element in page.elements if fetching & element[1].keys()]
    assert not [a for _, a in page.elements if any(key.startswith("on") or key == "style" for key in a)]


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scripts_write_text_and_never_markup(name):
    script = (PARTS / name).read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", script)
    assert not re.search(r"fetch\(|XMLHttpRequest|WebSocket|sendBeacon|import\(", script)


def test_the_same_content_gives_the_same_bytes_and_infinity_is_refused():
    assert render({"a": [1, "é"]}) == render({"a": [1, "é"]})
    with pytest.raises(ValueError, match="JSON compliant"):
        render({"a": float("inf")})


def test_both_languages_have_every_text_with_the_same_names_in_braces():
    assert TEXTS["en"].keys() == TEXTS["zh"].keys()
    for key, english in TEXTS["en"].items():
        assert set(re.findall(r"\{\w+\}", english)) == set(re.findall(r"\{\w+\}", TEXTS["zh"][key])), key


def test_every_text_that_the_scripts_ask_for_exists():
    scripts = "".join((PARTS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    asked = set(re.findall(r'\bt\("(\w+)"', scripts)) | set(re.findall(r'"(key_\w+)"', scripts))
    assert len(asked) > 50 and asked <= TEXTS["en"].keys()
