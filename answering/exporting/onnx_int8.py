"""ONNX graphs with int8 matrices, whose activations are quantised while they run."""

from __future__ import annotations

import importlib
from pathlib import Path

from answering.exporting.onnx import quiet


def quantize(folder: Path) -> None:
    """Replace an export's graphs.

    Unsigned weights: signed ones overflow in the 16-bit sums of processors without VNNI. One scale for each column.
    """
    onnx, tools = importlib.import_module("onnx"), importlib.import_module("onnxruntime.quantization")
    for name in ("vision.onnx", "language.onnx"):
        temporary = folder / f"int8-{name}"
        with quiet():
            tools.quantize_dynamic(
                folder / name,
                temporary,
                weight_type=tools.QuantType.QUInt8,
                per_channel=True,
                use_external_data_format=True,
                extra_options={"MatMulConstBOnly": True},
            )
        graph = onnx.load(str(temporary))
        for old in (name, f"{name}.data", temporary.name, f"{temporary.name}.data"):
            (folder / old).unlink(missing_ok=True)
        onnx.save(graph, str(folder / name), save_as_external_data=True, location=f"{name}.data")
