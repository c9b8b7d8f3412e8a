"""Conversations as process_image.py writes them."""

from __future__ import annotations

from qwen.tokenizer import IMAGE_TOKEN


def conversation(*turns: tuple[str, str], split: str = "train", **extra) -> dict:
    listed = [{"q": q, "a": [a]} for q, a in turns]
    return {"source": "test", "language": "en", "split": split, "turns": listed, **extra}


def ask(question: str, answer: str) -> tuple[str, str]:
    return f"{IMAGE_TOKEN}\n{question}", answer


CONVERSATIONS = {
    "0": [
        conversation(ask("What color is it?", "red")),
        conversation(ask("What is it?", "a circle"), ("图中有几个图形？", "1"), ("Is it large?", "no")),
        conversation(ask("What color is it?", "red and round")),  # the question again, with another answer
        conversation(ask("Where is it?", "top left")),
    ],
    "1": [conversation(ask("图中有什么？", "一个圆形")), conversation(ask("Is there a star?", "yes"))],
    "2": [conversation(ask("How many?", "2"), ("and now?", "3"))],
}
