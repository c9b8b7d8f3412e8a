"""The commands on tiny towers: index, search, classify and evaluate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.start import start
from retrieval.__main__ import main
from retrieval.encoder import load_encoder
from retrieval.index import Index
from retrieval.zero_shot import CHINESE_TEMPLATES, TEMPLATES, label_vectors, probabilities, unknown_labels
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
    output = tmp_path / "numbers.json"
    command = ["evaluate", "--model", str(towers), "--classes", str(tmp_path / "classes"), "--device", "cpu"]
    assert len(lines) == 3 and main([*command, "--output", str(output)]) == 0
    assert json.loads(output.read_text())["zero_shot"]["accuracy"] == pytest.approx(right / 3)
    assert "chance   0.500" in capsys.readouterr().out


def test_evaluate_prints_recall_on_the_captions_of_a_config(make_config, tmp_path, towers, capsys):
    config = make_config(pictures=6)
    image_map = json.loads(config.data.image_map.read_text(encoding="utf-8"))
    groups = {
        str(entry["ID"]): [
            {
                "source": "s",
                "language": "en",
                "split": "test",
                "turns": [{"q": "<|extra_0|>\nDescribe the picture.", "a": [f"picture {entry['ID']}"]}],
            },
            {"source": "s", "language": "en", "split": "test", "turns": [{"q": "<|extra_0|>\nWho?", "a": ["Ann"]}]},
        ]
        for entry in image_map.values()
    }
    config.data.annotations.write_text(json.dumps(groups), encoding="utf-8")
    from settings import save_config

    save_config(config, tmp_path / "run.yaml")
    output = tmp_path / "numbers.json"
    command = ["evaluate", "--model", str(towers), "--config", str(tmp_path / "run.yaml"), "--device", "cpu"]
    assert main([*command, "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    assert found["text_to_image"]["n"] == 6 and found["text_to_image"]["chance_at_1"] == pytest.approx(1 / 6)
    assert found["image_to_text"]["recall_at_10"] == 1.0
    assert "text to image   R@1 " in capsys.readouterr().out
    assert main([*command, "--language", "zh"]) == 2
    assert "holds no caption of the split test in zh" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--help"], ""),
        (["search"], "usage: "),
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
