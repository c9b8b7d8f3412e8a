"""The GPU command on a CPU: every part gives its figures, and a part that fails or hangs does not stop the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from argparse import Namespace

import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu.parity import QUICK
from benchmarks.gpu.part import Part, Skip
from tests.helpers.tiny import REPO

PARTS = {"parity", "training", "profile", "answering", "estimates", "counts"}


def measurements(folder) -> list[dict]:
    lines = (folder / "measurements.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["status"] != "begun"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The result of the whole command with tiny shapes: about 40 s; it may take 20 minutes on a busy machine."""
    folder = tmp_path_factory.mktemp("gpu")
    line = [sys.executable, "-m", "benchmarks.gpu", "--minutes", "20", "--output", str(folder), "--commit", "abc"]
    line += ["--device", "cpu", "--preset", "tiny"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # more threads are slower at these sizes
    done = subprocess.run(line, cwd=REPO, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("cpu-*.json")
    result = json.loads(file.read_text(encoding="utf-8"))
    table = (folder / "table.md").read_text(encoding="utf-8")
    assert table[-10_000:] in done.stdout and table.startswith("# CPU, ") and len(list(folder.iterdir())) <= 8
    return result


def test_only_the_estimates_need_pydantic():
    parts = ", ".join(f"benchmarks.gpu.{part}" for part in sorted(PARTS))
    code = f"import sys; sys.modules['pydantic'] = None; import benchmarks.gpu.__main__, {parts}"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def by_name(result: dict, part: str) -> dict[str, dict]:
    return {r["name"]: r for r in result["measurements"] if r["part"] == part and r["status"] == "ok"}


def test_each_part_measures_and_nothing_fails(whole):
    assert {record["part"] for record in whole["measurements"]} == PARTS
    assert all(by_name(whole, part) for part in PARTS)
    assert [r for r in whole["measurements"] if r["status"] not in ("ok", "skipped")] == []
    skipped = [r["error"] for r in whole["measurements"] if r["status"] == "skipped"]
    assert all("CUDA" in reason or "bitsandbytes" in reason for reason in skipped)
    assert whole["card"] == "CPU" and whole["commit"] == "abc" and whole["versions"]["torch"]


def test_all_ways_to_compute_agree(whole):
    found = by_name(whole, "parity")
    ways = {name: record for name, record in found.items() if "worst gradient" in record}
    assert len(ways) == 2 * 2 * len(QUICK)
    for name, record in ways.items():
        assert record["loss difference"] < (2e-3 if "bfloat16" in name else 1e-5), name
        assert 0 < record["worst gradient"] < (0.05 if "bfloat16" in name else 1e-5), name
        assert len(record["groups"]) == 1 + 2 * 7
    decoding = found["decoding: static cache, dynamic cache, whole prompt"]
    assert decoding["growing cache, tokens as of the whole prompt"]
    assert decoding["fixed cache, tokens as of the whole prompt"]
    assert decoding["largest logit difference after the kept picture"] < 1e-5


def test_both_sides_are_trained_and_compared(whole):
    found = by_name(whole, "training")
    for size in ("1.5b", "0.5b"):
        ours, llava = found[f"ours {size}, trees of 5"], found[f"llava {size}, rows"]
        assert ours["length"] == 75 + 5 * 28 and llava["length"] == 75 + 28
        assert ours["questions/s"] == pytest.approx(5000 * ours["rows"] / ours["ms"])
        assert ours["answered tokens/s"] == pytest.approx(10 * ours["questions/s"])
        against = found["questions/s against llava"][f"ours {size}, trees of 5"]
        assert against == pytest.approx(
            ours["questions/s"]
            / max(record["questions/s"] for name, record in found.items() if name.startswith(f"llava {size}"))
        )


def test_the_profile_names_the_regions_of_a_step(whole):
    ((name, record),) = by_name(whole, "profile").items()
    assert sum(record["shares"].values()) == pytest.approx(1)
    regions = {"tower", "projector", "attention", "MLP", "LoRA", "norms", "head", "optimiser"}
    # The fastest setting is profiled, and which one that is depends on the machine. A fused layer multiplies by its
    # frozen matrix itself, so its base layer has no region.
    assert regions | (set() if "fused" in name else {"MLP, matrices"}) <= record["shares"].keys()
    assert record["shares"].get("other", 0) < 0.4


def test_every_preset_is_estimated(whole):
    found = by_name(whole, "estimates")
    assert {"qwen2.5-0.5b-8gb", "qwen3-1.7b", "qwen-1_8b-chat", "qwen2.5-7b-80gb"} <= found.keys()
    assert all(record["estimate GiB"] > 0 and record["ms"] > 0 for record in found.values())


# ---------------------------------------------------------------------------------------------- when something fails


def part(tmp_path, seconds: float = 60.0) -> Part:
    return Part("parity", tmp_path, Namespace(device="cpu", preset="tiny", compile=False, only=None), seconds)


def test_a_failed_measurement_is_recorded_and_the_next_one_follows(tmp_path):
    def fails() -> dict:
        raise ValueError("no such kernel")

    def cannot() -> dict:
        raise Skip("no card")

    one = part(tmp_path)
    assert one.measure("first", fails) is None
    assert one.measure("second", cannot) is None
    assert one.measure("third", lambda: {"ms": 2.0}) == {"ms": 2.0}
    assert one.measure("fourth", lambda: {"ms": 2.0}, needs=100) is None
    first, second, third, fourth = measurements(tmp_path)
    assert first["status"] == "failed" and first["error"] == "ValueError: no such kernel"
    assert "in fails" in first["trace"]
    assert (second["status"], second["error"]) == ("skipped", "no card")
    assert third["status"] == "ok" and third["ms"] == 2.0 and third["seconds"] >= 0
    assert fourth["status"] == "skipped" and "needs 100 s" in fourth["error"]


def test_after_a_crash_the_measurement_that_crashed_is_not_tried_again(tmp_path):
    part(tmp_path).measure("first", lambda: {"ms": 1.0})
    part(tmp_path)._write("second", "begun")  # and the process is gone
    again = part(tmp_path)
    for name in ("first", "second"):
        assert again.measure(name, lambda: {"ms": 3.0}) is None
    assert again.measure("third", lambda: {"ms": 3.0}) == {"ms": 3.0}
    found = {record["name"]: record["status"] for record in measurements(tmp_path)}
    assert found == {"first": "ok", "second": "failed", "third": "ok"}


def run_with(monkeypatch, tmp_path, scripts: dict[str, str], minutes: float) -> float:
    """Seconds that the command's loop takes with other programs as its parts."""
    begin = "import sys, os, time; print('imported', flush=True); seconds = float(sys.stdin.readline()); "
    lines = {name: [sys.executable, "-c", begin + script] for name, script in scripts.items()}
    monkeypatch.setattr(command, "command_of", lambda name: lines[name])
    started = time.monotonic()
    command.run_parts(Namespace(parts=list(scripts), output=tmp_path, minutes=minutes))
    return time.monotonic() - started


def test_a_part_that_hangs_is_stopped_at_its_share_and_the_next_one_runs(monkeypatch, tmp_path, capfd):
    scripts = {"parity": "print('stuck', flush=True); time.sleep(600)", "training": "print(f'has {seconds:.0f}')"}
    taken = run_with(monkeypatch, tmp_path, scripts, minutes=0.2)
    assert 2 < taken < 120  # its share is 2.6 s; it would sleep for 600
    printed = capfd.readouterr().out
    assert "stuck" in printed and "has " in printed
    (record,) = measurements(tmp_path)
    assert (record["part"], record["status"]) == ("parity", "stopped")


def test_a_part_that_crashes_is_started_again_and_the_time_it_leaves_goes_to_the_next(monkeypatch, tmp_path, capfd):
    tries = tmp_path / "tries"
    scripts = {
        "parity": f"open({str(tries)!r}, 'a').write('x'); os.abort()",
        "training": "print(f'has {seconds:.0f} seconds')",
    }
    run_with(monkeypatch, tmp_path, scripts, minutes=10)
    assert tries.read_text() == "xxx"
    (record,) = measurements(tmp_path)
    assert (record["part"], record["status"]) == ("parity", "failed")
    seconds = float(capfd.readouterr().out.split("has ")[1].split()[0])
    assert 500 < seconds <= 600  # without the time of the first part it would have 468
