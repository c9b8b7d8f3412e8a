"""The example pictures of demo/examples: the first test pictures of the demo, and questions about them.

    python -m demo.examples --output demo/examples

The window and the page in the browser show them where a checkpoint of the demo answers. Their scenes are of the test
fold, on which nothing of the demo is trained.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from demo.scenes import DESCRIBE, FOLDS_OF, KINDS, ask, draw_scene, render

PICTURES = 4
ANY_PICTURE = {"en": [DESCRIBE["en"][0], "How many objects are there?"], "zh": [DESCRIBE["zh"][0], "图中有几个图形？"]}


def write_examples(folder: Path) -> None:
    """Draw the pictures, and write examples.json. Every call gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures: list[dict[str, Any]] = []
    for number in range(PICTURES):
        rng = random.Random(f"example:{number}")
        scene = draw_scene(rng, folds=FOLDS_OF["test"], fewest=2)
        kinds = rng.sample(KINDS, 3)
        render(scene, rng).save(folder / f"{number + 1}.png", optimize=True)
        questions = {
            language: [ask(scene, language, random.Random(f"{number}:{kind}"), [kind]).question for kind in kinds]
            for language in ("en", "zh")
        }
        pictures.append({"file": f"{number + 1}.png", "questions": questions})
    text = json.dumps({"questions": ANY_PICTURE, "pictures": pictures}, ensure_ascii=False, indent=1) + "\n"
    (folder / "examples.json").write_text(text, encoding="utf-8", newline="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where to write: demo/examples")
    write_examples(parser.parse_args().output)


if __name__ == "__main__":
    main()
