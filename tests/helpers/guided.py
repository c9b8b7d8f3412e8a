"""Coverage-guided fuzzing of one reader with atheris (Linux and macOS), which looks for bytes that reach new code.

    python -m tests.helpers.guided annotations -max_total_time=600

Other readers: formats, config, manifest, image, shard. The options are libFuzzer's. It ends with an error, and with
the bytes in ``crash-...``, if an error other than the reader's own comes out, if a case takes more than 5 seconds, or
if the process grows above 2 GB.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import atheris

WATCHED = ["PIL", "common", "dataset", "model", "qwen", "settings"]
with atheris.instrument_imports(include=WATCHED):
    from tests.helpers import readers

ROOT = Path(__file__).resolve().parent.parent.parent
SEEDS = {
    "annotations": [
        json.dumps([{"id": "1", "image_id": "a.jpg", "caption": ["一只猫", "a cat"]}]).encode(),
        json.dumps([{"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\nWhat?"}]}]).encode(),
        b'{"image": "a.jpg", "caption": "a"}\n{"image": "a.jpg", "caption": "b"}\n',
    ],
    "formats": readers.format_files(),
    "config": [(ROOT / name).read_bytes() for name in ("config.yaml", "demo.yaml")],
    "manifest": [json.dumps({"files": {}, "base_models": {}, "sha256": "0" * 64}).encode()],
    "image": readers.image_files(),
    "shard": readers.shards(),
}


def main() -> None:
    name = sys.argv.pop(1)
    reader = getattr(readers, name)
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(SEEDS[name]):
            (corpus / str(number)).write_bytes(seed)
        with atheris.instrument_imports(include=WATCHED):
            reader(Path(folder), SEEDS[name][0])  # the first call may import transformers, which takes its time
        options = ["-timeout=5", "-rss_limit_mb=2048", "-max_len=20000", *sys.argv[1:], str(corpus)]
        atheris.Setup([sys.argv[0], *options], lambda content: reader(Path(folder), content) and None)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
