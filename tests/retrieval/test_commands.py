"""The commands on tiny towers: index, search, classify and evaluate."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.start import start
from evaluation import compare
from evaluation.baselines import BASELINES
from evaluation.result import Result, read_result
from retrieval.__main__ import main
from retrieval.encoder import load_encoder
from retrieval.index import Index
from retrieval.zero_shot import CHINESE_TEMPLATES, TEMPLATES, label_vectors, probabilities, unknown_labels
from settings import save_config
from tests.helpers.towers import draw, save_two_towers


@pytest.fixture
def towers(tmp_path) -> Path:
    return save_two_towers(tmp_path / "towers")


@pytest.fixture
def photos(tmp_path) -> Path:
    draw(tmp_path / "photos", a="red", b="green", c="blue")
    return tmp_path / "photos"


def run(tmp_path, *arguments: str) -> int:
    command, *rest = arguments
    return main([command, "--index", str(tmp_path / "index"), "--device", "cpu", *rest])


def test_an_index_is_made_once_and_a_picture_finds_itself(tmp_path, towers, photos, capsys):
    (photos / "broken.jpg").write_bytes(b"no picture")
    assert run(tmp_path, "index", str(photos), "--model", str(towers)) == 0
    printed = capsys.readouterr()
    assert "3 pictures in" in printed.out and "3 new or changed" in printed.out and "broken.jpg: " in printed.err
    draw(photos, d="black")
    (photos / "a.png").unlink()
    assert run(tmp_path, "index", str(photos)) == 0
    assert "3 pictures in" in (out := capsys.readouterr().out) and "1 new or changed, 1 no longer there" in out
    assert run(tmp_path, "search", "--image", str(photos / "c.png"), "--top", "2") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"1.0000  {(photos / 'c.png').resolve()}" and float(second.split()[0]) < 1


def test_a_text_finds_what_its_cosines_say(tmp_path, towers, photos, capsys):
    run(tmp_path, "index", str(photos), "--model", str(towers))
    capsys.readouterr()
    assert run(tmp_path, "search", "a red circle") == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    encoder = load_encoder(str(towers), torch.device("cpu"))
    query = encoder.texts(["a red circle"])[0]
    wanted = {str(path.resolve()): float(encoder.image(path) @ query) for path in photos.iterdir()}
    assert {path: float(score) for score, path in lines} == pytest.approx(wanted, abs=1e-4)
    assert [float(score) for score, _ in lines] == sorted((float(score) for score, _ in lines), reverse=True)


def test_a_contact_sheet_escapes_names_and_texts(tmp_path, towers, photos):
    Image.new("RGB", (500, 20), "red").save(photos / "<script>alert(1)<b>.png")
    run(tmp_path, "index", str(photos), "--model", str(towers))
    sheet = tmp_path / "found.html"
    assert run(tmp_path, "search", "<img src=x onerror=alert(1)>", "--html", str(sheet)) == 0
    page = sheet.read_text(encoding="utf-8")
    assert "<script" not in page and "<img src=x" not in page and "&lt;script&gt;" in page
    assert page.count("data:image/jpeg;base64,") == 4 and "default-src 'none'" in page


def test_labels_are_averaged_over_templates_in_their_language(towers):
    encoder = load_encoder(str(towers), torch.device("cpu"))
    red, chinese = label_vectors(encoder, ["red", "红色"])
    for label, templates, found in (("red", TEMPLATES, red), ("红色", CHINESE_TEMPLATES, chinese)):
        mean = encoder.texts([template.replace("{}", label) for template in templates]).mean(0)
        np.testing.assert_allclose(found, mean / np.linalg.norm(mean), rtol=1e-5)
    assert not np.allclose(label_vectors(encoder, ["red"], ["only {}"])[0], red, atol=1e-3)
    assert unknown_labels(encoder, ["red", "红色"]) == []  # the demo's tokenizer is of bytes


@pytest.mark.parametrize("kind", ["siglip", "clip"])
def test_probabilities_are_those_that_the_towers_were_trained_for(tmp_path, kind):
    encoder = load_encoder(str(save_two_towers(tmp_path, kind)), torch.device("cpu"))
    cosines = np.array([[0.1, 0.3]], np.float32)
    found = probabilities(encoder, cosines)
    logits = torch.tensor(cosines) * encoder.towers.log_scale.detach().exp()
    wanted = torch.sigmoid(logits + encoder.towers.bias.detach()) if kind == "siglip" else logits.softmax(-1)
    np.testing.assert_allclose(found, wanted.double().numpy(), rtol=1e-4)


def test_classify_names_each_picture_and_evaluate_counts_the_folders(tmp_path, towers, capsys):
    draw(tmp_path / "classes" / "red", a="red", b="red")
    draw(tmp_path / "classes" / "blue", c="blue")
    assert run(tmp_path, "classify", str(tmp_path / "classes"), "--labels", "red, blue", "--model", str(towers)) == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines() if line.endswith(".png")]
    right = sum(Path(path).parent.name == label for label, _, path in lines)
    (tmp_path / "classes" / "blue" / "broken.png").write_bytes(b"no picture")
    output = tmp_path / "result.json"
    command = ["evaluate", "--model", str(towers), "--classes", str(tmp_path / "classes"), "--device", "cpu"]
    assert len(lines) == 3 and main([*command, "--output", str(output)]) == 0
    found = read_result(output)
    group = found["scores"]["by_type"]["label"]
    assert (group["n"], group["images"], group["chance"]) == (3, 3, 0.5) and found["unasked"] == 1
    assert group["score"] == pytest.approx(right / 3) and group["baselines"].keys() == BASELINES.keys()
    assert [line["id"] for line in found["predictions"]] == ["blue/broken.png", "blue/c.png", "red/a.png", "red/b.png"]
    assert "data:image/webp;base64," in output.with_suffix(".html").read_text(encoding="utf-8")


@pytest.fixture
def captions(make_config, tmp_path) -> Path:
    """A config of six pictures: each is described in English, and asked a question."""
    config = make_config(pictures=6)
    groups = {}
    for entry in json.loads(config.data.image_map.read_text(encoding="utf-8")).values():
        Image.new("RGB", (20, 20), (40 * entry["ID"], 90, 90)).save(entry["path"])
        turns = [{"q": "<|extra_0|>\nDescribe the picture.", "a": [f"picture {entry['ID']}", "it is grey"]}]
        turns.append({"q": "Who?", "a": ["Ann"]})
        groups[str(entry["ID"])] = [{"source": "s", "language": "en", "split": "test", "turns": turns}]
    config.data.annotations.write_text(json.dumps(groups), encoding="utf-8")
    save_config(config, tmp_path / "run.yaml")
    return tmp_path / "run.yaml"


def evaluated(towers: Path, captions: Path, output: Path) -> Result:
    command = ["evaluate", "--model", str(towers), "--config", str(captions), "--device", "cpu"]
    assert main([*command, "--output", str(output)]) == 0
    return read_result(output)


def test_evaluate_writes_recall_on_captions_as_a_result_with_its_page(towers, captions, tmp_path, capsys):
    found = evaluated(towers, captions, tmp_path / "result.json")
    recall, scores = found["recall"], found["scores"]["by_type"]
    assert recall["text_to_image"]["n"] == 12 and recall["image_to_text"]["recall_at_10"] == 1.0
    assert recall["text_to_image"]["chance_at_1"] == pytest.approx((1 / 6 + 1) / 2)  # "it is grey" is right for all
    for kind, name in (("text to picture", "text_to_image"), ("picture to text", "image_to_text")):
        assert scores[kind]["score"] == pytest.approx(recall[name]["recall_at_1"])
        assert scores[kind]["standard_error"] == pytest.approx(recall[name]["standard_error_at_1"])
        assert scores[kind]["chance"] == pytest.approx(recall[name]["chance_at_1"])
    assert scores["picture to text"]["baselines"].keys() == BASELINES.keys()
    assert scores["text to picture"]["baselines"] == {} and found["long_references"] == 0
    assert found["metrics"] == {"s": "top_1"}
    printed = capsys.readouterr().out
    assert re.search(r"^text to image   R@1 \d\.\d{3} ± .* R@10 .* chance 0\.583   n 12$", printed, re.M)
    assert re.search(r"^ +n +top 1 ", printed) and re.search(r"^type picture to text +6 ", printed, re.M)
    page = (tmp_path / "result.html").read_text(encoding="utf-8")
    assert len(re.findall(r'"src": ?"data:image/webp;base64,', page)) == 6


def test_a_result_is_compared_with_other_towers_and_with_a_models_captions(towers, captions, tmp_path, capsys):
    first = evaluated(towers, captions, tmp_path / "first.json")
    evaluated(save_two_towers(tmp_path / "wide", width=32), captions, tmp_path / "second.json")
    model = {**first, "recall": None, "generate": {"num_beams": 1}}
    own = [line | {"prediction": "a dog", "score": None} for line in first["predictions"] if line["type"] == "caption"]
    answer = own[0] | {"id": "0/0/1", "question": "Who?", "references": ["Ann"], "type": "other", "score": 1.0}
    (tmp_path / "model.json").write_text(json.dumps(model | {"predictions": [*own, answer]}), encoding="utf-8")
    (tmp_path / "short.json").write_text(json.dumps(model | {"predictions": [answer]}), encoding="utf-8")
    capsys.readouterr()
    assert compared(tmp_path, "second.json") == 0
    assert re.search(r"^type text to picture +12 ", capsys.readouterr().out, re.M)
    assert compared(tmp_path, "model.json") == 0
    printed = capsys.readouterr().out
    assert "No question with a short answer has a score in both results." in printed
    assert "A captions (en)  6 " in printed and "18 questions are in A only" in printed
    assert "1 questions are in B only" in printed and "6 otherwise with the same score" in printed
    assert "not alike in the two: generate: B has settings of it, the other has none" in printed
    assert compared(tmp_path, "short.json") == 2
    assert "the two results have no question in common; evaluate both on the same data" in capsys.readouterr().err


def compared(folder: Path, other: str) -> int:
    return compare.main([str(folder / "first.json"), str(folder / other), "--output", str(folder / "comparison.html")])


def test_evaluate_loses_no_answers_and_names_what_it_lacks(towers, captions, tmp_path, capsys):
    output = tmp_path / "result.json"
    command = ["evaluate", "--model", str(towers), "--config", str(captions), "--output", str(output)]
    assert main([*command, "--language", "zh"]) == 2
    assert "holds no caption of the split test in zh" in capsys.readouterr().err and not output.exists()
    content = json.dumps({"predictions": [], "scores": {}, "complete": False, "answered": 7})
    output.write_text(content, encoding="utf-8")
    assert main(command) == 2 and output.read_text(encoding="utf-8") == content
    assert "holds 7 answers of an interrupted evaluation" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--help"], ""),
        (["search"], "usage: "),
        (["evaluate", "--model", "x", "--template", "a {}"], "usage: "),
        (["search", "x", "--index", "no/index"], "error: no"),
        (["index", "no/folder", "--model", "x"], "error: no"),
        (["index", "docs", "--index", "no/index"], "error: no"),
        (["classify", "docs", "--labels", "cat", "--model", "x"], "error: --labels cat: expected two labels"),
        (["evaluate", "--model", "demo/backbones/siglip", "--classes", "docs/none"], "error: --classes docs"),
    ],
)
def test_a_mistake_is_found_before_torch_is_imported(arguments, message):
    done = start("-m", ["retrieval", *arguments])
    assert done.stderr.startswith(message) and done.status == (2 if message else 0)
    assert done.imported == []


def test_an_index_whose_towers_have_changed_is_refused(tmp_path, towers, photos, capsys):
    run(tmp_path, "index", str(photos), "--model", str(towers))
    save_two_towers(towers, width=32)
    assert run(tmp_path, "search", "x") == 2
    assert "has changed since" in capsys.readouterr().err
    assert Index.open(tmp_path / "index").width == 16
