"""Write the measurements to one JSON file and one Markdown table, and print the table."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

TRAINING = {  # column -> key
    "questions/s": "questions/s",
    "real tokens/s": "tokens/s",
    "answered/s": "answered tokens/s",
    "ms": "ms",
    "least": "least ms",
    "most": "most ms",
    "rows": "rows",
    "GiB": "peak GiB",
    "MFU": "MFU",
    "4N alone": "MFU, 4N alone",
    "of ceiling": "of ceiling",
}
PARITY = {"loss": "loss", "loss difference": "loss difference", "worst gradient": "worst gradient"}
ESTIMATES = {"rows": "rows", "length": "length", "estimate GiB": "estimate GiB", "peak GiB": "peak GiB"}
ESTIMATES |= {"estimate over peak": "estimate over peak", "ms": "ms"}


def write(folder: Path, commit: str | None, device: str, seconds: float) -> Path:
    """Write CARD-DATE.json and table.md into ``folder``, print the table; the JSON's path."""
    lines = (folder / "measurements.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if record["status"] != "begun"]
    facts = machine(commit, device)
    found = {**facts, "seconds": round(seconds, 1), "measurements": records}
    name = re.sub(r"[^a-z0-9]+", "-", facts["card"].lower()).strip("-")
    path = folder / f"{name}-{facts['date']}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = markdown(found)
    (folder / "table.md").write_text(text, encoding="utf-8")
    print("\n" + text[-11_000:], flush=True)
    return path


class Machine(TypedDict):
    """Where and with what the measurements were made."""

    card: str
    driver: str
    date: str
    commit: str
    python: str
    versions: dict[str, str]  # of each package


def machine(commit: str | None, device: str) -> Machine:
    """Card, date, versions, commit."""
    versions = {}
    for package in ("torch", "transformers", "peft", "accelerate", "triton", "bitsandbytes"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    card, driver = "CPU", ""
    if device == "cuda":
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        card, _, driver = (output(query) or "CUDA").splitlines()[0].partition(", ")
    root = Path(__file__).resolve().parents[2]
    return {
        "card": card,
        "driver": driver,
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit or output(["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"]) or "unknown",
        "python": platform.python_version(),
        "versions": versions,
    }


def output(command: list[str]) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def markdown(found: dict) -> str:
    """All tables, the most important last, since a terminal shows the end of a long output."""
    parts: dict[str, list[dict]] = {}
    for record in found["measurements"]:
        parts.setdefault(record["part"], []).append(record)
    ok = {part: [r for r in records if r["status"] == "ok"] for part, records in parts.items()}
    text = [f"# {found['card']}, {found['date']}, commit {found['commit']}, {found['seconds']:.0f} s", ""]
    text += [", ".join(f"{name} {version}" for name, version in found["versions"].items()), ""]
    left_out = [r for records in parts.values() for r in records if r["status"] != "ok"]
    text += ["## Left out or failed", ""] if left_out else []
    text += [f"- {r['part']}, {r['name']}: {r['status']}: {r.get('error', '')[:160]}" for r in left_out] + [""]
    text += facts("counts", ok) + profiles(ok.get("profile", []))
    text += section("parity", ok, PARITY, "loss")
    text += section("estimates", ok, ESTIMATES, "rows") + facts("answering", ok)
    text += section("training", ok, TRAINING, "questions/s")
    return "\n".join(text) + "\n"


def section(part: str, ok: dict[str, list[dict]], columns: dict[str, str], key: str) -> list[str]:
    """A table of the measurements that have ``key``, and a line for each of the others."""
    records = ok.get(part, [])
    rows = [[r["name"], *(cell(r.get(name)) for name in columns.values())] for r in records if key in r]
    others = [r for r in records if key not in r]
    return (
        facts(part, {part: others}, heading=not rows)
        if not rows
        else [
            f"## {part.capitalize()}",
            "",
            *table(["", *columns], rows),
            "",
            *facts(part, {part: others}, heading=False),
        ]
    )


def facts(part: str, ok: dict[str, list[dict]], heading: bool = True) -> list[str]:
    """One line for each measurement."""
    lines = []
    for record in ok.get(part, []):
        values = {k: v for k, v in record.items() if k not in ("part", "name", "status", "seconds")}
        shown = ", ".join(f"{k} {cell(v)}" for k, v in values.items() if v is not None)
        lines.append(f"- {record['name']}: {shown[:700]}")
    return [*([f"## {part.capitalize()}", ""] if heading else []), *lines, ""] if lines else []


def profiles(records: list[dict]) -> list[str]:
    """Where a step's time goes, and its kernels."""
    text = []
    for record in records:
        text += [f"## Profile of {record['name']}", ""]
        keys = ("ms without the profiler", "profiled ms", "busy ms", "idle share", "kernels in a step")
        text += [", ".join(f"{key} {cell(record[key])}" for key in keys if key in record), ""]
        shares = [[name, f"{100 * share:.1f} %"] for name, share in record["shares"].items()]
        kernels = [
            [k["kernel"][:60], cell(k["ms"]), f"{100 * k['share']:.1f} %", cell(k["times"])] for k in record["kernels"]
        ]
        text += [*table(["region", "share"], shares), "", *table(["kernel", "ms", "share", "times"], kernels), ""]
    return text


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def cell(value) -> str:
    """A value as text; numbers with three significant digits."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name}: {cell(one)}" for name, one in value.items()) + ")"
    if isinstance(value, list):
        return "[" + ", ".join(map(cell, value)) + "]"
    return str(value)
