"""The page in a real browser: what a reader sees, clicks and types, and that content from outside stays text."""

from __future__ import annotations

import itertools
import random

import pytest

from evaluation.html.content import write_report
from tests.evaluation.html.test_page import HOSTILE
from tests.helpers.results import draw, line, result, wrong


@pytest.fixture
def page(chromium, tmp_path):
    """A function that opens the report of some questions: the browser."""

    def opened(lines, state="language=en", width=1440, **fields):
        file = write_report(result(lines, **fields), tmp_path / "result.json")
        chromium.size(width, 1000)
        chromium.open(file, state)
        return chromium

    return opened


def asked(browser) -> list[str]:
    """The questions of the cards, in order."""
    return browser.run("[...document.querySelectorAll('.question .asked')].map((found) => found.textContent)")


def click(browser, selector: str, text: str) -> None:
    """Click the first element that holds the text."""
    elements = f"[...document.querySelectorAll({selector!r})]"
    browser.run(f"{elements}.find((found) => found.textContent.includes({text!r})).click()")


def text_of(browser, selector: str) -> str:
    return browser.run(f"document.querySelector({selector!r}).innerText")


@pytest.fixture
def some(tmp_path):
    """Right, wrong, Chinese, wrong with a right answer without looking, and a caption, about three pictures."""
    first, second, third = draw(tmp_path, 3)
    seen = line(0)["baselines"] | {"no_picture": {"answer": "green", "score": 0.0}}
    return [
        line(0, [first], question="Color of the cup?", baselines=seen),
        wrong(1, [first], question="How many cups?", type="count"),
        line(2, [second], question="杯子是什么颜色？", language="zh", source="bilder"),
        line(3, [third], question="Describe it.", type="caption", score=None),
    ]


def test_the_scores_come_first_and_the_verdict_is_a_sentence(page, some):
    browser = page(some)
    assert text_of(browser, "#title") == "demo / checkpoint-7"
    assert text_of(browser, ".verdict h2") == "The model looks at the picture"
    assert text_of(browser, ".card.main .value") == "0.667 ± 0.010"
    rows = browser.run("[...document.querySelectorAll('.row')].map((row) => row.innerText.replace(/\\s+/g, ' '))")
    assert rows[:3] == ["All 3 0.667 ± 0.010", "colour 2 1.000 ± 0.010", "count 1 0.000 ± 0.010"]
    assert (
        browser.run("document.querySelector('.row .solid').style.width") == "36.6667%"
    )  # above 0.3, the best baseline
    legend = "getComputedStyle(document.querySelector('#legend .key'), '::before').content"
    assert browser.run(legend) == "none"  # its marks are drawn; the small frames are the legend of boxes
    assert browser.complaints() == [] and [u for u in browser.requested() if not u.startswith(("data:", "file:"))] == []
    assert len([address for address in browser.requested() if address.startswith("file:")]) == 1


def test_a_type_that_does_not_look_is_named(page, some):
    verdicts = result(some)["verdict_by_type"] | {"count": {"looks_at_the_picture": False}}
    low = {"majority": {**result(some)["comparisons"]["majority"], "clearly_above": False}}
    browser = page(some, verdict_by_type=verdicts, looks_at_the_picture=False, comparisons=low)
    assert text_of(browser, ".verdict h2") == "The answers may not come from the picture"
    assert text_of(browser, ".verdict p") == "Types not clearly above every baseline: count"


def test_a_model_that_looks_in_part_is_told_apart_and_forms_answered_as_usual_are_listed(page, some):
    forms = [{"form": "is there a [color] [shape]", "n": 80, "mean": 0.0125, "standard_error": 0.01}]
    browser = page(some, looks_at_the_picture=False, weak_forms=forms)
    assert text_of(browser, ".verdict h2") == "The model looks at the picture in part only"
    assert "is there a [color] [shape] 0.013 (80)" in " ".join(text_of(browser, ".margins").split())


def test_filters_search_and_order(page, some):
    browser = page(some, "language=en&sort=data")
    everything = [one["question"] for one in some]
    assert asked(browser) == everything
    click(browser, ".chip", "Wrong")
    assert asked(browser) == ["How many cups?"] and "1 of 4 questions" in text_of(browser, "#found")
    click(browser, ".chip", "Right without looking")
    assert asked(browser) == ["杯子是什么颜色？"]
    click(browser, ".link", "Reset")
    click(browser, ".row", "count")
    assert asked(browser) == ["How many cups?"]
    browser.press("r")
    browser.press("/")
    browser.call("Input.insertText", text="CUP color")
    assert asked(browser) == ["Color of the cup?"]
    assert browser.run("document.activeElement.id") == "search"
    browser.run("change({query: 'nowhere'})")
    assert text_of(browser, "#found").startswith("No question matches.")
    browser.run("change({...FILTERS_OFF, sort: 'score'})")
    assert asked(browser)[0] == "How many cups?"
    assert browser.complaints() == []


