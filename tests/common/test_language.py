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
        (
            "--box 1,2,1,4: an empty box; the picture has 8 x 6 pixels",
            "--box 1,2,1,4：空的框；图片为 8 × 6 像素",
        ),
        (
            "--video a.mp4: cannot be decoded as a video: Invalid data found when processing input",
            "--video a.mp4：无法作为视频解码（数据无效）",
        ),
        (
            "--box 1,2: expected left,top,right,bottom in pixels, such as 120,80,300,260",
            "--box 1,2：应为以像素表示的 左,上,右,下，例如 120,80,300,260",
        ),
        ("--draw a.txt: expected a name that ends in .png, .jpg", "--draw a.txt：文件名应以 .png, .jpg 之一结尾"),
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


@pytest.mark.parametrize(("file", "least"), [("dataset/image.py", 8), ("dataset/video.py", 6)])
def test_every_reason_why_a_picture_or_a_video_is_refused_is_in_the_table(file, least):
    tree = ast.parse((REPO / file).read_text(encoding="utf-8"))
    raised = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "ImageError"]
    texts = [text for call in raised for text in _branches(call.args[0])]
    assert len(texts) >= least
    for text in texts:
        assert "原文" not in in_chinese(text), text


def test_every_reason_why_a_generate_key_is_refused_is_in_the_table():
    for field in Generate.model_fields.values():
        assert field.description in MESSAGES
