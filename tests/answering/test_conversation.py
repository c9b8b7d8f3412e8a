"""Asking a checkpoint: batched as alone, streamed as whole, stopped when asked, and ask.py around it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from transformers import StaticCache

from answering import prefix_cache as answering
from answering.conversation import Conversation
from answering.prefix_cache import prefill
from common.errors import UserError
from dataset.image import prepare_image
from dataset.prompt import Request, Turn, neutralise, question_with_images
from model.adapters import base_of
from qwen.tokenizer import IMAGE_TOKEN
from tests.helpers.tiny import REPO, never_ends, picture


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
    assert len(set(together)) == 4  # not one answer to everything


def reference_answers(assistant, requests: list[Request], **overrides) -> list[str]:
    """One by one, the whole prompt and its pictures computed anew: no prefix, no batch, no cache kept."""
    answers = []
    for request in requests:
        prompt = torch.tensor([assistant._prompt(request)])
        pixels = [prepare_image(image, assistant.image_processor) for image in request.images]
        ids = assistant.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            pixel_values=torch.stack(pixels) if pixels else None,
            images_per_row=torch.tensor([len(pixels)]),
            **assistant.generation(overrides),
        )
        answers.append(assistant.tokenizer.decode(ids[0], skip_special_tokens=True).strip())
    return answers


def count_pictures(assistant) -> list[int]:
    """Grows by the number of pictures whenever the tower runs."""
    seen: list[int] = []
    assistant.model.vision.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    return seen


def test_answers_on_a_shared_prefix_equal_those_without_it(assistant):
    red, blue = picture("red"), picture("blue")
    questions = ["What color?", "and how many of them are there?", "哪里?"]
    asked = [Request([Turn(question_with_images(q, 1))], [image]) for q in questions for image in (red, blue)]
    asked += requests()
    wanted = reference_answers(assistant, asked, max_new_tokens=12)
    seen = count_pictures(assistant)
    assert assistant.answer(asked, max_new_tokens=12) == wanted and len(set(wanted)) > 3
    assert sum(seen) == 2 + 4  # one per picture shown, not one per question


def test_one_row_of_logits_is_computed_for_each_new_token(assistant):
    never_ends(assistant)
    rows: list[int] = []
    base_of(assistant.model.language).lm_head.register_forward_hook(lambda m, a, output: rows.append(output.shape[1]))
    assistant.answer(requests(), max_new_tokens=3)
    list(assistant.stream(requests()[0], max_new_tokens=3))
    assert rows == [1, 1, 1, 1] * 2  # one for the picture, whose logits nobody reads, and three tokens


def test_the_same_question_once_more_leaves_one_token_to_compute(assistant):
    request = Request([Turn(question_with_images("What is it?", 1))], [picture("red")])
    prompt, lengths = assistant._prompt(request), []
    first = "".join(assistant.stream(request))
    trunk = base_of(assistant.model.language).model
    trunk.layers[0].register_forward_hook(lambda m, args, output: lengths.append(args[0].shape[1]))
    assert "".join(assistant.stream(request)) == first and set(lengths) == {1}
    ids, cache = assistant._kept[1].ids, assistant._kept[1].cache
    assert ids[: len(prompt)] == prompt and len(ids) == cache.get_seq_length() == len(prompt) + len(lengths) - 1


def test_the_picture_changes_what_is_computed(assistant):
    prompt = torch.tensor([assistant._prompt(Request([Turn(IMAGE_TOKEN)], [picture("red")]))])
    caches = [
        prefill(assistant.model, prompt, torch.ones_like(prompt), [assistant._pixels([picture(color)])])
        for color in ("red", "blue")
    ]
    keys = [cache.layers[-1].keys[:, :, -1] for cache in caches]  # of the token after the picture
    assert (keys[0] - keys[1]).abs().max() > 0.01


@pytest.fixture
def asking(assistant, request, monkeypatch):
    """The assistant as it is, or with the static cache that it decodes into on CUDA where compiling is asked for."""
    if request.param == "static":
        monkeypatch.setattr(type(assistant), "compiles", True)
    return assistant


BOTH_CACHES = pytest.mark.parametrize("asking", ["dynamic", "static"], indirect=True)


@BOTH_CACHES
@pytest.mark.parametrize("stopped", [False, True])
def test_a_follow_up_question_computes_neither_the_picture_nor_the_history_again(asking, stopped):
    assistant = asking
    image = picture("red")
    first = Request([Turn(question_with_images("What is it?", 1))], [image])
    pieces = []
    for piece in assistant.stream(first, max_new_tokens=6):
        pieces.append(piece)
        if stopped:
            break
    history = Turn(first.turns[0].question, "".join(pieces).strip())
    follow_up = Request([history, Turn("and where?")], [image])
    (wanted,) = reference_answers(assistant, [follow_up], max_new_tokens=8)
    seen, computed = count_pictures(assistant), []
    trunk = base_of(assistant.model.language).model
    trunk.layers[0].register_forward_hook(lambda m, args, output: computed.append(args[0].shape[1]))
    assert "".join(assistant.stream(follow_up, max_new_tokens=8)).strip() == wanted
    assert seen == [] and sum(computed) < len(assistant._prompt(follow_up)) - 8


@BOTH_CACHES
def test_another_picture_or_an_edited_history_is_computed_anew(asking):
    assistant = asking
    red, blue = picture("red"), picture("blue")
    list(assistant.stream(Request([Turn(question_with_images("What is it?", 1))], [red])))
    for turns, image in (
        ([Turn(question_with_images("What is it?", 1))], blue),
        ([Turn(question_with_images("What was that?", 1), "a star"), Turn("sure?")], blue),
        ([Turn("before the picture", "yes"), Turn(question_with_images("and now?", 1))], blue),
    ):
        request = Request(turns, [image])
        assert "".join(assistant.stream(request)).strip() == reference_answers(assistant, [request])[0]


@pytest.mark.parametrize("asking", ["static"], indirect=True)
def test_a_static_cache_keeps_its_memory_and_grows_only_when_it_must(asking, monkeypatch):
    monkeypatch.setattr(answering, "ROOM", 64)
    red, places = picture("red"), []
    turns = [Turn(question_with_images("What is it?", 1))]
    for image, new in ((red, 4), (picture("blue"), 4), (red, 200)):
        request = Request(turns, [image])
        streamed = "".join(asking.stream(request, max_new_tokens=new)).strip()
        assert streamed == reference_answers(asking, [request], max_new_tokens=new)[0]
        cache = asking._kept[1].cache
        assert isinstance(cache, StaticCache) and cache.layers[0].max_cache_len % 64 == 0
        places.append(cache.layers[0].keys.data_ptr())
    assert places[0] == places[1] != places[2]


def test_only_cuda_compiles(assistant):
    assistant.config.generate.compile = True
    assert not assistant.compiles


def test_streamed_pieces_are_the_whole_answer(assistant):
    for request in requests():
        assert "".join(assistant.stream(request)).strip() == assistant.answer([request])[0]


def test_stop_ends_the_answer_within_a_token(assistant):
    stop, before = threading.Event(), set(threading.enumerate())
    never_ends(assistant)
    steps = []
    base_of(assistant.model.language).lm_head.register_forward_hook(lambda *_: steps.append(1))
    pieces = assistant.stream(requests()[0], stop, max_new_tokens=3000)
    next(pieces)
    stop.set()
    at_stop = len(steps)
    list(pieces)
    assert len(steps) <= at_stop + 1
    assert set(threading.enumerate()) <= before


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
    prompt = assistant._prompt(Request(turns, [picture("red")]))
    text = assistant.tokenizer.decode(prompt)
    assert len(prompt) <= 256 - 8
    assert text.count(IMAGE_TOKEN) == 8 and "first" not in text and "last" in text


def test_the_placeholder_is_never_generated(assistant):
    head = base_of(assistant.model.language).lm_head.weight
    with torch.no_grad():
        head[base_of(assistant.model.language).image_token_id] = head.abs().max() * 100 * torch.ones(32)
    seen = []
    decode = assistant.tokenizer.batch_decode
    assistant.tokenizer.batch_decode = lambda ids, **options: [seen.append(ids), *decode(ids, **options)][1:]
    assistant.answer(requests()[:1], max_new_tokens=5)
    assert seen[0].shape == (1, 5) and assistant.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) not in seen[0][0].tolist()


def test_sampling_follows_the_temperature_and_is_not_the_default(assistant):
    request = requests()[0]
    (greedy,) = assistant.answer([request])
    torch.manual_seed(0)
    cold = {assistant.answer([request], do_sample=True, temperature=1e-4)[0] for _ in range(5)}
    hot = {assistant.answer([request], do_sample=True, temperature=5.0)[0] for _ in range(5)}
    assert cold == {greedy} and len(hot) == 5
    assert assistant.answer([request], do_sample=False, temperature=5.0) == [greedy]


def test_the_system_prompt_can_be_another_for_one_call(assistant):
    request = requests()[0]
    texts = [assistant.tokenizer.decode(assistant._prompt(request, {"system": s})) for s in ("Be brief.", "")]
    assert texts[0].startswith("<|im_start|>system\nBe brief.<|im_end|>") and texts[1].startswith("<|im_start|>user")
    usual = assistant.answer([request], max_new_tokens=12)
    assert assistant.answer([request], max_new_tokens=12, system="a red star and a blue star " * 3) != usual


# ---------------------------------------------------------------------------------------------- a conversation


def test_an_unanswered_question_gives_way_to_the_next():
    talk = Conversation([picture("red")], ["red.png"])
    talk.ask("never answered")
    request = talk.ask("What <image>?")
    assert [turn.question for turn in request.turns] == [IMAGE_TOKEN + "\nWhat < image >?"]
    talk.answer("red")
    assert [turn.question for turn in talk.ask("sure?").turns][1:] == ["sure?"]
    assert request.turns[0].answer is None  # what was handed out is not changed behind the worker's back
    assert talk.answered() == [("What < image >?", "red")]


def test_a_conversation_can_be_saved_and_opened_again(tmp_path):
    picture("red").save(tmp_path / "红.png")
    talk = Conversation(
        [picture("red")], [str(tmp_path / "红.png")], about={"checkpoint": "checkpoints/x", "top_p": 1.0}
    )
    for question, answer in (("什么颜色？", "红色"), ("two\nlines", "yes")):
        talk.ask(question)
        talk.answer(answer)
    talk.ask("not yet answered")
    talk.save(tmp_path / "talk.json")
    again = Conversation.open(tmp_path / "talk.json")
    assert again.turns == talk.turns[:2] and again.about == talk.about and again.paths == talk.paths
    assert again.images[0].tobytes() == picture("red").tobytes()
    talk.save(tmp_path / "talk.md")
    lines = (tmp_path / "talk.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == f"![picture](<{tmp_path / '红.png'}>)" and "- checkpoint: checkpoints/x" in lines
    assert "> 什么颜色？" in lines and "红色" in lines and lines[-4:] == ["> two  ", "> lines", "", "yes"]


def rendered(conversation: Conversation, folder: Path) -> str:
    """The saved Markdown as a page, by a renderer of GitHub's kind."""
    conversation.save(folder / "talk.md")
    text = (folder / "talk.md").read_text(encoding="utf-8")
    return MarkdownIt("gfm-like", {"linkify": False}).render(text)


