"""Message trees: what is shared, who sees whom, and that nothing but time is different from separate rows."""

from __future__ import annotations

import json

import pytest

from dataset.batches import plan_batches
from dataset.collate import collate
from dataset.image import load_image_processor
from dataset.image_caption_dataset import ImageCaptionDataset
from dataset.prompt import IGNORE_INDEX, Turn, build_prompt, images_first
from dataset.trees import grow_tree, root_length, split_into_trees
from process_image import process_coco
from qwen.tokenizer import IMAGE_TOKEN, load_tokenizer
from tests.helpers.conversations import CONVERSATIONS, ask, conversation

IMAGE = 9
X = IGNORE_INDEX


# ---------------------------------------------------------------------------------------------- the parts


def test_root_is_what_all_share_and_never_the_token_before_a_label():
    rows = [([1, 9, 9, 5, 6], [X, X, X, X, 6]), ([1, 9, 9, 7, 8, 6], [X, X, X, X, 8, 6])]
    assert root_length(rows, IMAGE, 2) == 3
    same = [rows[0], rows[0]]  # all five tokens are shared, the last is supervised, the one before predicts it
    assert root_length(same, IMAGE, 2) == 3
    assert root_length(rows[:1], IMAGE, 2) == 0


def test_root_never_cuts_an_image():
    rows = [([1, 9, 9, 9, 9, 5], [X] * 5 + [5]), ([1, 9, 9, 3, 5], [X] * 4 + [5])]
    assert root_length(rows, IMAGE, 2) == 3  # the first of two images is shared
    assert root_length([([1, 9, 9, 9, 9, 5, 5], [X] * 6 + [5]), ([1, 9, 5, 5, 5], [X] * 4 + [5])], IMAGE, 2) == 1


def test_a_tree_has_the_root_once_and_positions_that_continue_it():
    rows = [([1, 9, 5, 6], [X, X, X, 6]), ([1, 9, 7, 8, 6], [X, X, X, 8, 6])]
    assert grow_tree(rows, 2) == {
        "input_ids": [1, 9, 5, 6, 7, 8, 6],
        "labels": [X, X, X, 6, X, 8, 6],
        "segments": [0, 0, 1, 1, 2, 2, 2],
        "position_ids": [0, 1, 2, 3, 2, 3, 4],
    }
    alone = grow_tree(rows[:1], 0)
    assert alone["input_ids"] == rows[0][0] and alone["segments"] == [1] * 4 and alone["position_ids"] == [0, 1, 2, 3]


@pytest.mark.parametrize("root", [3, 4])
def test_a_branch_that_begins_with_a_label_is_refused(root):
    rows = [([1, 9, 5, 6, 6], [X, X, X, 6, X]), ([1, 9, 5, 6, 7], [X, X, X, 6, 7])]
    with pytest.raises(ValueError, match="branch 1"):
        grow_tree(rows, root)


def test_many_questions_are_split_over_several_trees():
    assert split_into_trees([10, 10, 10, 10, 10], root=4, most=18) == [[0, 1], [2, 3], [4]]
    assert split_into_trees([18, 5], root=4, most=18) == [[0], [1]]


# ---------------------------------------------------------------------------------------------- the data


@pytest.fixture
def open_dataset(make_config):
    def build(*overrides: str, conversations: dict = CONVERSATIONS) -> ImageCaptionDataset:
        config = make_config(*overrides, pictures=5, conversations=conversations)
        processor = load_image_processor(config.vision.path)
        return ImageCaptionDataset(config, load_tokenizer(config.language.path), processor)

    return build


def test_all_conversations_of_an_image_are_one_sample_with_the_image_once(open_dataset):
    dataset = open_dataset()
    assert len(dataset.conversations) == 8 and [len(tree) for tree in dataset.trees] == [4, 2, 1, 1]
    sample = dataset[0]
    assert sample["id"] == "0/0, 0/1, 0/2, 0/3" and len(sample["pixel_values"]) == 1
    assert sample["input_ids"].count(dataset.image_token_id) == 8 == sample["visual_tokens"]
    assert set(sample["segments"]) == {0, 1, 2, 3, 4} and len(sample["input_ids"]) == dataset.lengths[0]
    for number, (_, given) in enumerate(dataset.conversations[:4], start=1):
        turns = [Turn(turn["q"], turn["a"][0]) for turn in given["turns"]]
        ids, _ = build_prompt(dataset.tokenizer, turns, system=dataset.system, image_context_length=8)
        kept = [i for i, segment in enumerate(sample["segments"]) if segment in (0, number)]
        assert [sample["input_ids"][i] for i in kept] == ids
        assert [sample["position_ids"][i] for i in kept] == list(range(len(ids)))


