"""evaluate.py: its arguments, and mistakes in one line before the model is loaded."""

from __future__ import annotations

import pytest

import evaluate
from answering.assistant import Assistant
from benchmarks.start import start
from evaluation import report
from settings import Generate
from tests.helpers.evaluating import edit, looks, run


def test_decoding_and_batch_size_come_from_the_config_and_the_command_line(data, stub):
    model = stub(looks)
    run(data, "--no-probes", "generate.batch_size=7", "generate.max_new_tokens=3")
    assert [size for size, _ in model.batches] == [7, 7, 7, 7, 7, 1]
    decoding = Generate(max_new_tokens=3).model_dump()
    del decoding["batch_size"]
    assert model.batches[0][1] == decoding


def test_where_nothing_can_be_asked_it_is_an_error(data, stub, capsys):
    for file in data.glob("*.png"):
        file.unlink()
    stub(looks)
    command = ["--checkpoint", str(data / "checkpoint-1"), "--output", str(data / "result.json")]
    assert evaluate.main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: none of the 36 questions could be asked; the first:") and error.count("\n") == 1
    assert not (data / "result.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.run=x"], "only generate.KEY=VALUE and data.max_pixels=N can be changed here"),
        (["generate.batchsize=4"], "nearest valid key: generate.batch_size"),
        (["--metric", "bleu"], "--metric = 'bleu': no such metric; choose one of exact_match, vqa_accuracy"),
        (["--metric", "cats=anls"], "--metric cats=anls: no question is of the source 'cats', only of bilder, shapes"),
        (["--image-map", "no.json", "--annotations", "no.json"], "cannot be read as what process_image.py writes"),
    ],
)
def test_mistakes_are_one_line_and_status_two(data, stub, capsys, arguments, message):
    stub(looks)
    assert (
        evaluate.main(["--checkpoint", str(data / "checkpoint-1"), "--output", str(data / "result.json"), *arguments])
        == 2
    )
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error


def test_a_split_without_questions_and_a_run_without_data_say_what_to_do(data, stub, capsys):
    stub(looks)
    edit(data, lambda annotations: [annotations.pop(str(n)) for n in range(12, 24)])
    assert evaluate.main(["--checkpoint", str(data / "checkpoint-1")]) == 2
    assert "holds no question of the split test; choose another --split" in capsys.readouterr().err
    (data / "annotations.json").unlink()
    assert evaluate.main(["--checkpoint", str(data / "checkpoint-1")]) == 2
    assert "run process_image.py" in capsys.readouterr().err


def test_a_missing_caption_package_is_found_before_anything_is_asked(data, stub, capsys, monkeypatch):
    def missing(languages):
        raise ModuleNotFoundError("No module named 'jieba'", name="jieba")

    model = stub(looks)
    monkeypatch.setattr(report, "caption_packages", missing)
    assert evaluate.main(["--checkpoint", str(data / "checkpoint-1"), "--output", str(data / "result.json")]) == 2
    assert "needs the package jieba; pip install -r requirements.txt" in capsys.readouterr().err
    assert model.requests == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--help"], ""),
        (["--checkpoint", "no/such/folder"], "error: no checkpoint at no"),
        (["--checkpoint", "{checkpoint}", "--device", "moon"], "error: device 'moon' is not known"),
        (["--checkpoint", "{checkpoint}", "generate.batchsize=4"], "error: "),
        (["--checkpoint", "{checkpoint}", "--image-map", "no.json", "--annotations", "no.json"], "error: no.json and"),
        (["--checkpoint", "{checkpoint}", "--output", "README.md/result.json"], "error: README.md/result.json: cannot"),
        (["--checkpoint", "{checkpoint}", "--output", "x.html"], "error: --output x.html: the report is written under"),
        (["--checkpoint", "{checkpoint}", "--limit", "0"], "usage: evaluate.py"),
    ],
)
def test_a_mistake_is_found_before_torch_is_imported(checkpoint, arguments, message):
    done = start("evaluate.py", [argument.format(checkpoint=checkpoint) for argument in arguments])
    assert done.stderr.startswith(message) and done.status == (2 if message else 0)
    assert done.imported == []


def test_ctrl_c_while_the_page_is_made_keeps_the_result(data, stub, monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    stub(looks)
    monkeypatch.setattr("evaluation.html.content.write_report", interrupted)
    output = data / "result.json"
    assert evaluate.main(["--checkpoint", str(data / "checkpoint-1"), "--output", str(output), "--no-probes"]) == 0
    assert output.is_file() and not output.with_suffix(".html").exists()
    assert f"The page with their pictures was interrupted: {data / 'result.html'} is not" in capsys.readouterr().out


def test_ctrl_c_while_the_loss_is_measured_keeps_the_result(data, stub, monkeypatch, capsys):
    stub(looks)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("evaluation.sight.measure_sight", interrupted)
    result = run(data)
    assert result["complete"] and result["sight"] is None and result["answered"] == result["questions"]
    assert "the loss with another picture is not measured (interrupted)" in capsys.readouterr().err


def test_what_is_measured_of_the_loss_is_in_the_file_and_in_what_is_printed(data, stub, monkeypatch, capsys):
    stub(looks)
    sight = {"loss": 0.5, "loss_other_picture": 1.5, "gap": 1.0, "standard_error": 0.1}
    sight |= {"visual_token_lengths": 2.0, "visual_token_spread": 0.9, "warnings": ["a warning"]}
    monkeypatch.setattr("evaluation.sight.measure_sight", lambda *_: sight)
    assert run(data)["sight"] == sight
    printed = capsys.readouterr().out
    assert "gap +1.000 ± 0.100" in printed and "a warning" in printed


def test_verify_reads_all_files_again(data, stub, monkeypatch):
    model, asked = stub(looks), []
    monkeypatch.setattr(Assistant, "load", lambda *arguments, **options: asked.append(options["verify"]) or model)
    run(data, "--no-probes")
    run(data, "--no-probes", "--verify")
    assert asked == [False, True]
