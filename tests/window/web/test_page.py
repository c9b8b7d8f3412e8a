"""The page in a real Chromium, used as people use it: upload, ask, stop, two at once, and what is hostile."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from dataset.prompt import Request, Turn, question_with_images
from tests.helpers.tiny import picture
from tests.window.web.conftest import Person
from window.web import limits
from window.web.server import HEADERS

HOSTILE = (
    "a & b < c &amp; &copy <img src=x onerror='window.hacked=1'><script>window.hacked=1</script> "
    "${window.hacked=1} **bold** {{7*7}}"
)


def wanted(assistant, *questions: str, color: str = "red") -> list[str]:
    turns: list[Turn] = []
    for question in questions:
        turns.append(Turn(question_with_images(question, 0 if turns else 1)))
        turns[-1].answer = assistant.answer([Request(turns, [picture(color)])])[0]
    return [turn.answer for turn in turns]


def ready(someone) -> None:
    """Wait until the answer is complete and the next question can be sent."""
    someone.until_status("test / checkpoint-1 on cpu")
    someone.until("document.querySelector('#box .submit-button')")


def test_upload_ask_and_follow_up_and_nothing_comes_from_elsewhere(person, red, assistant, address):
    first = person()
    assert first.text("#title") == "Ask a picture" and first.said() == []
    first.ask("What color?", red)
    ready(first)
    assert first.said("user") == ["What color?"]
    first.ask("and where?")
    first.until("document.querySelectorAll('#chat [data-testid=bot]').length == 2")
    ready(first)
    assert first.said() == [" ".join(one.split()) for one in wanted(assistant, "What color?", "and where?")]
    assert "red.png · 30 × 60" in first.text("#pictures")
    assert [url for url in first.browser.requested() if not url.startswith(("data:", "blob:", address))] == []
    assert first.browser.complaints() == []


def test_pictures_alone_then_an_example_question(person, red, blue, assistant):
    someone = person()
    someone.ask("", red, blue)
    someone.until_status("Ask about the picture, or choose")
    assert someone.browser.run("document.querySelectorAll('#pictures figure').length") == 2
    someone.click("#chips button")
    ready(someone)
    request = Request([Turn(question_with_images("Describe the picture.", 2))], [picture("red"), picture("blue")])
    assert someone.said() == [" ".join(assistant.answer([request])[0].split())]


def test_an_answer_streams_and_stop_keeps_its_words(person, red, endless):
    someone = person()
    someone.ask("What color?", red)
    someone.until_words()
    before = someone.said()[0]
    someone.until(f"document.querySelector('#chat [data-testid=bot]').innerText.length > {len(before)}")
    assert someone.status == "Answering..."
    someone.click("#box .stop-button")
    someone.until_status("Stopped")
    (kept,) = someone.said()
    assert kept.startswith(before) and len(endless.model.assistant.tokenizer.encode(kept)) < 3000
    someone.until("document.querySelector('#box .submit-button')")


def test_a_second_person_waits_for_their_turn_and_the_stop_of_one_is_not_the_others(person, red, blue, endless):
    first, second = person(0), person(1)
    first.ask("What color?", red)
    first.until_words()
    second.ask("and here?", blue)
    second.until_status("Your question waits for its turn; before it: 1.")
    second.click("#box .stop-button")
    second.until_status("Stopped")
    second.until("document.querySelector('#box textarea').value == 'and here?'")  # it is given back
    second.until("document.querySelector('#box .submit-button')")
    before = first.said()[0]
    first.until(f"document.querySelector('#chat [data-testid=bot]').innerText.length > {len(before)}")
    second.browser.press("Enter")
    second.until_status("Your question waits")
    first.click("#box .stop-button")
    first.until_status("Stopped")
    second.until_words()
    second.click("#box .stop-button")
    second.until_status("Stopped")


def test_a_tab_that_is_closed_in_the_middle_of_an_answer_leaves_the_model_to_the_others(person, red, blue, endless):
    first, second = person(0), person(1)
    first.ask("What color?", red)
    first.until_words()
    second.ask("and here?", blue)
    second.until_status("Your question waits")
    first.browser.visit("about:blank")
    second.until_words()
    second.click("#box .stop-button")
    second.until_status("Stopped")
    first.browser.visit(first.address)  # the same tab again: the conversation is there, with the words so far
    first.until_words()
    assert first.said("user") == ["What color?"] and "red.png" in first.text("#pictures")


def test_hostile_text_and_files_are_shown_or_refused_and_never_run(person, sessions, tmp_path, red, address):
    someone = person()
    names = [tmp_path / "<img src=x onerror=hacked=1>.png", tmp_path / "${hacked=1}{{7*7}}.png"]
    for name in names:
        name.write_bytes(red.read_bytes())
    someone.ask(HOSTILE, *names)
    ready(someone)
    assert someone.said("user") == [HOSTILE]
    sessions.model.assistant.stream = lambda request, stop, **settings: iter(
        [HOSTILE, "\n![x](http://127.0.0.9/x.png)"]
    )
    someone.ask("and now?")
    someone.until("document.querySelectorAll('#chat [data-testid=bot]').length == 2")
    ready(someone)
    assert someone.said()[1] == HOSTILE + "\n![x](http://127.0.0.9/x.png)"
    page = tmp_path / "page.png"
    page.write_text("<svg xmlns='http://www.w3.org/2000/svg' onload='parent.hacked=1'/>")
    someone.ask("", page)
    someone.until_status("Cannot open page.png: cannot be decoded: not an image in a known format")
    assert (
        someone.browser.run("document.querySelectorAll('#chat img, #chat script, #chat b, #chat strong').length") == 0
    )
    assert someone.browser.run("typeof window.hacked") == "undefined"
    assert [url for url in someone.browser.requested() if not url.startswith(("data:", "blob:", address))] == []


def test_a_broken_picture_leaves_the_question_in_the_input(person, tmp_path, red):
    broken = tmp_path / "broken.png"
    broken.write_bytes(red.read_bytes()[:60])
    someone = person()
    someone.ask("What color?", broken)
    someone.until_status("Cannot open broken.png: cannot be decoded")
    assert someone.browser.run("document.querySelector('#box textarea').value") == "What color?"
    assert someone.browser.run("!!document.querySelector('#status .problem')")


def test_a_file_that_is_too_large_is_refused_with_a_sentence_before_it_is_sent(
    browsers, serve, uploads, tmp_path, red, monkeypatch
):
    monkeypatch.setattr(limits, "MOST_BYTES", 2_000_000)
    (tmp_path / "large.png").write_bytes(bytes(2_500_000))
    with serve() as address:
        someone = Person(browsers[0], address, "en-US")
        someone.browser.attach("#box input[type=file]", [tmp_path / "large.png"])
        someone.until_status("large.png has 3 MB; a file may have 2 MB.")
        assert someone.browser.run("document.querySelectorAll('#box .thumbnail-item').length") == 0
        assert not uploads.exists() or [file for file in uploads.rglob("*") if file.is_file()] == []
        someone.ask("What color?", red)
        ready(someone)


def test_the_page_speaks_the_browsers_language_and_can_be_switched(person, red):
    someone = person(language="zh-CN,zh;q=0.9")
    assert someone.text("#title") == "看图问答"
    someone.ask("什么颜色？")
    someone.until_status("请先添加图片")
    someone.click("#language input[value=en]")
    someone.until_status("Add a picture first")
    assert someone.text("#title") == "Ask a picture" and someone.text("#new") == "New conversation"


def test_where_it_looks_is_shown_for_the_answer_that_is_clicked(person, red):
    someone = person()
    someone.ask("What color?", red)
    ready(someone)
    someone.click("#look input")
    someone.until("document.querySelector('#pictures .legend')")
    first = someone.text("#pictures")
    assert first.startswith("Whole answer: ") and "of its attention is on the picture" in first
    someone.ask("and where?")
    someone.until("document.querySelectorAll('#chat [data-testid=bot]').length == 2")
    someone.until(f"document.querySelector('#pictures').innerText.trim() != {first!r}")
    someone.browser.run("document.querySelector('#chat [data-testid=bot]').click()")
    someone.until(f"document.querySelector('#pictures').innerText.trim() == {first!r}")
    someone.click("#look input")
    someone.until("!document.querySelector('#pictures .legend')")


def test_settings_reach_the_answer_and_an_empty_field_is_the_checkpoints_own(person, red, assistant):
    someone = person()
    someone.click("#settings button")
    someone.until("document.querySelector('#max_new_tokens input')")
    assert someone.browser.run("document.querySelector('#max_new_tokens input').placeholder") == "8"
    someone.ask("What color?", red)
    ready(someone)
    someone.click("#new")
    someone.until("document.querySelectorAll('#chat [data-testid=bot]').length == 0")
    whole = [" ".join(wanted(assistant, "What color?")[0].split())]
    someone.browser.run("document.querySelector('#max_new_tokens input').focus()")
    someone.browser.call("Input.insertText", text="2")
    someone.ask("What color?")
    someone.until("document.querySelectorAll('#chat [data-testid=bot]').length == 1")
    ready(someone)
    request = Request([Turn(question_with_images("What color?", 1))], [picture("red")])
    assert someone.said() == [" ".join(assistant.answer([request], max_new_tokens=2)[0].split())] != whole


def test_an_example_picture_and_then_its_question_are_asked_by_clicks(person, tested, sessions):
    sessions.model.assistant.stream = lambda request, stop, **settings: iter(["yes"])
    someone = person()
    someone.until("document.querySelectorAll('#pictures .examples button').length == 2")
    someone.click("#pictures [data-example='1']")
    someone.until_status("Ask about the picture, or choose")
    someone.until("document.querySelector('#chips button')")
    assert "3.png · 50 × 40" in someone.text("#pictures") and someone.text("#chips") == "Is it 3?"
    someone.click("#chips button")
    ready(someone)
    assert someone.said("user") == ["Is it 3?"] and someone.said() == ["yes"]


# Text with less contrast than WCAG AA asks for (4.5), hints in fields included, and edges of controls with less than 3.
FAINT = """(() => {
    const light = (c) => [0, 1, 2].map((i) => c[i] / 255)
        .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const parts = (color) => color.match(/[\\d.]+/g).map(Number);
    const ground = (node) => {
        for (; node; node = node.parentElement) {
            const color = parts(getComputedStyle(node).backgroundColor);
            if (color[3] === undefined || color[3] > 0.9) return color;
        }
        return [255, 255, 255];
    };
    const contrast = (color, node) => {
        const [a, b] = [light(parts(color)), light(ground(node))];
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    };
    const found = [];
    const check = (node, color, ground, least) => {
        const ratio = contrast(color, ground);
        if (node.checkVisibility() && ratio < least) found.push([node.outerHTML.slice(0, 150), color, ratio]);
    };
    for (const node of document.querySelectorAll('.gradio-container *')) {
        const style = getComputedStyle(node);
        const words = [...node.childNodes].some((one) => one.nodeType === 3 && one.data.trim());
        if (words) check(node, style.color, node, 4.5);
        if (node.placeholder) check(node, getComputedStyle(node, '::placeholder').color, node, 4.5);
        const edged = 'input:is([type=checkbox], [type=radio]):not(:checked), input[type=number], .form:has(> #box)';
        if (node.matches(edged)) check(node, style.borderTopColor, node.matches('input') ? node : document.body, 3);
    }
    return found;
})()"""


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_contrasts_are_those_of_wcag_aa_in_both_modes(person, tested, sessions, tmp_path, mode):
    sessions.model.assistant.stream = lambda request, stop, **settings: iter(["yes"])
    someone = person(mode=mode)
    assert someone.browser.run("document.body.classList.contains('dark')") == (mode == "dark")
    someone.click("#settings button")
    someone.until("document.querySelector('#max_new_tokens input')")
    assert someone.browser.run(FAINT) == []
    someone.click("#pictures [data-example]")
    someone.until("document.querySelector('#chips button')")
    someone.click("#chips button")
    ready(someone)
    someone.click("#look input")
    someone.until("document.querySelector('#pictures .legend')")
    (tmp_path / "page.png").write_text("no picture")
    someone.ask("", tmp_path / "page.png")
    someone.until("document.querySelector('#status .problem')")
    assert someone.browser.run(FAINT) == []


def test_on_a_narrow_page_nothing_is_cut_off_and_the_conversation_comes_before_the_settings(person, red):
    someone = person(language="zh")
    someone.browser.size(400, 800)
    someone.ask("什么颜色？", red)
    someone.until_status("test / checkpoint-1，运行于 cpu")
    assert someone.browser.run("document.documentElement.scrollWidth") == 400
    tops = (
        "['pictures', 'chat', 'box', 'settings'].map((id) => document.getElementById(id).getBoundingClientRect().top)"
    )
    assert someone.browser.run(f"{tops}.every((top, i, all) => i === 0 || top > all[i - 1])")


def test_uploaded_files_are_removed_and_other_files_are_not_served(browsers, serve, uploads, red, address):
    for path in ("web.py", str(Path("/etc/hostname")), f"{uploads}/../red.png", "README.md"):
        try:
            status = urllib.request.urlopen(f"{address}gradio_api/file={path}").status
        except urllib.error.HTTPError as error:
            status = error.code
        assert status in (403, 404), path
    with urllib.request.urlopen(address) as answer:
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    with serve(kept_files_s=1) as brief:
        assert brief.startswith("http://127.0.0.1:")
        someone = Person(browsers[0], brief, "en-US")
        someone.ask("What color?", red)
        ready(someone)
        end = time.monotonic() + 120
        while [file for file in uploads.rglob("*") if file.is_file()]:
            assert time.monotonic() < end
            time.sleep(0.1)


def test_boxes_are_shown_and_copied_in_pixels_without_marks(person, red, sessions, monkeypatch):
    """The picture has 30 x 60 pixels."""
    said = "It is <ref>a dog</ref><box>(100,500),(600,999)</box>."
    monkeypatch.setattr(sessions.model.assistant, "stream", lambda *arguments, **settings: iter(said))
    someone = person()
    someone.ask("Where?", red)
    ready(someone)
    assert someone.said() == ["It is a dog [3, 30, 18, 60]."]
    someone.browser.run("navigator.clipboard.writeText = async (words) => { window.copied = words; }")
    someone.browser.run("[...document.querySelectorAll('#chat button[title=\"Copy message\"]')].at(-1).click()")
    someone.until("window.copied")
    assert someone.browser.run("window.copied") == "It is a dog [3, 30, 18, 60]."