@pytest.mark.parametrize("name", ["a b.png", "[1] (2) <3>.png", "50% #1? &amp;.png", "back\\slash.png", "红.png"])
def test_a_saved_page_shows_the_picture_whatever_its_name(tmp_path, name):
    if os.name == "nt" and set(name) & set("<>?\\"):
        pytest.skip("Windows has no such names")
    picture("red").save(tmp_path / name)
    page = rendered(Conversation([picture("red")], [str(tmp_path / name)]), tmp_path)
    assert unquote(unescape(re.search('<img src="([^"]*)"', page)[1])) == (tmp_path / name).as_posix()
    assert "<img" not in rendered(Conversation([picture("red")], ["clipboard"]), tmp_path)  # which no page can show


def said(question: str, answer: str, tmp_path) -> str:
    talk = Conversation()
    talk.ask(question)
    talk.answer(answer)
    talk.ask("next?")
    talk.answer("yes")
    return rendered(talk, tmp_path)


MARKUP = st.text("\n\n#>-=+*_~`|[]()<>!&;$\\.:1a \t", max_size=30)


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the file is written anew by each
)
@given(question=MARKUP)
@example(question="# a\n> b\n1. c\n- d\n\n    e")
@example(question="<b>x</b> &lt; _y_ `z`")
@example(question="a\n===\nb\n---\n~~~")
@example(question="a | b\n--|--\n1 | 2")
def test_a_saved_page_shows_a_question_to_the_letter(tmp_path, question):
    page = said(question, "red", tmp_path)
    quote = re.search(r"<blockquote>(.*?)</blockquote>\n<p>red</p>", page, re.DOTALL)[1]
    assert set(re.findall(r"</?\w+", quote)) <= {"<p", "</p", "<br"}
    lines = [" ".join(line.split()) for line in unescape(re.sub(r"<[^>]*>", "", quote)).splitlines()]
    wanted = [" ".join(line.split()) for line in neutralise(question).splitlines()]
    assert [line for line in lines if line] == [line for line in wanted if line]


