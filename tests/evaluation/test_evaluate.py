"""evaluate.py from its files to its report, with stand-ins for the model that look, guess, or refuse."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest
from PIL import Image

import evaluate
from common.errors import UserError
from evaluate import Question
from evaluation import scores as metrics
from qwen.tokenizer import IMAGE_TOKEN
from settings import Config, save_config

COLORS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}
CHINESE = {"red": "红色", "green": "绿色", "blue": "蓝色"}


class Stub:
    """Stands for the model: answers a question (text, colours of the pictures) and remembers what it was asked."""

    device = "cpu"

    def __init__(self, config: Config, checkpoint: Path, reply) -> None:
        self.config, self.checkpoint, self.reply = config, checkpoint, reply
        self.requests: list = []
        self.batches: list[tuple[int, dict]] = []

    def answer(self, requests, **options) -> list[str]:
        self.batches.append((len(requests), options))
        self.requests.extend(requests)
        return [self.reply(r.turns[-1].question, [color_of(image) for image in r.images]) for r in requests]


def color_of(image: Image.Image) -> str:
    return next(name for name, rgb in COLORS.items() if rgb == image.getpixel((0, 0)))


def looks(question: str, seen: list[str]) -> str:
    """Tells what it sees, and "red" where it sees nothing."""
    color = seen[0] if seen else "red"
    if "Is it" in question:
        return "yes" if color in question else "no"
    if "描述" in question:
        return f"这是一张{CHINESE[color]}的图片。"
    return CHINESE[color] if "颜色" in question else color


def guesses(question: str, seen: list[str]) -> str:
    """Goes by the question alone."""
    return looks(question, [])


def conversation(color: str, split: str, source: str, language: str) -> dict:
    if language == "en":
        turns = [("What color is it?", [color]), ("Is it red?", ["yes" if color == "red" else "no"])]
    else:
        turns = [("它是什么颜色？", [CHINESE[color]]), ("请描述这张图片。", [f"这是{CHINESE[color]}的图片"])]
    turns = [{"q": q, "a": a} for q, a in turns]
    turns[0]["q"] = f"{IMAGE_TOKEN}\n{turns[0]['q']}"
    return {"source": source, "language": language, "split": split, "turns": turns}


@pytest.fixture
def data(tmp_path):
    """24 pictures, half of them held out; each has an English conversation, every second a Chinese one as well."""
    image_map, annotations = {}, {}
    for number in range(24):
        color, split = list(COLORS)[number % 3], "train" if number < 12 else "held_out"
        path = tmp_path / f"{number:02}.png"
        Image.new("RGB", (4, 4), COLORS[color]).save(path)
        image_map[path.name] = {"ID": number, "path": path.as_posix()}
        annotations[str(number)] = [conversation(color, split, "shapes", "en")]
        if number % 2:
            annotations[str(number)].append(conversation(color, split, "bilder", "zh"))
    write(tmp_path, image_map, annotations)
    return tmp_path


def write(folder: Path, image_map: dict, annotations: dict) -> None:
    for name, content in (("image_map", image_map), ("annotations", annotations)):
        (folder / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def edit(folder: Path, change) -> None:
    """Apply ``change`` to the annotations on disk."""
    file = folder / "annotations.json"
    annotations = json.loads(file.read_text(encoding="utf-8"))
    change(annotations)
    file.write_text(json.dumps(annotations, ensure_ascii=False), encoding="utf-8")


@pytest.fixture
def stub(data, monkeypatch):
    """A function that puts a stand-in with a reply in the place of the model."""

    def make(reply) -> Stub:
        files = {name: str(data / f"{name}.json") for name in ("image_map", "annotations", "skipped")}
        source = {"name": "shapes", "format": "coco", "annotations": "raw.json", "images": str(data)}
        content = {
            "data": {"sources": [source], **files, "progress": False},
            "vision": {"path": "some/vision"},
            "language": {"path": "some/language", "system": "Be brief."},
            "generate": {"max_new_tokens": 8, "batch_size": 5},
        }
        assistant = Stub(Config.model_validate(content), data / "checkpoint-1", reply)
        save_config(assistant.config, data / "checkpoint-1" / "config.yaml")
        monkeypatch.setattr(evaluate.Assistant, "load", lambda checkpoint, device=None: assistant)
        return assistant

    return make


def run(folder: Path, *arguments: str, status: int = 0) -> dict:
    """The result file of a run of the script that ends with ``status``."""
    output = folder / "out" / "result.json"
    command = ["--checkpoint", str(folder / "checkpoint-1"), "--output", str(output), *arguments]
    assert evaluate.main(command) == status
    assert [file.name for file in output.parent.iterdir()] == ["result.json"]
    return json.loads(output.read_text(encoding="utf-8"))


# ---------------------------------------------------------------------------------------------- the verdict


def test_a_model_that_looks_is_said_to_look(data, stub, capsys):
    stub(looks)
    result = run(data)
    # Held out: 12 pictures, 4 of each colour, with 12 + 12 English questions and 6 Chinese ones beside 6 captions.
    scores = result["scores"]["overall"]
    assert (scores["n"], scores["exact_match"]) == (30, 1.0)
    # The floors learnt "no" as commonest of all; by text "blue" (each colour comes as often), "no" and "红色".
    assert scores["majority"] == pytest.approx(8 / 30)
    assert scores["question_only"] == pytest.approx((4 + 8 + 2) / 30)
    # Without a picture it says red, yes and 红色.
    assert scores["blind"] == pytest.approx((4 + 4 + 2) / 30)
    assert scores["swapped"] < 0.75
    assert result["looks_at_the_picture"] is True
    assert result["verdict"].startswith(
        "The model looks at the picture: 1.00 against 0.27 (majority), 0.47 (question only)"
    )
    assert result["verdict"] in capsys.readouterr().out


def test_a_model_that_goes_by_the_question_is_told_so(data, stub, capsys):
    stub(guesses)
    result = run(data)
    assert result["looks_at_the_picture"] is False
    rows = result["against"]
    assert not rows["swapped"]["clearly_above"] and rows["swapped"]["difference"] == 0
    assert rows["blind"]["difference"] == 0
    assert result["verdict"].startswith("This model is NOT clearly better than")
    assert "itself with another picture (0.33 against 0.33, difference +0.00" in result["verdict"]
    assert result["verdict"].endswith("its answers may not come from the picture.")
    assert "NOT clearly better" in capsys.readouterr().out


def test_the_floor_that_is_not_beaten_is_named(data, stub):
    stub(lambda question, seen: "blue" if "What" in question else "no" if "Is" in question else "红色")
    words = run(data)["verdict"]
    assert "the best answer per question text" in words and "the majority answer" not in words


def test_one_picture_is_too_few_to_tell_and_few_are_called_few(data, stub):
    stub(looks)
    edit(data, lambda annotations: [annotations.pop(str(n)) for n in range(24) if n != 12])
    alone = run(data)
    assert alone["looks_at_the_picture"] is None
    assert alone["scores"]["overall"] | {"captions": None} == {
        "n": 2,
        "exact_match": 1.0,
        "standard_error": None,
        "vqa_n": 0,
        "vqa_accuracy": None,
        "majority": 0.0,
        "question_only": 0.0,
        "swapped": None,
        "blind": 1.0,
        "captions": None,
    }
    assert "cannot be told from a single picture" in alone["verdict"]


def test_fewer_than_ten_pictures_are_called_few(data, stub):
    stub(looks)
    edit(data, lambda annotations: [annotations.pop(str(n)) for n in range(19, 24)])
    assert run(data)["verdict"].endswith("Only 7 pictures: little to go by.")


# ---------------------------------------------------------------------------------------------- asking


def test_every_question_is_asked_alone_with_its_picture_in_front(data, stub):
    model = stub(looks)
    run(data, "--no-probes")
    assert len(model.requests) == 36
    for request in model.requests:
        assert len(request.turns) == 1 and request.turns[0].answer is None
        assert request.turns[0].question.count(IMAGE_TOKEN) == len(request.images) == 1
    asked = {request.turns[0].question for request in model.requests}
    assert f"{IMAGE_TOKEN}\nIs it red?" in asked  # a second turn, which has no placeholder of its own


def test_without_a_picture_means_without_a_placeholder(data, stub):
    model = stub(looks)
    run(data)
    blind = [request for request in model.requests if not request.images]
    assert {r.turns[0].question for r in blind} == {"What color is it?", "Is it red?", "它是什么颜色？"}
    assert len(blind) == 30  # captions are not asked again
    assert len(model.requests) == 36 + 30 + 30


def test_a_swapped_picture_is_never_the_own_one_and_all_are_used_alike(data, stub):
    stub(looks)
    result = run(data)
    replaced = {}
    for line in result["predictions"]:
        if line["type"] != "caption":
            (own,), (other,) = line["images"], line["swapped"]["images"]
            assert replaced.setdefault(own, other) == other  # the same for all questions of a picture
            seen = list(COLORS)[int(Path(other).stem) % 3]
            assert line["swapped"]["answer"] == looks(line["question"], [seen])
    assert all(own != other for own, other in replaced.items())
    assert len(replaced) == len(set(replaced.values())) == 12


def test_of_several_pictures_none_is_swapped_for_another_of_the_same_question():
    def question(*images: str) -> Question:
        return Question("", "", ["x"], list(images), images[0], "s", "en", "other")

    questions = [question("a", "b"), question("c"), question("b", "a", "c"), question("d", "a")]
    evaluate.swap_images(questions, questions, seed=3)
    assert [len(q.swapped_images) for q in questions] == [2, 1, 0, 2]  # four pictures leave one beside three
    for q in questions:
        assert not set(q.images) & set(q.swapped_images)
        assert len(set(q.swapped_images)) == len(q.swapped_images)


def test_the_swap_depends_on_the_seed_alone():
    def swapped(seed: int) -> list[list[str]]:
        questions = [Question("", "", ["x"], [c], c, "s", "en", "other") for c in "abcdefgh"]
        evaluate.swap_images(questions, questions, seed)
        return [q.swapped_images for q in questions]

    assert swapped(0) == swapped(0)
    assert swapped(0) != swapped(1)


def test_a_turn_gets_the_pictures_shown_so_far():
    turns = [
        {"q": f"{IMAGE_TOKEN}\nWhat color is it?", "a": ["red"]},
        {"q": f"And this? {IMAGE_TOKEN}", "a": ["blue"]},
        {"q": "Are they alike?", "a": ["no"]},
    ]
    talk = {"images": [7, 3], "turns": turns, "source": "s", "language": "en"}
    questions = evaluate.conversation_questions({3: "three.png", 7: "seven.png"}, [("7/0", talk)])
    assert [q.images for q in questions] == [["seven.png"], ["seven.png", "three.png"], ["seven.png", "three.png"]]
    assert [q.asked for q in questions] == [
        f"{IMAGE_TOKEN}\nWhat color is it?",
        f"{IMAGE_TOKEN}\nAnd this? {IMAGE_TOKEN}",
        f"{IMAGE_TOKEN}{IMAGE_TOKEN}\nAre they alike?",
    ]
    assert [q.text for q in questions] == ["What color is it?", "And this?", "Are they alike?"]
    moved = evaluate.conversation_questions({3: "three.png", 7: "seven.png"}, [("7/0", talk)], first=True)
    assert moved[1].asked == f"{IMAGE_TOKEN}{IMAGE_TOKEN}\nAnd this? " and moved[2].asked == questions[2].asked


def test_questions_without_a_picture_are_scored_but_not_probed(data, stub):
    talk = {
        "source": "text",
        "language": "en",
        "split": "held_out",
        "turns": [{"q": "Capital of France?", "a": ["Paris"]}],
    }
    edit(data, lambda annotations: annotations.update(text=[talk]))
    stub(lambda question, seen: "paris" if "France" in question else looks(question, seen))
    result = run(data)
    (line,) = [line for line in result["predictions"] if line["source"] == "text"]
    assert line["exact_match"] is True and line["images"] == []
    assert line["swapped"]["answer"] is line["blind"]["answer"] is line["majority"]["answer"] is None
    assert result["scores"]["overall"]["n"] == 31
    assert result["against"]["blind"]["n"] == 30


def test_each_picture_is_read_once(data, stub, monkeypatch):
    stub(looks)
    read, load = [], evaluate.load_image
    monkeypatch.setattr(evaluate, "load_image", lambda path, limit: read.append(path) or load(path, limit))
    run(data)
    assert len(read) == len(set(read)) == 12


def test_the_memory_for_pictures_is_bounded(tmp_path):
    for number in range(4):
        Image.new("RGB", (10, 10)).save(tmp_path / f"{number}.png")
    pictures = evaluate.Pictures(max_pixels=1000, room=250)
    for number in (0, 1, 2, 3, 2, 0):
        pictures(str(tmp_path / f"{number}.png"))
        assert pictures.used == 100 * len(pictures.kept) <= 250
    assert [Path(path).stem for path in pictures.kept] == ["2", "0"]  # the latest used, not the latest read


def test_decoding_and_batch_size_come_from_the_config_and_the_command_line(data, stub):
    model = stub(looks)
    run(data, "--no-probes", "generate.batch_size=7", "generate.max_new_tokens=3")
    assert [size for size, _ in model.batches] == [7, 7, 7, 7, 7, 1]
    decoding = {"max_new_tokens": 3, "do_sample": False, "temperature": 1.0, "top_p": 1.0, "compile": False}
    assert model.batches[0][1] == decoding


def test_limit_draws_the_same_questions_from_all_over_the_data(data, stub):
    stub(looks)
    first, second = (run(data, "--limit", "9")["predictions"] for _ in range(2))
    assert first == second and len(first) == 9
    assert len({line["images"][0] for line in first}) > 4


def test_train_split_and_given_files(data, stub):
    stub(looks)
    train = run(data, "--split", "train", "--no-probes")
    assert train["questions"] == 36
    assert {int(Path(line["images"][0]).stem) < 12 for line in train["predictions"]} == {True}
    assert "without those on the same picture" in train["floors"]
    files = ["--image-map", str(data / "image_map.json"), "--annotations", str(data / "annotations.json")]
    everything = run(data, "--no-probes", *files)
    assert everything["questions"] == 72 and "without those on the same picture" in everything["floors"]
    assert run(data, "--no-probes", "--split", "held_out", *files)["questions"] == 36


def test_floors_are_fitted_on_the_training_split(data, stub):
    def teach(annotations):
        for number in range(12):
            annotations[str(number)] = [conversation("green", "train", "shapes", "en")]

    edit(data, teach)
    stub(looks)
    result = run(data, "--no-probes")
    assert result["floors"] == "the 24 questions of the training split"
    answers = {line["question"]: line["question_only"]["answer"] for line in result["predictions"]}
    assert answers["What color is it?"] == "green"
    assert answers["Is it red?"] == "no"


# ---------------------------------------------------------------------------------------------- what goes wrong


def test_unreadable_pictures_are_counted_said_aloud_and_left_out(data, stub, capsys):
    (data / "13.png").unlink()
    (data / "14.png").write_bytes(b"not a picture")
    stub(looks)
    result = run(data)
    assert result["unasked"] == 6  # 13 has a Chinese conversation too
    assert {Path(path).name for path in result["unreadable_images"]} == {"13.png", "14.png"}
    assert (result["answered"], result["questions"]) == (30, 36)
    assert result["scores"]["overall"]["exact_match"] == 1.0
    problems = [line for line in result["predictions"] if "problem" in line]
    assert len(problems) == 6 and all(line["prediction"] is None for line in problems)
    shown_instead = {image for line in result["predictions"] for image in line["swapped"]["images"]}
    assert not shown_instead & set(result["unreadable_images"])
    printed = capsys.readouterr().out
    assert "6 questions could not be asked and are left out (2 pictures cannot be read)" in printed
    assert "13.png" in printed


def test_a_question_that_is_refused_does_not_take_its_batch_along(data, stub):
    def refuses(question: str, seen: list[str]) -> str:
        if "颜色" in question:
            raise UserError("the question cannot be asked: too long")
        return looks(question, seen)

    stub(refuses)
    result = run(data, "--no-probes")
    assert (result["unasked"], result["answered"]) == (6, 30)
    assert result["first_problem"] == "the question cannot be asked: too long"
    assert result["unreadable_images"] == {}


def test_where_nothing_can_be_asked_it_is_an_error(data, stub, capsys):
    for file in data.glob("*.png"):
        file.unlink()
    stub(looks)
    command = ["--checkpoint", "x", "--output", str(data / "result.json")]
    assert evaluate.main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: none of the 36 questions could be asked; the first:") and error.count("\n") == 1
    assert not (data / "result.json").exists()


@pytest.mark.parametrize(("patience", "answered", "probed"), [(12, 10, 0), (43, 36, 5)])
def test_ctrl_c_keeps_what_was_answered(data, stub, capsys, patience, answered, probed):
    asked = []

    def tires(question: str, seen: list[str]) -> str:
        asked.append(question)
        if len(asked) > patience:
            raise KeyboardInterrupt
        return looks(question, seen)

    stub(tires)
    result = run(data, status=130)
    assert result["complete"] is False
    assert result["answered"] == len(result["predictions"]) == answered
    assert sum(line["swapped"]["answer"] is not None for line in result["predictions"]) == probed
    assert result["scores"]["overall"]["exact_match"] == 1.0
    assert result["looks_at_the_picture"] is None
    assert f"interrupted: {answered} of 36 questions answered" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.run=x"], "only generate.KEY=VALUE can be changed here"),
        (["generate.batchsize=4"], "nearest valid key: generate.batch_size"),
        (["--image-map", "no.json", "--annotations", "no.json"], "cannot be read as what process_image.py writes"),
    ],
)
def test_mistakes_are_one_line_and_status_two(data, stub, capsys, arguments, message):
    stub(looks)
    assert evaluate.main(["--checkpoint", "x", "--output", str(data / "result.json"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error


def test_a_split_without_questions_and_a_run_without_data_say_what_to_do(data, stub, capsys):
    stub(looks)
    edit(data, lambda annotations: [annotations.pop(str(n)) for n in range(12, 24)])
    assert evaluate.main(["--checkpoint", "x"]) == 2
    assert "holds no question of the split held_out; choose another --split" in capsys.readouterr().err
    (data / "annotations.json").unlink()
    assert evaluate.main(["--checkpoint", "x"]) == 2
    assert "run process_image.py" in capsys.readouterr().err


def test_a_missing_caption_package_is_found_before_anything_is_asked(data, stub, capsys, monkeypatch):
    def missing(languages):
        raise ModuleNotFoundError("No module named 'jieba'", name="jieba")

    model = stub(looks)
    monkeypatch.setattr(metrics, "caption_packages", missing)
    assert evaluate.main(["--checkpoint", "x", "--output", str(data / "result.json")]) == 2
    assert "takes the package jieba; pip install -r requirements.txt" in capsys.readouterr().err
    assert model.requests == []


# ---------------------------------------------------------------------------------------------- the numbers


def answered(prediction: str, *references: str, **fields) -> Question:
    own = {"kind": "color", "language": "en", "source": "s", "images": ["a"], "group": "a", **fields}
    return Question("", "", list(references), prediction=prediction, **own)


def test_scores_per_type_language_and_source():
    questions = [
        answered("Red.", "red", blind="red"),
        answered("red", "blue", group="b", source="t", blind="red"),
        answered("two", "2", "a pair", kind="count", group="c"),
        answered("红色", "红色。", language="zh", group="d"),
        answered("dog", *["dog"] * 2, *["cat"] * 8, kind="other", group="e"),
        answered("a dog runs", "a dog runs", "the dog runs fast", kind="caption"),
        answered("a cat sleeps", "a cat sleeps", "one cat sleeps", kind="caption", source="t"),
        Question("", "", ["x"], ["b"], "b", "s", "en", "color"),  # never answered
    ]
    scores = evaluate.score_groups(questions)
    overall = scores["overall"]
    assert (overall["n"], overall["exact_match"]) == (5, 0.8)
    # Deviations 0.2, -0.8, 0.2, 0.2, 0.2 in five groups: sqrt(5/4 * 0.8) / 5.
    assert overall["standard_error"] == pytest.approx(0.2)
    assert overall["blind"] == 0.5
    assert (overall["vqa_n"], overall["vqa_accuracy"]) == (1, pytest.approx(0.6))
    assert overall["captions"]["en"]["n"] == 2 and overall["captions"]["en"]["BLEU-1"] == pytest.approx(1, abs=1e-6)
    assert {kind: (row["n"], row["exact_match"]) for kind, row in scores["by_type"].items()} == {
        "color": (3, pytest.approx(2 / 3)),
        "count": (1, 1.0),
        "caption": (0, None),
        "other": (1, 1.0),
    }
    assert {name: (row["n"], row["exact_match"]) for name, row in scores["by_language"].items()} == {
        "en": (4, 0.75),
        "zh": (1, 1.0),
    }
    assert scores["by_source"]["t"]["exact_match"] == 0.0
    assert scores["by_source"]["t"]["captions"]["en"]["CIDEr"] is None


def test_captions_stay_out_of_the_accuracy_and_are_scored_in_their_language(data, stub):
    stub(lambda question, seen: "这是红色的图片。" if "描述" in question else "nothing")
    result = run(data)
    assert (result["scores"]["overall"]["n"], result["scores"]["overall"]["exact_match"]) == (30, 0.0)
    captions = result["scores"]["by_type"]["caption"]["captions"]
    assert set(captions) == {"zh"} and captions["zh"]["n"] == 6
    # Words 这是/红色/的/图片 against the same or another colour: 4 of 4 in a third, 3 of 4 in the others.
    assert captions["zh"]["BLEU-1"] == pytest.approx((2 * 4 + 4 * 3) / 24)
    lines = [line for line in result["predictions"] if line["type"] == "caption"]
    assert {line["exact_match"] for line in lines} == {None}


def test_ten_answers_are_scored_by_vqa_accuracy_too(data, stub):
    def ten(annotations):
        annotations["12"][0]["turns"][0]["a"] = ["red"] * 2 + ["dark red"] * 8

    edit(data, ten)
    stub(looks)
    result = run(data, "--no-probes")
    (line,) = [line for line in result["predictions"] if line["vqa_accuracy"] is not None]
    assert line["vqa_accuracy"] == pytest.approx(0.6) and line["exact_match"] is True
    assert result["scores"]["overall"]["vqa_n"] == 1


def test_the_result_file_says_how_the_numbers_came_about(data, stub, capsys):
    stub(looks)
    result = run(data)
    assert result["complete"] is True
    assert result["checkpoint"] == (data / "checkpoint-1").as_posix() and result["device"] == "cpu"
    assert result["data"] == f"{(data / 'annotations.json').as_posix()} (held_out)"
    assert result["system"] == "Be brief."
    assert result["history"].startswith("none")
    assert result["generate"]["max_new_tokens"] == 8 and result["generate"]["do_sample"] is False
    assert result["segmenter"] == f"jieba {importlib.metadata.version('jieba')}"
    assert {"python", "torch", "transformers", "peft", "pycocoevalcap", "jieba"} == set(result["versions"])
    assert result["normalisation"] == metrics.NORMALISATION
    assert result["predictions"][0] == {
        "question": "What color is it?",
        "asked": f"{IMAGE_TOKEN}\nWhat color is it?",
        "references": ["red"],
        "images": [(data / "12.png").as_posix()],
        "source": "shapes",
        "language": "en",
        "type": "color",
        "prediction": "red",
        "exact_match": True,
        "vqa_accuracy": None,
        "majority": {"answer": "no", "exact_match": False},
        "question_only": {"answer": "blue", "exact_match": False},
        "swapped": result["predictions"][0]["swapped"],
        "blind": {"answer": "red", "exact_match": True},
    }
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == "n exact +- majority question only other picture no picture".split()
    assert lines[1].split()[:5] == ["all", "30", "1.000", "0.000", "0.267"]
    assert any(line.startswith("type yes/no") for line in lines)
    assert any(line.startswith("source bilder (zh)") for line in lines)
    assert not any(line.startswith("type caption") for line in lines)  # it has no exact match to show


def test_whole_sentences_as_references_are_pointed_out(data, stub, capsys):
    def talk(annotations):
        annotations["12"][0]["turns"][0]["a"] = ["The thing in this picture is red."]

    edit(data, talk)
    stub(looks)
    assert run(data, "--no-probes")["long_references"] == 1
    assert "1 of 30 questions have whole sentences as references" in capsys.readouterr().out
