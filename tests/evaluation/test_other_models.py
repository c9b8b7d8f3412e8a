"""evaluate.py --model: the questions of a config or of two files, and the same result file."""

from __future__ import annotations

import json

import pytest

import evaluate
from benchmarks.start import start
from tests.helpers.llava import save_llava


def files(data) -> list[str]:
    return ["--image-map", str(data / "image_map.json"), "--annotations", str(data / "annotations.json")]


def test_a_model_is_asked_the_questions_of_a_run_with_its_floors_and_probes(data, stub, tmp_path, capsys):
    stub(lambda *_: "")  # for its config
    folder = save_llava(tmp_path / "team" / "llava")
    output = data / "result.json"
    command = ["--config", str(data / "checkpoint-1" / "config.yaml"), "--model", str(folder), "--device", "cpu"]
    assert evaluate.main([*command, "--output", str(output), "generate.max_new_tokens=2"]) == 0
    result = json.loads(output.read_text(encoding="utf-8"))
    assert result["complete"] and result["answered"] == result["questions"] == 36
    assert result["checkpoint"] == str(folder) and result["system"] == "" and result["device"] == "cpu"
    assert result["sight"] is None and "tokens" not in result
    probed = {name for line in result["predictions"] for name in line["baselines"]}
    assert probed == {"majority", "question_only", "other_picture", "no_picture"}
    assert "team / llava" in output.with_suffix(".html").read_text(encoding="utf-8")
    edited = (folder / "generation_config.json").read_text(encoding="utf-8")
    (folder / "generation_config.json").write_text(edited + "\n", encoding="utf-8")
    assert evaluate.main([*command, "--output", str(output), "generate.max_new_tokens=2", "--resume"]) == 2
    assert "was made with checkpoint_sha256 = " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "x"], "usage: "),
        (["--config", "demo.yaml"], "usage: "),
        (["--model", "x", "--checkpoint", "y", "--config", "demo.yaml"], "usage: "),
        (["--checkpoint", "y", "--endpoint", "http://127.0.0.1:1/v1"], "usage: "),
        (["--model", "x", "--config", "no.yaml"], "error: no.yaml: no such file"),
        (["--model", "x", "{files}", "generate.batchsize=4"], "error: command line: generate.batchsize"),
        (["--model", "x", "{files}", "--endpoint", "localhost"], "error: --endpoint localhost: expected an address"),
    ],
)
def test_a_mistake_is_found_before_torch_is_imported(data, arguments, message):
    given = [word for argument in arguments for word in (files(data) if argument == "{files}" else [argument])]
    done = start("evaluate.py", given)
    assert done.stderr.startswith(message) and done.status == 2 and done.imported == []


def test_a_system_text_of_the_command_line_is_given_to_the_model(data, tmp_path):
    folder, output = save_llava(tmp_path / "llava"), data / "result.json"
    command = [*files(data), "--split", "test", "--model", str(folder), "--device", "cpu", "--output", str(output)]
    more = ["--no-probes", "--limit", "3", "generate.max_new_tokens=2", "language.system=Answer with one word."]
    assert evaluate.main([*command, *more]) == 0
    assert json.loads(output.read_text(encoding="utf-8"))["system"] == "Answer with one word."


def test_a_model_that_is_nowhere_is_one_line(data, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert evaluate.main([*files(data), "--model", "no/such-model", "--output", str(data / "result.json")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --model = no/such-model: ") and error.count("\n") == 1
