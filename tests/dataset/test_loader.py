"""Batches in a process of their own, and what its errors look like here."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from torch.utils.data import IterableDataset

from common.errors import UserError
from dataset.batches import EpochBatches
from dataset.image import load_image_processor
from dataset.image_caption_dataset import ImageCaptionDataset
from dataset.loader import lost_worker, open_loader
from qwen.tokenizer import load_tokenizer


class OddError(Exception):
    """Cannot be made from one text, as an error that comes from another process would be."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


class Failing(ImageCaptionDataset):
    """Raises ``failure`` from the third sample on, or sends itself that signal."""

    failure: Exception | int

    def __getitem__(self, key: int) -> dict:
        if key < 2:
            return super().__getitem__(key)
        if isinstance(self.failure, int):
            os.kill(os.getpid(), self.failure)
        raise self.failure


@pytest.fixture
def dataset(make_config) -> Failing:
    config = make_config()
    return Failing(config, load_tokenizer(config.language.path), load_image_processor(config.vision.path))


def batches_of(dataset: Failing, workers: int = 1) -> list[dict]:
    found = []
    for batch in open_loader(dataset, EpochBatches([[0], [1], [2]], dataset.lengths, None), workers=workers):
        found.append(batch)
    return found


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        (UserError("data.x: is not there; set it"), r"^data.x: is not there; set it$"),
        (OddError(1, 2), r"^loading a batch failed: OddError: 1 and 2 \(.*test_loader.py, line \d+\)$"),
        (KeyError("a"), r"^loading a batch failed: KeyError: 'a' \("),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "odd"), r"^loading a batch failed: UnicodeDecodeError: .*odd \("),
        (torch.OutOfMemoryError("much"), r"^loading a batch failed: OutOfMemoryError: much \("),
    ],
)
def test_an_error_of_any_class_in_a_worker_is_one_line(dataset, failure, line):
    dataset.failure = failure
    with pytest.raises(UserError, match=line) as caught:
        batches_of(dataset)
    assert "Traceback" not in str(caught.value)


def test_without_workers_an_error_is_left_as_it_is(dataset):
    dataset.failure = OddError(1, 2)
    with pytest.raises(OddError):
        batches_of(dataset, workers=0)


def test_a_worker_that_was_killed_is_one_line():
    """PyTorch's two messages; it raises them from a signal handler, at a moment no test can choose."""
    for text in ("DataLoader worker (pid 7) is killed by signal: Killed. ", "DataLoader worker (pid(s) 7) exited"):
        line = str(lost_worker(RuntimeError(text)))
        assert line.startswith(f"a process that loads data has ended ({text.strip()}); ") and "num_workers" in line
    assert lost_worker(RuntimeError("CUDA error")) is None


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_does_not_end_a_worker(dataset):
    """It goes to every process of the terminal, and the main process still needs data to finish its step."""
    dataset.failure = int(signal.SIGINT)
    with pytest.raises(UserError, match="loading a batch failed: TypeError"):  # it survived the signal
        batches_of(dataset)


def test_batches_are_those_without_workers(dataset):
    dataset.failure = OddError(1, 2)
    alone, other = (
        list(open_loader(dataset, EpochBatches([[0, 1], [1]], dataset.lengths, 3), workers=n)) for n in (0, 2)
    )
    assert len(alone) == 2
    for one, same in zip(alone, other, strict=True):
        assert one["info"].ids == same["info"].ids and torch.equal(one["input_ids"], same["input_ids"])


class Stream(IterableDataset):
    def __iter__(self):
        yield {"number": 1}
        raise OddError(1, 2)


def test_an_error_of_a_stream_in_a_worker_is_one_line(dataset):
    loader = iter(open_loader(Stream(), None, workers=1))
    assert next(loader) == {"number": 1}
    with pytest.raises(UserError, match=r"^loading a batch failed: OddError: 1 and 2 \("):
        next(loader)
