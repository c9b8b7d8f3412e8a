"""Samples to a batch."""

from __future__ import annotations

import inspect

import torch

from dataset.collate import PADDING, BatchInfo, Counts, collate, model_inputs, samples_of_batch
from dataset.prompt import IGNORE_INDEX
from model.model import MMultiModal
from qwen.tokenizer import IMAGE_TOKEN, TREE_STRIDE, token_id
from tests.helpers.conversations import ask, conversation


def test_collate_pads_right_by_position_and_masks_padding(open_dataset):
    dataset = open_dataset(conversations={"text": [conversation(("hello", "yes"))]}, pictures=2)
    samples = [dataset[0], dataset[1]]
    batch = collate(samples, pad_token_id=dataset.tokenizer.eos_token_id)  # a pad id that is also in the text
    lengths = [len(s["input_ids"]) for s in samples]
    assert batch["input_ids"].shape == batch["labels"].shape == (2, max(lengths)) and lengths[0] > lengths[1]
    for row, sample in enumerate(samples):
        length = lengths[row]
        assert batch["input_ids"][row, :length].tolist() == sample["input_ids"]
        assert batch["labels"][row].tolist() == sample["labels"] + [IGNORE_INDEX] * (max(lengths) - length)
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (max(lengths) - length)


def test_packed_samples_are_one_row_without_padding(open_dataset):
    talks = {"0": [conversation((f"{IMAGE_TOKEN}\nWhat {n}?", "red")) for n in ("is it", "color is it")]}
    dataset = open_dataset(conversations=talks, pictures=3)
    samples = [dataset[i] for i in range(len(dataset))]
    batch = collate(samples, pad_token_id=0, packed=True)
    for key in ("input_ids", "labels", "position_ids"):
        assert batch[key].tolist() == [[value for sample in samples for value in sample[key]]]
    assert batch["attention_mask"].all() and batch["info"].counts.padding == 0
    assert batch["segments"].tolist() == [
        [n * TREE_STRIDE + branch for n, sample in enumerate(samples) for branch in sample["segments"]]
    ]
    assert batch["images_per_row"].tolist() == [len(samples)] and batch["info"].images_per_tree == 1
    assert batch["info"].ids == [sample["id"] for sample in samples]
    one = collate(samples[1:2], pad_token_id=0, packed=True)
    assert torch.equal(one["input_ids"], collate(samples[1:2], pad_token_id=0)["input_ids"])


def test_text_only_one_image_and_several_images_share_a_batch(open_dataset):
    several = conversation((f"{IMAGE_TOKEN} or {IMAGE_TOKEN}?", "red"), images=[1, 0])
    dataset = open_dataset(conversations={"text": [conversation(("hello", "yes"))], "1": [several]}, pictures=3)
    batch = collate([dataset[i] for i in range(3)], pad_token_id=0)
    assert batch["images_per_row"].tolist() == [1, 2, 0]
    assert batch["pixel_values"].shape == (2, 3, 42, 42)  # image 0 is there once: first in row 0, second in row 1
    assert batch["image_index"].tolist() == [0, 1, 0]
    image = token_id(dataset.tokenizer, IMAGE_TOKEN)
    assert (batch["input_ids"] == image).sum(1).tolist() == [8, 16, 0]


def test_a_batch_of_text_alone_has_no_pixels(open_dataset):
    dataset = open_dataset(conversations={"text": [conversation(("hello", "yes"))]}, pictures=1)
    batch = collate([dataset[0]], pad_token_id=0)
    assert "pixel_values" not in batch and batch["images_per_row"].tolist() == [0]


def test_what_is_for_people_is_one_object_and_the_rest_are_the_models_arguments(open_dataset):
    dataset = open_dataset(conversations={"text": [conversation(("hello", "yes"))]}, pictures=2)
    samples = [{**dataset[0], "skipped": ["9/0: too long"]}, dataset[1]]
    batch = collate(samples, pad_token_id=0)
    lengths = [len(sample["input_ids"]) for sample in samples]
    assert batch["info"] == BatchInfo(
        ids=["0/0", "text/0"],
        skipped=["9/0: too long"],
        counts=Counts(tokens=sum(lengths), visual=8, padding=lengths[0] - lengths[1]),
        images_per_tree=1,
        real=True,
        position=None,
    )
    inputs = model_inputs(batch)
    assert inputs.keys() == batch.keys() - {"info"} and all(map(torch.is_tensor, inputs.values()))
    parameters = inspect.signature(MMultiModal.forward).parameters
    assert inputs.keys() <= parameters.keys()
    assert samples_of_batch(dataset, [0, 1]).keys() == inputs.keys()


def test_branches_bring_segments_and_position_ids(open_dataset):
    dataset = open_dataset(conversations={"0": [conversation(ask(f"{n}?", "red")) for n in range(2)]}, pictures=3)
    batch = collate([dataset[0], dataset[1]], pad_token_id=0)
    first, second = dataset[0], dataset[1]
    longest = max(len(first["input_ids"]), len(second["input_ids"]))
    for key, fill in (("segments", PADDING), ("position_ids", 0)):
        rows = [sample[key] + [fill] * (longest - len(sample[key])) for sample in (first, second)]
        assert batch[key].tolist() == rows and batch[key].dtype == torch.int64
    assert "segments" not in collate([second], pad_token_id=0)