def test_the_state_is_in_the_address_and_a_state_that_does_not_exist_is_ignored(page, some):
    browser = page(some)
    browser.run("change({show: 'wrong', query: 'cups'})")
    assert browser.run("location.hash") == "#show=wrong&query=cups"
    browser = page(some, "language=xx&theme=pink&show=toString&type=__proto__&sort=constructor&query=")
    assert asked(browser) and browser.complaints() == []


def test_one_question_with_everything_about_it_by_keyboard(page, some):
    browser = page(some, "language=en&sort=data")
    for key in ("j", "j", "Enter"):
        browser.press(key)
    shown = text_of(browser, "#detail")
    assert "How many cups?" in shown and "2 of 4" in shown and "000.png" in shown
    lines = browser.run("[...document.querySelectorAll('.line')].map((one) => one.innerText)")
    answers = [" ".join(text.split()) for text in lines]
    assert answers == [
        "Model green wrong",
        "Reference red",
        "Other picture blue wrong",
        "No picture red right",
        "Most frequent no",
        "Usual answer blue",
    ]
    assert browser.run("document.querySelector('.siblings').innerText").split("\n")[-2:] == ["Color of the cup?", "red"]
    browser.press("ArrowRight")
    assert "杯子是什么颜色？" in text_of(browser, "#detail")
    browser.press("Escape")
    assert browser.run("document.getElementById('detail').open") is False
    assert browser.run("document.activeElement.querySelector('.asked').textContent") == "杯子是什么颜色？"
    browser.press("w")
    assert asked(browser) == ["How many cups?"]
    browser.press("?")
    assert "search" in text_of(browser, "#help")


def test_english_and_chinese_light_and_dark(page, some):
    browser = page(some, "language=zh&theme=dark")
    assert text_of(browser, ".verdict h2") == "模型在看图" and "答错 1" in text_of(browser, "#filters")
    assert browser.run("document.documentElement.lang") == "zh-CN"
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(27, 29, 34)"
    browser.press("l")
    browser.press("d")  # automatic: the system is light
    assert text_of(browser, ".verdict h2") == "The model looks at the picture"
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(243, 244, 246)"


CONTRAST = """
(() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => parse(color).slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const under = (element) => {
    for (; element; element = element.parentElement) {
      const color = getComputedStyle(element).backgroundColor;
      if ((parse(color)[3] ?? 1) === 1) return color;
    }
  };
  const low = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.getClientRects().length || element.disabled) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(under(element))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) low.push(element.className + ": " + element.textContent);
  }
  return low;
})()
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_has_the_contrast_of_wcag_aa(page, some, theme):
    browser = page(some, f"language=en&theme={theme}&show=wrong", unasked=2)
    assert browser.run(CONTRAST) == []
    browser.run("openQuestion(0)")
    assert browser.run(CONTRAST) == []


@pytest.mark.parametrize(("language", "width"), [("en", 375), ("zh", 375), ("en", 768), ("zh", 1440)])
def test_nothing_is_wider_than_the_screen(page, some, width, language):
    long = line(9, some[0]["images"], question="x" * 300, prediction="y" * 300, references=["z" * 300], source="w" * 90)
    browser = page([*some, long], f"language={language}", width)
    assert browser.run("document.documentElement.scrollWidth") == width
    browser.run("openQuestion(0)")
    assert browser.run("document.getElementById('detail').scrollWidth") <= width


def test_a_long_list_is_drawn_as_the_reader_scrolls(page):
    browser = page([line(i, type="color") for i in range(500)])
    first = len(asked(browser))
    assert first < 200
    browser.run("window.scrollTo({top: document.body.scrollHeight, behavior: 'instant'})")
    browser.run("new Promise((done) => setTimeout(done, 200))")
    assert first < len(asked(browser)) < 500


LISTENERS = """
[...document.querySelectorAll("*")].flatMap((one) => [...one.attributes]).map((one) => one.name)
  .filter((name) => name.startsWith("on"))
