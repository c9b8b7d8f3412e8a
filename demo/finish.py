"""The last step of ``make demo``: prints the score and its baselines, one answer, and the command for the window."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True, help="the run's folder or a checkpoint")
    parser.add_argument("--result", required=True, type=Path, help="what evaluate.py wrote")
    args = parser.parse_args()
    result = json.loads(args.result.read_text(encoding="utf-8"))
    prediction = next(p for p in result["predictions"] if p["type"] == "color")
    question, image = prediction["question"], prediction["images"][0]
    command = [sys.executable, "ask.py", "--checkpoint", args.checkpoint, "--image", image, question]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout.strip()
    overall = result["scores"]["overall"]
    print(f"\nTest: exact match {overall['score']:.3f} over {overall['n']} questions, beside its baselines:")
    for name, floor in overall["baselines"].items():
        print(f"  {name.replace('_', ' '):14} {floor['mean']:.3f}")
    print("\nA test picture that was never trained on:", image)
    print(f"  {question}  ->  {answer}   (right: {prediction['references'][0]})")
    print("\nOpen the window on this model:")
    print(f"  {sys.executable} test_gui.py --checkpoint {args.checkpoint} {image}")


if __name__ == "__main__":
    main()
