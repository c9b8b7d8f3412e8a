"""docs/troubleshooting.md quotes messages that the code still has, and its Chinese twin quotes the same ones."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
PAGES = ("troubleshooting.md", "troubleshooting.zh-CN.md")


def quoted(page: str) -> list[str]:
    """The messages in the first column of the page's tables of messages."""
    text = (REPO / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"^\| (?:CUDA |[^`|]{0,12})`([^`]+)`[^`|]* \| ", text.split("| Windows |")[0], re.MULTILINE)


def messages() -> list[str]:
    """Every text in the code; what is filled in is a NUL."""
    found = []
    tracked = [file for file in REPO.glob("*/**/*.py") if file.relative_to(REPO).parts[0] not in ("tests", ".venv")]
    for file in [*tracked, *REPO.glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.append("".join(v.value if isinstance(v, ast.Constant) else "\0" for v in node.values))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_message_that_is_quoted_is_in_the_code(page):
    pattern = {text: ".*".join(re.escape(part.strip(" ")) for part in text.split("...")) for text in quoted(page)}
    code = messages()
    lost = [text for text, wanted in pattern.items() if not any(re.search(wanted, m, re.DOTALL) for m in code)]
    assert not lost and len(pattern) >= 35


def test_both_pages_quote_the_same_messages():
    assert quoted(PAGES[0]) == quoted(PAGES[1])
