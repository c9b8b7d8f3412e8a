"""The command ``python -m qwen.load``: its arguments are checked before torch is imported."""

from __future__ import annotations

import argparse
import sys

from common.errors import UserError
from common.hub import local_model_folder


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m qwen.load",
        description="Print what a folder with a Qwen holds, and what it will need in memory.",
        epilog="example: python -m qwen.load demo/backbones/qwen",
    )
    parser.add_argument("model", metavar="DIR", help="a folder, or a name on the hub such as Qwen/Qwen3-1.7B")
    args = parser.parse_args()
    try:
        if local_model_folder(args.model) is None and (args.model.startswith(".") or args.model.count("/") != 1):
            raise UserError(f"{args.model}: no such folder, and no hub name such as Qwen/Qwen3-1.7B")
        from qwen.load import describe

        print("\n".join(describe(args.model)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
