"""From the two JSON files to a batch."""

from __future__ import annotations

import pickle
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader

from common.errors import UserError
from dataset.batches import EpochBatches
from dataset.collate import collate
from dataset.image import load_image_processor
from dataset.image_caption_dataset import ImageCaptionDataset
from dataset.prompt import IGNORE_INDEX
from qwen.tokenizer import IMAGE_TOKEN, load_tokenizer, token_id
from tests.helpers.conversations import conversation
from tests.helpers.tiny import TOKENIZER


def test_placeholder_is_expanded_and_pixels_are_the_encoders(open_dataset):
    sample = open_dataset()[0]
    image = token_id(load_tokenizer(str(TOKENIZER)), IMAGE_TOKEN)
    assert sample["input_ids"].count(image) == 8
    assert [p.shape for p in sample["pixel_values"]] == [(3, 42, 42)] and sample["pixel_values"][
        0
    ].dtype == torch.float32
    red, green, blue = (sample["pixel_values"][0][c].unique().item() for c in range(3))  # a plain picture
    assert (red, green, blue) == pytest.approx((0 / 127.5 - 1, 90 / 127.5 - 1, 255 / 127.5 - 1), abs=1e-5)


def test_a_system_text_of_its_own_replaces_the_configs_and_makes_a_tree_of_its_own(open_dataset):
    plain, briefly = (conversation((f"{IMAGE_TOKEN}\n{text}?", "red")) for text in ("What", "Which color"))
    dataset = open_dataset(
        conversations={"0": [plain, {**briefly, "system": "Be brief."}, plain, {**plain, "system": ""}]}
    )
    samples = [dataset[i] for i in range(2)]
    assert [sample["id"] for sample in samples] == ["0/0, 0/2, 0/3", "0/1"]
    usual, own = (dataset.tokenizer.decode(sample["input_ids"]) for sample in samples)
    assert own.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n") and own.count("system") == 1
    assert usual.startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n") and "brief" not in usual


def test_reference_answer_is_drawn_per_epoch_and_repeats_with_the_seed(open_dataset):
    dataset = open_dataset()

    def answers(dataset, epoch):
        ids = [dataset[epoch * len(dataset) + i] for i in range(len(dataset))]
        return ["red" in dataset.tokenizer.decode(s["input_ids"]) for s in ids]

    epochs = [answers(dataset, epoch) for epoch in range(6)]
    assert len(set(map(tuple, epochs))) > 1 and {True, False} == {a for e in epochs for a in e}
    assert epochs == [answers(open_dataset(), epoch) for epoch in range(6)]
    assert epochs != [answers(open_dataset("data.seed=1"), epoch) for epoch in range(6)]


def test_a_bad_image_is_replaced_and_named(open_dataset, tmp_path):
    dataset = open_dataset()
    (tmp_path / "1.png").write_bytes(b"not a picture")
    sample = dataset[1]
    assert sample["id"] in ("0/0", "2/0", "3/0", "4/0")
    assert len(sample["skipped"]) == 1 and sample["skipped"][0].startswith("1/0: ")
    assert collate([dataset[0], sample], 0)["info"].skipped == sample["skipped"]


def test_the_stand_in_is_drawn_by_seed_epoch_and_index(open_dataset, tmp_path):
    def stand_ins(*overrides: str) -> list[str]:
        dataset = open_dataset(*overrides, pictures=31)
        for number in (13, 17):
            (tmp_path / f"{number}.png").write_bytes(b"not a picture")
        return [dataset[epoch * len(dataset) + index]["id"] for epoch in range(20) for index in (13, 17)]

    found = stand_ins()
    assert found == stand_ins() != stand_ins("data.seed=1")
    assert len(set(found)) > 15 and {"13/0", "17/0"}.isdisjoint(found)  # 40 draws from 28 are 22 different ones


def test_a_stand_in_is_not_longer_than_the_batch_was_planned_for(open_dataset, tmp_path):
    long = {str(n): [conversation((f"{IMAGE_TOKEN}\n" + "word " * 30, "red"))] for n in range(1, 20)}
    dataset = open_dataset(pictures=22, conversations=long)
    (tmp_path / "20.png").unlink()
    assert {dataset[epoch * len(dataset) + 20]["id"] for epoch in range(10)} == {"0/0"}


def test_only_bad_images_end_in_an_error(open_dataset, tmp_path):
    dataset = open_dataset()
    for file in tmp_path.glob("*.png"):
        file.unlink()
    with pytest.raises(UserError, match="5 samples in a row cannot be used"):
        dataset[0]


HOPELESS = conversation((f"{IMAGE_TOKEN}\n" + "word " * 300, "red"))
SHORT = ["language.max_length=120", "data.max_skipped=0.2"]


