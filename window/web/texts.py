"""The texts of the page that the window does not have; the others are the window's. English and Chinese."""

from __future__ import annotations

from window.texts import TEXTS as WINDOW

LANGUAGES = {"en": "English", "zh": "中文"}

TEXTS = {
    "en": {
        "type_here": "Add a picture, then ask about it.",
        "ask_more": "Ask about the picture.",
        "empty": "Add a picture with the paper clip, drop it on the line, or paste it. Then ask about it.",
        "examples": "Or take one of these:",
        "not_loaded": "{name}, which is loaded when it has a question",
        "picture_first": "Add a picture first: with the paper clip, by dropping it on the line, or by pasting it.",
        "pictures_read": "Ask about the picture, or choose one of the questions.",
        "about": "From here on it is about {names}.",
        "waiting": "Your question waits for its turn; before it: {before}.",
        "busy": "Your last question is still being answered; stop it first.",
        "checkpoint_gone": "This checkpoint is no longer there; choose another one.",
        "too_large": "{name} has {size} MB; a file may have {limit} MB.",
        "too_many": "These are {count} pictures; a conversation may have {limit}.",
        "too_long": "The question has {count} characters; {limit} are allowed.",
        "no_room": "The pictures have {pixels:,} pixels together; {limit:,} are allowed.",
        "model": "Model",
        "settings_short": "Model and settings",
    },
    "zh": {
        "type_here": "请先添加图片，再提问。",
        "ask_more": "就图片提问。",
        "empty": "点击回形针添加图片，或把图片拖到、粘贴到输入框，然后提问。",
        "examples": "也可以用下面的图片：",
        "not_loaded": "{name}，提问时加载",
        "picture_first": "请先添加图片：点击回形针，或把图片拖到、粘贴到输入框。",
        "pictures_read": "请就图片提问，或点选一个问题。",
        "about": "以下是关于 {names} 的对话。",
        "waiting": "您的问题正在排队，前面还有 {before} 个。",
        "busy": "上一个问题还在回答；请先停止。",
        "checkpoint_gone": "该检查点已不存在，请选择其他检查点。",
        "too_large": "{name} 有 {size} MB，单个文件不能超过 {limit} MB。",
        "too_many": "共 {count} 张图片，一个对话最多 {limit} 张。",
        "too_long": "问题有 {count} 个字符，最多允许 {limit} 个。",
        "no_room": "图片共有 {pixels:,} 像素，最多允许 {limit:,} 像素。",
        "model": "模型",
        "settings_short": "模型与设置",
    },
}


def text(language: str, key: str, **values: object) -> str:
    """The text ``key`` with ``values`` filled in."""
    texts = TEXTS[language] if key in TEXTS[language] else WINDOW[language]
    return texts[key].format(**values)


def preferred(header: str) -> str:
    """The language of a browser by its Accept-Language header, such as "zh-CN,zh;q=0.9,en;q=0.8": "en" or "zh"."""
    wanted = []
    for position, part in enumerate(header.lower().split(",")):
        name, _, quality = part.strip().partition(";q=")
        try:
            wanted.append((-float(quality or 1), position, name[:2]))
        except ValueError:
            continue
    return next((name for _, _, name in sorted(wanted) if name in LANGUAGES), "en")