def test_trees_can_be_turned_off(open_dataset):
    dataset = open_dataset("data.message_trees=false")
    assert [len(tree) for tree in dataset.trees] == [1] * 8 and dataset[2]["id"] == "0/2"
    assert "segments" not in collate([dataset[0], dataset[4]], 0)


def test_a_tree_never_exceeds_the_longest_prompt(open_dataset):
    many = {"0": [conversation(ask(f"What is number {n}?", str(n))) for n in range(30)]}
    dataset = open_dataset("language.max_length=120", conversations=many)
    numbers = [number for tree in dataset.trees for number in tree]
    assert sorted(numbers) == list(range(33)) and sum(len(tree) > 2 for tree in dataset.trees) >= 3
    for index in range(len(dataset)):
        assert len(dataset[index]["input_ids"]) <= dataset.lengths[index] <= 120


def test_images_after_the_question_become_rows_or_are_moved_to_the_front(open_dataset):
    after = {"0": [conversation((f"What is it?\n{IMAGE_TOKEN}", "a")), conversation((f"Where?\n{IMAGE_TOKEN}", "b"))]}
    assert [len(tree) for tree in open_dataset(conversations=after).trees] == [1] * 5
    dataset = open_dataset("data.images_first=true", conversations=after)
    assert [len(tree) for tree in dataset.trees] == [2, 1, 1, 1] and len(dataset[0]["pixel_values"]) == 1
    assert f"user\n{IMAGE_TOKEN * 8}\nWhat is it?" in dataset.tokenizer.decode(dataset[0]["input_ids"])


def test_images_first_keeps_their_number_and_leaves_text_alone():
    turns = [Turn(f"a{IMAGE_TOKEN}b", "x"), Turn(f"{IMAGE_TOKEN}\nc", "y")]
    assert images_first(turns) == [Turn(IMAGE_TOKEN * 2 + "\nab", "x"), Turn("c", "y")]
    assert images_first([Turn("a", "x")]) == [Turn("a", "x")]
    assert turns[0].question == f"a{IMAGE_TOKEN}b"


def test_a_conversation_too_long_costs_its_tree_only_itself(open_dataset):
    long = {
        "0": [conversation(ask("word " * 200, "a")), conversation(ask("What?", "b")), conversation(ask("Where?", "c"))]
    }
    dataset = open_dataset("language.max_length=100", "data.max_skipped=0.2", conversations=long)
    assert [len(tree) for tree in dataset.trees] == [2, 1, 1, 1] and min(dataset.lengths) > 0
    assert dataset[0]["id"] == "0/1, 0/2" and dataset[0]["skipped"] == []
    assert [line[:13] for line in dataset.unusable] == ["0/0: too long"]


@pytest.mark.parametrize("overrides", [[], ["data.tokens_per_batch=20000"]])
def test_padding_on_llavas_conversations_stays_under_five_percent(open_dataset, shared_data, tmp_path, overrides):
    """By the dataset's own lengths, 728 visual tokens each; the pictures themselves are not needed."""
    records = json.loads((shared_data / "annotations" / "llava_instruct_100.json").read_text(encoding="utf-8"))
    names = {record["image"] for record in records}
    _, annotations = process_coco(records, {name: tmp_path / name for name in names})
    talks = {k: [{**c, "split": "train"} for c in group] for k, group in annotations.items()}
    dataset = open_dataset("language.max_length=4096", conversations={})
    dataset.image_context_length = 728
    dataset.conversations = [(f"{k}/{n}", {"images": [int(k)], **c}) for k, g in talks.items() for n, c in enumerate(g)]
    dataset.trees, dataset.lengths = [], []
    dataset._plan(message_trees=True, progress=False)
    assert len(names) == len(annotations) and min(dataset.lengths) > 728 and not dataset.unusable
    budget = 20000 if overrides else None
    batches = plan_batches(dataset.lengths, size=8, budget=budget, seed=0)
    room = sum(len(batch) * max(dataset.lengths[i] for i in batch) for batch in batches)
    assert 1 - sum(dataset.lengths) / room < 0.05
