"""Error messages in Chinese, and the locale's language."""

from __future__ import annotations

import ast
import re

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
            "--box 3:1,2,3,4: no picture 3; there are 2, counted from 1",
            "--box 3:1,2,3,4：没有第 3 张图片；共 2 张，从 1 数起",
        ),
        (
            "--box: boxes on pictures 1 and 2; a question is about boxes of one picture",
            "--box：框在图片 1 和图片 2 上；一个问题只能问一张图片上的框",
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
        (
            "command line: generate.min_new_tokens = 9: expected at most generate.max_new_tokens (8)",
            "命令行：generate.min_new_tokens = 9：应为不超过 generate.max_new_tokens（8）的数",
        ),
        ("part 2: a box that cannot be used (turn with an empty box dropped)", "第 2 部分：框无法使用（空的框）"),
        (
            "vision.path = a/b: half a download in the hub's cache: b lacks 2 of 3 weight files, c first; download the "
            "rest, and HF_HUB_OFFLINE is set; run `hf download a/b` where there is a network, then set vision.path=c",
            "vision.path = a/b：hub 的缓存里只有一半：b 的 3 个权重文件缺少 2 个，第一个是 c；请下载其余的，"
            "设置了 HF_HUB_OFFLINE；请在有网络的地方运行 `hf download a/b`，然后设置 vision.path=c",
        ),
        ("something new", "出错了，原文是：something new"),
        ("图.png: something new", "出错了，原文是：图.png: something new"),
        ("无法打开 a.png：文件不存在", "无法打开 a.png：文件不存在"),
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


# What a person who asks can be refused with, and how many reasons each file has at least. Messages that only begin
# others, such as "{file}: {reason}", are covered by these parts.
ASKING = {"dataset/image.py": 8, "dataset/video.py": 6, "ask.py": 1, "common/hub.py": 10, "model/checkpoint.py": 1}
ASKING |= {"model/manifest.py": 1, "answering/conversation.py": 4, "answering/drawing.py": 3}
ASKING |= {f"answering/{name}.py": 1 for name in ("assistant", "baseline", "checkpoints", "devices")}
ONLY_PARTS = (
    *("7: 7", "7 = 7: 7", "7 = 7: 7, 7; 7", "7 = 7: 7, and 7; 7", "--box 7: 7", "--video 7: 7", "7; 7"),
    *("7 7 7 tensors, 7 first; was another base model used?", "7: 7 is 7; was another base model used?"),
    "7: 7 7 7 tensors, 7 first; is the download complete, and its config.json the one that belongs to it?",
)


@pytest.mark.parametrize(("file", "least"), ASKING.items())
def test_every_reason_why_a_question_is_refused_is_in_the_table(file, least):
    tree = ast.parse((REPO / file).read_text(encoding="utf-8"))
    classes = ("ImageError", "UserError", "Damaged")
    raised = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) in classes]
    texts = [text for call in raised for text in _branches(call.args[0]) if text not in ONLY_PARTS]
    assert len(texts) >= least
    for text in texts:
        chinese = in_chinese(text)
        assert "原文" not in chinese, text
        assert not re.search(r"\b(is|are|not|the|for|expected|cannot|with|which)\b", chinese), text


def test_every_reason_why_a_generate_key_is_refused_is_in_the_table():
    for field in Generate.model_fields.values():
        assert field.description in MESSAGES