@pytest.mark.parametrize(
    ("answer", "html"),
    [
        ("a red\ncircle", "<p>a red<br />\ncircle</p>"),
        ("- one\n- **two**", "<ul>\n<li>one</li>\n<li><strong>two</strong></li>\n</ul>"),  # the model's own Markdown
        ("<ref>dog</ref> 1 < 2", "<p>&lt;ref&gt;dog&lt;/ref&gt; 1 &lt; 2</p>"),
        ("<!-- never ends", "<p>&lt;!-- never ends</p>"),
        ("```\na < b:\n<div>", "<pre><code>a &lt; b:\n&lt;div&gt;\n</code></pre>"),
        ("> no question", "<p>&gt; no question</p>"),
    ],
)
def test_a_saved_page_shows_an_answer_whole_and_nothing_of_it_takes_in_what_follows(tmp_path, answer, html):
    page = said("What?", answer, tmp_path)
    quote = "<blockquote>\n<p>{}</p>\n</blockquote>\n"
    assert page == f"{quote.format('What?')}{html}\n{quote.format('next?')}<p>yes</p>\n"


@pytest.mark.parametrize("content", ["", "[]", '{"turns": []}', '{"images": [], "about": {}, "turns": [1]}'])
def test_a_file_that_is_no_conversation_is_one_line(tmp_path, content):
    (tmp_path / "talk.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="not a conversation that was saved here as JSON"):
        Conversation.open(tmp_path / "talk.json")


def test_a_conversation_whose_picture_is_gone_names_it(tmp_path):
    Conversation([picture("red")], [str(tmp_path / "gone.png")]).save(tmp_path / "talk.json")
    with pytest.raises(UserError, match="gone.png: missing"):
        Conversation.open(tmp_path / "talk.json")
    with pytest.raises(UserError, match="cannot be written"):
        Conversation().save(tmp_path / "talk.json" / "a file is no folder.json")


# ---------------------------------------------------------------------------------------------- ask.py


def ask(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, "ask.py", *map(str, arguments)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, encoding="utf-8", input=stdin)


def test_ask_prints_the_answer_and_nothing_else(checkpoint, assistant, tmp_path):
    picture("red").save(tmp_path / "red.png")
    done = ask("--checkpoint", checkpoint.parent, "--image", tmp_path / "red.png", "What color?")
    (wanted,) = assistant.answer(requests()[:1])
    assert wanted and done.returncode == 0 and done.stdout == wanted + "\n", done.stderr


def test_ask_without_a_question_is_a_conversation(checkpoint, assistant, tmp_path):
    picture("red").save(tmp_path / "red.png")
    done = ask("--checkpoint", checkpoint, "--image", tmp_path / "red.png", stdin="What color?\nand now?\n")
    first, image = question_with_images("What color?", 1), [picture("red")]
    (one,) = assistant.answer([Request([Turn(first)], image)])
    (two,) = assistant.answer([Request([Turn(first, one), Turn("and now?")], image)])
    assert one and two and one != two and done.returncode == 0 and done.stdout == f"{one}\n{two}\n"


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
