"""Asking a checkpoint: batched as alone, streamed as whole, stopped when asked, and ask.py around it."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch

from conversation import Request, question_with_images
from dataset.prompt import IMAGE_TOKEN, Turn
from settings import UserError
from tests.tiny import REPO, picture


def requests() -> list[Request]:
    long_history = [Turn(question_with_images("What is it?", 1), "a red circle"), Turn("and where is the other one?")]
    return [
        Request([Turn(question_with_images("What color?", 1))], [picture("red")]),
        Request(long_history, [picture("blue")]),
        Request([Turn("no picture at all")], []),
        Request([Turn(question_with_images("which?", 2))], [picture("green"), picture("black")]),
    ]


def test_a_batch_gives_the_answers_of_single_calls(assistant):
    together = assistant.answer(requests())
    assert together == [assistant.answer([request])[0] for request in requests()]
    assert len(set(together)) > 1  # not one answer to everything


def test_the_picture_changes_the_answers_distribution(assistant):
    red, blue = (
        assistant.encode([Request([Turn(question_with_images("What?", 1))], [picture(c)])]) for c in ("red", "blue")
    )
    logits = [assistant.model(**inputs).logits[0, -1] for inputs in (red, blue)]
    assert (logits[0] - logits[1]).abs().max() > 0.1


def test_streamed_pieces_are_the_whole_answer(assistant):
    for request in requests():
        assert "".join(assistant.stream(request)).strip() == assistant.answer([request])[0]


def test_stop_ends_the_answer_within_a_token(assistant):
    stop = threading.Event()
    assistant.model.language.generation_config.eos_token_id = None
    steps = []
    assistant.model.language.base_model.model.lm_head.register_forward_hook(lambda *_: steps.append(1))
    pieces = assistant.stream(requests()[0], stop, max_new_tokens=100)
    next(pieces)
    stop.set()
    list(pieces)
    assert len(steps) < 100
    assert not any(t.name.startswith("Thread-") and t.is_alive() and t.daemon for t in threading.enumerate())


def test_an_error_in_the_model_reaches_the_reader(assistant):
    def broken(*args, **kwargs):
        raise RuntimeError("out of something")

    assistant.model.generate = broken
    with pytest.raises(RuntimeError, match="out of something"):
        list(assistant.stream(requests()[0]))


def test_typed_control_tokens_are_defused(assistant):
    question = question_with_images("<|im_end|> <image> <|extra_0|>", 1)
    assert question == IMAGE_TOKEN + "\n<| im_end |> < image > <| extra_0 |>"
    assistant.answer([Request([Turn(question)], [picture("red")])], max_new_tokens=1)


def test_images_and_places_must_agree(assistant):
    with pytest.raises(UserError, match="places for 1 images, but 2"):
        assistant.answer([Request([Turn(question_with_images("a", 1))], [picture("red"), picture("blue")])])


def test_a_long_conversation_forgets_its_oldest_turns_and_keeps_the_picture(assistant):
    turns = [Turn(question_with_images("first", 1), "yes " * 20)]
    turns += [Turn(f"question {i}", "yes " * 20) for i in range(30)] + [Turn("last")]
    inputs = assistant.encode([Request(turns, [picture("red")])])
    text = assistant.tokenizer.decode(inputs["input_ids"][0])
    assert inputs["input_ids"].shape[1] <= 256 - 8
    assert text.count(IMAGE_TOKEN) == 8 and "first" not in text and "last" in text


def test_the_placeholder_is_never_generated(assistant):
    head = assistant.model.language.get_base_model().lm_head.weight
    with torch.no_grad():
        head[assistant.model.language.get_base_model().image_token_id] = head.abs().max() * 100 * torch.ones(32)
    ids = assistant.model.generate(**assistant.encode(requests()[:1]), max_new_tokens=5)
    assert assistant.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) not in ids[0].tolist()


# ---------------------------------------------------------------------------------------------- ask.py


def ask(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, "ask.py", *map(str, arguments)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, encoding="utf-8", input=stdin)


def test_ask_prints_the_answer_and_nothing_else(checkpoint, assistant, tmp_path):
    picture("red").save(tmp_path / "red.png")
    done = ask("--checkpoint", checkpoint.parent, "--image", tmp_path / "red.png", "What color?")
    (wanted,) = assistant.answer(requests()[:1])
    assert done.returncode == 0 and done.stdout == wanted + "\n", done.stderr


def test_ask_without_a_question_is_a_conversation(checkpoint, assistant, tmp_path):
    picture("red").save(tmp_path / "red.png")
    done = ask("--checkpoint", checkpoint, "--image", tmp_path / "red.png", stdin="What color?\nand now?\n")
    first, image = question_with_images("What color?", 1), [picture("red")]
    (one,) = assistant.answer([Request([Turn(first)], image)])
    (two,) = assistant.answer([Request([Turn(first, one), Turn("and now?")], image)])
    assert done.returncode == 0 and done.stdout == f"{one}\n{two}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "{checkpoint}", "--image", "nowhere.png", "x"], "nowhere.png: "),
        (["--checkpoint", "{checkpoint}", "--image", "README.md", "x"], "README.md: "),
        (["--checkpoint", "no/such/folder", "--image", "{picture}", "x"], "no checkpoint at no"),
        (["--checkpoint", "{checkpoint}", "--image", "{picture}", "--device", "moon", "x"], "'moon' is not known"),
    ],
)
def test_ask_says_in_one_line_what_is_wrong(checkpoint, tmp_path, arguments, message):
    picture("red").save(tmp_path / "red.png")
    done = ask(*(a.format(checkpoint=checkpoint, picture=tmp_path / "red.png") for a in arguments))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and message in done.stderr and len(done.stderr.splitlines()) == 1
