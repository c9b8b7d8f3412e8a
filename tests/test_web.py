"""web.py: mistakes are found before anything heavy is imported, and its requirements are the project's with gradio."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import pytest

from benchmarks.start import HEAVY, start
from common.language import in_chinese
from tests.helpers.tiny import REPO


def pins(name: str) -> dict[str, str]:
    lines = (REPO / name).read_text(encoding="utf-8").splitlines()
    return dict(found.groups() for line in lines if (found := re.match(r"([\w-]+)==(\S+)", line)))


def command():
    """web.py as a module; its name is not imported by anything."""
    spec = importlib.util.spec_from_file_location("web_command", REPO / "web.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--help"], ""),
        (["--checkpiont", "demo"], "usage:"),
        (["--port", "70000"], "usage:"),
        (["--prefixes", "0"], "usage:"),
        (["--device", "moon"], "error: device 'moon' is not known"),
        (["photo.jpg"], "error: command line: photo.jpg: only generate.KEY=VALUE"),
        (["--checkpoint", "no-such-checkpoint"], "error: no checkpoint at no-such-checkpoint"),
        (["--checkpoint", "docs"], "error: docs holds no complete checkpoint"),
        (["--base-language", "nowhere"], "error: --base-language = nowhere: no config.json"),
        (["--lang", "zh", "--checkpoint", "no-such-checkpoint"], "错误：no-such-checkpoint 没有检查点"),
    ],
)
def test_a_mistake_is_one_line_before_torch_and_gradio_are_imported(arguments, message):
    done = start("web.py", arguments, (*HEAVY, "gradio"))
    assert done.stderr.startswith(message) and done.status == (2 if message else 0)
    assert done.imported == []
    if message == "":
        assert "--share" in done.stdout and "example: python web.py" in done.stdout


def test_without_gradio_one_line_says_how_to_get_an_environment_with_it(checkpoint):
    code = "import sys, runpy; sys.modules['gradio'] = None; "
    code += f"sys.argv = ['web.py', '--checkpoint', {str(checkpoint)!r}]; runpy.run_path('web.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "pip install -r requirements-web.txt" in done.stderr
    assert in_chinese(done.stderr.strip().removeprefix("error: ")).startswith("这里没有安装 gradio")


def test_the_requirements_are_the_projects_with_gradio_and_an_older_pillow():
    usual, web = pins("requirements.txt"), pins("requirements-web.txt")
    assert web.pop("gradio") and int(web.pop("pillow").partition(".")[0]) < 13
    del usual["pillow"]
    assert web == usual


def test_the_command_line_reaches_the_model_and_nothing_is_shared_unless_asked_for(checkpoint, monkeypatch):
    web, served = command(), []
    monkeypatch.setattr(web, "is_installed", lambda package: True)
    monkeypatch.setattr(web, "serve", lambda model, port, share: served.append((model, port, share)))
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR", "no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(web.signal, "signal", lambda *arguments: None)
    arguments = ["--checkpoint", str(checkpoint.parent), "--device", "cpu"]
    assert web.main([*arguments, "--prefixes", "2", "generate.max_new_tokens=3"]) == 0
    assert web.main([*arguments, "--port", "8123", "--share"]) == 0
    (model, *first), (_, *second) = served
    assert first == [None, False] and second == [8123, True]
    assert model.first == model.checkpoint == checkpoint and model.assistant.most_prefixes == 2
    assert model.assistant.config.generate.max_new_tokens == 3
