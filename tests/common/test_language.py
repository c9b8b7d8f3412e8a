"""Error messages in Chinese, and the locale's language."""

from __future__ import annotations

import ast

import pytest

from common.language import MESSAGES, in_chinese, system_language
from settings import Generate
from tests.helpers.tiny import REPO


@pytest.mark.parametrize(("name", "language"), [("zh_CN.UTF-8", "zh"), ("en_GB.UTF-8", "en"), ("C.UTF-8", "en")])
def test_the_language_is_the_locales(monkeypatch, name, language):
    monkeypatch.setenv("LC_ALL", name)
    assert system_language() == language


@pytest.mark.parametrize(
    ("message", "chinese"),
    [
        ("missing", "文件不存在"),
        ("nofile.png: missing", "nofile.png：文件不存在"),
        ("C: D/a: b.png: not a file", "C: D/a: b.png：不是文件"),
        ("too large: 9 x 8 pixels, limit 50 in all", "太大：9 × 8 像素，上限为 50 像素"),
        ("talk.json: cannot be read (Permission denied)", "talk.json：无法读取（没有权限）"),
        (
            "command line: generate.top_p = 3: expected a number above 0, at most 1",
            "命令行：generate.top_p = 3：应为大于 0 且不超过 1 的数",
        ),
        ("something new", "出错了，原文是：something new"),
    ],
)
def test_a_message_is_whole_in_chinese_and_its_parts_too(message, chinese):
    assert in_chinese(message) == chinese


def _branches(node: ast.expr) -> list[str]:
    """The texts that an expression can be, with 7 for each part that differs; no variable."""
    if isinstance(node, ast.IfExp):
        return _branches(node.body) + _branches(node.orelse)
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.JoinedStr):
        return ["".join(part.value if isinstance(part, ast.Constant) else "7" for part in node.values)]
    return []


def test_every_reason_why_a_picture_or_a_generate_key_is_refused_is_in_the_table():
    tree = ast.parse((REPO / "dataset/image.py").read_text(encoding="utf-8"))
    raised = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "ImageError"]
    texts = [text for call in raised for text in _branches(call.args[0])]
    assert len(texts) >= 8
    for text in texts:
        assert "原文" not in in_chinese(text), text
    for field in Generate.model_fields.values():
        assert field.description in MESSAGES
