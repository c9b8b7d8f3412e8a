"""Writing and reading one GGUF file: keys, and tensors as numpy arrays in torch's order of dimensions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import UserError

if TYPE_CHECKING:
    from gguf import GGUFReader, GGUFWriter

Tensors = dict[str, np.ndarray]


def write_file(file: Path, tensors: Tensors, keys: dict[str, Any], arch: str) -> None:
    """Write a file, and read its tensors again: names, shapes and every bit.

    Raises:
        UserError: what is read is not what was to be written.
    """
    from gguf import GGUFReader, GGUFWriter

    writer = GGUFWriter(file, arch)
    for key, value in keys.items():
        _add_key(writer, key, value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_tensors(GGUFReader(file))
    if found.keys() != tensors.keys():
        raise UserError(f"{file.name}: the tensors read again have other names")
    for name, tensor in tensors.items():
        same = found[name].shape == tensor.shape and found[name].dtype == tensor.dtype
        if not same or not np.array_equal(_bytes(found[name]), _bytes(tensor)):
            raise UserError(f"{file.name}: {name} is not what was written; is the disk sound?")


def read_keys(reader: GGUFReader) -> dict[str, Any]:
    """All keys of a file."""
    return {name: field.contents() for name, field in reader.fields.items()}


def read_tensors(reader: GGUFReader) -> Tensors:
    """All tensors of a file."""
    return {
        tensor.name: tensor.data.reshape([int(length) for length in reversed(tensor.shape)])
        for tensor in reader.tensors
    }


def _add_key(writer: GGUFWriter, key: str, value: Any) -> None:
    """Write one key with the type that llama.cpp reads: unsigned integers, 32-bit floats."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).view(np.uint8)
