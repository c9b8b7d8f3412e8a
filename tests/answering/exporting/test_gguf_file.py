"""A GGUF file is read again after it is written."""

from __future__ import annotations

import numpy as np
import pytest

from answering.exporting import gguf_file
from common.errors import UserError

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([np.nan, -0.0, 7], np.float32),
    "c": np.ones((4, 2, 2, 3), np.float16),
}
KEYS = {"llama.count": 3, "llama.scale": 0.5, "llama.on": False, "llama.name": "红", "llama.list": ["x", "y"]}


def test_keys_and_tensors_come_back_with_their_types(tmp_path):
    gguf_file.write_file(tmp_path / "x.gguf", TENSORS, KEYS, "llama")
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    keys, tensors = gguf_file.read_keys(reader), gguf_file.read_tensors(reader)
    assert {name: keys[name] for name in KEYS} == KEYS and keys["general.architecture"] == "llama"
    assert reader.fields["llama.count"].types == [gguf.GGUFValueType.UINT32]
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        np.testing.assert_array_equal(tensors[name], tensor)


@pytest.mark.parametrize(("wrong", "message"), [("name", "other names"), ("bit", "x.gguf: a is not what was written")])
def test_a_file_that_was_damaged_is_noticed(tmp_path, monkeypatch, wrong, message):
    right = gguf_file.read_tensors

    def damaged(reader):
        tensors = {name: tensor.copy() for name, tensor in right(reader).items()}
        if wrong == "name":
            tensors["z"] = tensors.pop("a")
        else:
            tensors["a"].view(np.uint8).reshape(-1)[0] ^= 1
        return tensors

    monkeypatch.setattr(gguf_file, "read_tensors", damaged)
    with pytest.raises(UserError, match=message):
        gguf_file.write_file(tmp_path / "x.gguf", TENSORS, KEYS, "llama")
