"""The command: its help, and mistakes in one line."""

from __future__ import annotations

import pytest

from process_image import main
from tests.helpers.workplace import Workplace, llava


def test_errors_of_the_config_and_of_paths_are_one_line(tmp_path, capsys):
    workplace = Workplace(tmp_path)
    assert main(["--config", str(workplace.folder / "none.yaml")]) == 2
    workplace.source("en", "coco", [llava("a.png", "q", "a")])
    (workplace.folder / "en.json").unlink()
    assert workplace.run() == 2
    (workplace.folder / "en.json").write_text("[{]", encoding="utf-8")
    assert workplace.run() == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith("error: ") for line in lines)
    assert "data.sources.0.annotations" in lines[1] and "line 1, column 3" in lines[2]


def test_help_teaches_with_an_example(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert "python process_image.py --config config.yaml" in text and "image_id" in text and "<image>" in text