def test_too_long_loses_oldest_turns_else_is_in_no_sample_never_left_without_a_label(open_dataset):
    long = conversation((f"{IMAGE_TOKEN}\n" + "word " * 300, "red"), ("and now?", "blue"))
    dataset = open_dataset(*SHORT, conversations={"0": [long], "1": [HOPELESS]})
    sample = dataset[0]
    text = dataset.tokenizer.decode(sample["input_ids"])
    assert len(sample["input_ids"]) <= 120 and "word" not in text and "and now?" in text
    assert text.count(IMAGE_TOKEN) == 8 and any(label != IGNORE_INDEX for label in sample["labels"])
    assert [dataset[i]["id"] for i in range(4)] == ["0/0", "2/0", "3/0", "4/0"] and len(dataset) == 4
    assert dataset.lengths[0] == len(sample["input_ids"])
    assert len(dataset.unusable) == 1 and dataset.unusable[0].startswith("1/0: too long")
    assert dataset.describe_unusable().startswith("1 of 5 conversations (20.0%) cannot be used; the first is 1/0: too")


def test_a_wrong_number_of_placeholders_is_found_when_the_epoch_is_planned(open_dataset):
    dataset = open_dataset("data.max_skipped=0.2", conversations={"1": [conversation(("no picture", "red"))]})
    assert dataset.unusable == ["1/0: 0 image placeholders for 1 images"]


def test_more_unusable_conversations_than_max_skipped_are_refused(open_dataset):
    bad = {"0": [HOPELESS], "1": [HOPELESS]}
    with pytest.raises(UserError) as caught:
        open_dataset(*SHORT, conversations=bad)
    assert str(caught.value).startswith(
        "data.annotations: train split: 2 of 5 conversations (40.0%) cannot be used, data.max_skipped allows 20.0%; "
        "the first is 0/0: too long: "
    )
    assert "raise language.max_length, or raise data.max_skipped" in str(caught.value)
    assert len(open_dataset("language.max_length=120", "data.max_skipped=0.4", conversations=bad)) == 3


def test_a_split_of_which_nothing_can_be_used_is_refused_even_if_all_may_be_skipped(open_dataset):
    with pytest.raises(UserError, match="none of 5 conversations can be used; the first is 0/0: too long"):
        open_dataset("language.max_length=20", "data.max_skipped=1")


def test_a_reference_answer_that_is_too_long_is_never_drawn(open_dataset):
    answers = ["red", "word " * 300, "blue"]
    talk = conversation((f"{IMAGE_TOKEN}\nColor?", "red"))
    talk["turns"][0]["a"] = answers
    dataset = open_dataset("language.max_length=120", conversations={"0": [talk]})
    assert not dataset.unusable and dataset.conversations[0][1]["turns"][0]["a"] == ["red", "blue"]
    drawn = {dataset[epoch * len(dataset)]["id"] for epoch in range(20)}
    assert drawn == {"0/0"}


def test_workers_give_what_the_main_process_gives(open_dataset):
    dataset = open_dataset()
    batches = EpochBatches([[0, 3], [1, 4], [2]], dataset.lengths, seed=3)
    options = {"collate_fn": partial(collate, pad_token_id=0), "batch_sampler": batches}
    pickle.dumps(options["collate_fn"])  # what spawn needs on Windows and macOS
    alone, workers = (list(DataLoader(dataset, num_workers=n, **options)) for n in (0, 2))
    for one, other in zip(alone, workers, strict=True):
        assert one["info"].ids == other["info"].ids and torch.equal(one["input_ids"], other["input_ids"])
        assert torch.equal(one["pixel_values"], other["pixel_values"])


def test_augmented_pictures_differ_by_epoch_and_repeat_by_seed(make_config):
    config = make_config("data.augment=true", pictures=12)
    tools = load_tokenizer(config.language.path), load_image_processor(config.vision.path)
    dataset, plain = ImageCaptionDataset(config, *tools), ImageCaptionDataset(make_config(pictures=12), *tools)
    changed = [
        [not torch.equal(dataset[key]["pixel_values"][0], plain[key]["pixel_values"][0]) for key in epoch]
        for epoch in (range(11), range(11, 22))
    ]
    assert changed[0] != changed[1] and 0 < sum(changed[0]) < 11
    again = ImageCaptionDataset(config, *tools)
    assert all(torch.equal(dataset[key]["pixel_values"][0], again[key]["pixel_values"][0]) for key in range(22))
    held_out = ImageCaptionDataset(config, *tools, "validation")[0]["pixel_values"][0]
    assert torch.equal(
        held_out, ImageCaptionDataset(make_config(pictures=12), *tools, "validation")[0]["pixel_values"][0]
    )


def test_augmentation_and_kept_features_are_refused_together(make_config, tmp_path):
    with pytest.raises(UserError, match=r"data.augment = true: expected false with data.feature_cache"):
        make_config("data.augment=true", f"data.feature_cache={tmp_path / 'features'}")