"""


def hostile(draw_from: random.Random) -> str:
    return "".join(draw_from.choices([*HOSTILE, "a", " ", "图"], k=draw_from.randint(1, 5)))


def test_hostile_questions_answers_and_file_names_stay_text(page, tmp_path):
    """150 questions, each field of hostile pieces; a file of that name where the system allows it."""
    chance, names = random.Random(0), itertools.count()
    plain = draw(tmp_path, 1)[0]

    def picture() -> str:
        path = tmp_path / f"{next(names)}{hostile(chance)}.png"
        try:
            path.write_bytes((tmp_path / plain).read_bytes())
        except (OSError, ValueError):  # a slash or a zero byte: the name is in the result all the same
            pass
        return str(path)

    def one(number: int):
        said = {"answer": hostile(chance), "score": chance.choice([0.0, 0.5, 1.0]), "images": [picture()]}
        fields = {
            key: hostile(chance) for key in ("question", "prediction", "type", "source", "language", "id", "metric")
        }
        baselines = {"other_picture": said, "majority": {"answer": hostile(chance), "score": 0.0}}
        lists = {"references": [hostile(chance)], "options": [hostile(chance), hostile(chance)]}
        return line(number, [picture()], problem=hostile(chance), baselines=baselines, **lists, **fields)

    lines = [one(number) for number in range(150)]
    facts = {"checkpoint": hostile(chance), "data": hostile(chance), "versions": {hostile(chance): hostile(chance)}}
    browser = page(lines, "language=en&sort=data", **facts)
    browser.run("while (drawn < found.length) drawMore(); openQuestion(0)")
    for number in (1, 60, 149):
        browser.run(f"openQuestion({number})")
    browser.run("document.querySelectorAll('details').forEach((found) => (found.open = true))")
    # A lone half of a surrogate pair and a zero byte are shown, in a text node, as they are.
    shown = browser.run("[...document.querySelectorAll('.question .asked')].map((one) => one.textContent)")
    expected = [one["question"].encode("utf-16", "surrogatepass").decode("utf-16", "replace") for one in lines]
    assert [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in shown] == expected
    names_of_elements = set(browser.run("[...document.querySelectorAll('body *')].map((one) => one.localName)"))
    ours = set(
        "header main section div p h1 h2 h3 button span i b small svg path details summary dl dt dd dialog input "
        "select option bdi table thead tbody tr th td ul li figure figcaption img script noscript".split()
    )
    assert names_of_elements <= ours
    assert browser.run("document.querySelectorAll('script').length") == 2
    sources = browser.run("[...document.querySelectorAll('img')].map((one) => one.src.slice(0, 23))")
    assert set(sources) <= {"data:image/webp;base64,"}
    assert browser.run(LISTENERS) == []
    assert browser.complaints() == []
    assert [address for address in browser.requested() if not address.startswith(("data:", "file:"))] == []


def test_a_script_that_was_put_into_the_file_by_hand_does_not_run(page, some, chromium, tmp_path):
    page(some)
    file, planted = tmp_path / "result.html", "<script>hacked = 1</script><img src=x onerror='hacked = 1'>"
    broken = file.read_text(encoding="utf-8").replace("<main>", f"<main>{planted}")
    file.write_text(broken, encoding="utf-8")
    chromium.open(file, "language=en")
    assert chromium.run("typeof window.hacked") == "undefined"
    assert asked(chromium) and any("Content Security Policy" in text for text in chromium.complaints())


def test_boxes_of_reference_and_answer_are_over_the_picture_in_two_colours(page, tmp_path):
    (picture,) = draw(tmp_path, 1)
    about, wanted, found = (
        "<box>(0,0),(500,500)</box>",
        "<box>(100,200),(300,600)</box>",
        "<box>(100,200),(300,500)</box>",
    )
    boxes = line(
        0, [picture], question=f"{about} Where is <b>?", references=[wanted], prediction=found, type="grounding"
    )
    browser = page([boxes, line(1, [picture])])
    assert asked(browser) == ["Where is <b>?", "What color is thing 1?"]
    places = """[...document.querySelectorAll('#grid rect')].map((rect) => {
        const [box, shown] = [rect.getBoundingClientRect(), rect.closest('.frame').querySelector('img')];
        const [w, h, frame] = [shown.naturalWidth, shown.naturalHeight, shown.getBoundingClientRect()];
        const scale = Math.min(frame.width / w, frame.height / h);
        const left = frame.x + (frame.width - w * scale) / 2, top = frame.y + (frame.height - h * scale) / 2;
        const style = getComputedStyle(rect).stroke;
        const shares = [(box.x - left) / (w * scale), (box.y - top) / (h * scale), box.width / (w * scale)];
        return [rect.getAttribute('class'), style, ...shares.map((n) => Math.round(n * 100) / 100)];
    })"""
    found_places = {name: (color, *shares) for name, color, *shares in browser.run(places)}
    assert found_places["box-reference"][1:] == (0.1, 0.2, 0.2) and found_places["box-answer"][1:] == (0.1, 0.2, 0.2)
    assert len({color for color, *_ in found_places.values()}) == 3
    browser.run("openQuestion(0)")
    assert "box of the reference" in text_of(browser, "#detail") and "box of the answer" in text_of(browser, "#detail")
    browser.run("openQuestion(1)")
    assert "box of" not in text_of(browser, "#detail")
