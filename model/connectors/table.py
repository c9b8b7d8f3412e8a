"""Prints what each kind of connector gives and costs with SigLIP so400m/14 at 384 px and Qwen2.5-1.5B.

python -m model.connectors.table
"""

from __future__ import annotations

import torch

from model.connectors import CONNECTORS, build_connector
from visual.geometry import PatchGrid

WIDTHS = 1152, 1536  # of so400m's features and of Qwen2.5-1.5B's embeddings
LAYERS = 28  # of Qwen2.5-1.5B


def rows() -> list[tuple[str, int, int]]:
    """Kind, visual tokens and parameters of each connector in its default sizes, and of ``pool`` with 2 x 2 patches."""
    found = []
    defaults: list[tuple[str, dict[str, int]]] = [(kind, {}) for kind in CONNECTORS]
    for kind, sizes in [*defaults, ("pool", {"pool": 2})]:
        grid = PatchGrid(27, 27, dropped=int(kind != "pool"))
        with torch.device("meta"):
            connector = build_connector(*WIDTHS, kind=kind, grid=grid, decoder_layers=LAYERS, **sizes)
        name = " ".join([kind, *map(str, sizes.values())])
        found.append((name, connector.num_tokens(grid), sum(p.numel() for p in connector.parameters())))
    return found


if __name__ == "__main__":
    for name, tokens, parameters in rows():
        print(f"{name:15} {tokens:4} tokens {parameters:12,} parameters")
