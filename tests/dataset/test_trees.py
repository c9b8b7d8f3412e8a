"""Message trees: what is shared, who sees whom, and that nothing but time is different from separate rows."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from transformers.integrations.flex_attention import WrappedFlexAttention

from dataset.batches import plan_batches
from dataset.collate import PADDING, collate, samples_of_batch
from dataset.image import load_image_processor
from dataset.image_caption_dataset import ImageCaptionDataset
from dataset.prompt import IGNORE_INDEX, Turn, build_prompt, images_first
from dataset.trees import grow_tree, root_length, split_into_trees
from model.model import build_model
from process_image import process_coco
from qwen.tokenizer import IMAGE_TOKEN, load_tokenizer
from qwen.tree_mask import check_mask, tree_block_mask, tree_mask
from tests.helpers.tiny import enlarge_projector

IMAGE = 9
X = IGNORE_INDEX


def talk(*turns: tuple[str, str], **extra) -> dict:
    listed = [{"q": q, "a": [a]} for q, a in turns]
    return {"source": "test", "language": "en", "split": "train", "turns": listed, **extra}


def ask(question: str, answer: str) -> tuple[str, str]:
    return f"{IMAGE_TOKEN}\n{question}", answer


CONVERSATIONS = {
    "0": [
        talk(ask("What color is it?", "red")),
        talk(ask("What is it?", "a circle"), ("图中有几个图形？", "1"), ("Is it large?", "no")),
        talk(ask("What color is it?", "red and round")),  # the question again, with another answer
        talk(ask("Where is it?", "top left")),
    ],
    "1": [talk(ask("图中有什么？", "一个圆形")), talk(ask("Is there a star?", "yes"))],
    "2": [talk(ask("How many?", "2"), ("and now?", "3"))],
}


# ---------------------------------------------------------------------------------------------- the parts


def test_root_is_what_all_share_and_never_the_token_before_a_label():
    rows = [([1, 9, 9, 5, 6], [X, X, X, X, 6]), ([1, 9, 9, 7, 8, 6], [X, X, X, X, 8, 6])]
    assert root_length(rows, IMAGE, 2) == 3
    same = [rows[0], rows[0]]  # all five tokens are shared, the last is learnt, the one before predicts it
    assert root_length(same, IMAGE, 2) == 3
    assert root_length(rows[:1], IMAGE, 2) == 0


def test_root_never_cuts_an_image():
    rows = [([1, 9, 9, 9, 9, 5], [X] * 5 + [5]), ([1, 9, 9, 3, 5], [X] * 4 + [5])]
    assert root_length(rows, IMAGE, 2) == 3  # the first of two images is shared
    assert root_length([([1, 9, 9, 9, 9, 5, 5], [X] * 6 + [5]), ([1, 9, 5, 5, 5], [X] * 4 + [5])], IMAGE, 2) == 1


def test_tree_has_the_root_once_and_positions_that_go_on_from_it():
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


def test_batches_hold_rows_of_like_length_and_every_row_once():
    lengths = [7, 100, 8, 101, 7, 300, 9]
    batches = plan_batches(lengths, size=2, budget=None, seed=0)
    assert sorted(i for batch in batches for i in batch) == list(range(7)) and all(len(b) <= 2 for b in batches)
    assert sorted(lengths[i] for i in batches[0]) == [7, 7] and {1, 3} in map(set, batches)
    packed = plan_batches(lengths, size=2, budget=210, seed=0)
    assert all(len(b) * max(lengths[i] for i in b) <= 210 for b in packed if len(b) > 1)
    assert sorted(map(len, packed)) == [1, 2, 4]  # 300 alone, 100 and 101, the four short ones
    assert plan_batches([5] * 20, size=5, budget=None, seed=0) != plan_batches([5] * 20, size=5, budget=None, seed=1)


def test_mask_lets_a_branch_see_the_root_and_itself():
    mask = tree_mask(torch.tensor([[0, 1, 1, 2, PADDING]]))
    assert mask.shape == (1, 1, 5, 5) and mask.dtype == torch.bool
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 0, 0, 1, 0],
        [0, 0, 0, 0, 1],
    ]


def test_a_mask_of_the_wrong_kind_is_refused():
    mask, restart = torch.ones(1, 1, 3, 3, dtype=torch.bool), torch.tensor([[0, 1, 1, 0]])
    check_mask(mask, "sdpa", None)
    check_mask(mask.float(), "eager", None)
    for kind, implementation in ((mask, "eager"), (mask.float(), "sdpa"), (mask, "flash_attention_2")):
        with pytest.raises(ValueError, match=f"mask .* cannot be used with '{implementation}'"):
            check_mask(kind, implementation, None)
    for flat in (None, torch.ones(1, 4)):
        with pytest.raises(ValueError, match="position_ids restart"):
            check_mask(flat, "sdpa", restart)
    check_mask(None, "sdpa", torch.tensor([[0, 1, 2, 3]]))
    blocks = tree_block_mask(torch.zeros(1, 128, dtype=torch.long))
    check_mask(blocks, "flex_attention", restart)
    for kind, implementation in ((blocks, "sdpa"), (mask, "flex_attention"), (None, "flex_attention")):
        with pytest.raises(ValueError, match=f"mask cannot be used with '{implementation}'"):
            check_mask(kind, implementation, None)


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
    for number, (_, conversation) in enumerate(dataset.conversations[:4], start=1):
        turns = [Turn(turn["q"], turn["a"][0]) for turn in conversation["turns"]]
        ids, _ = build_prompt(dataset.tokenizer, turns, system=dataset.system, image_context_length=8)
        kept = [i for i, segment in enumerate(sample["segments"]) if segment in (0, number)]
        assert [sample["input_ids"][i] for i in kept] == ids
        assert [sample["position_ids"][i] for i in kept] == list(range(len(ids)))


def test_trees_can_be_turned_off(open_dataset):
    dataset = open_dataset("data.message_trees=false")
    assert [len(tree) for tree in dataset.trees] == [1] * 8 and dataset[2]["id"] == "0/2"
    assert "segments" not in collate([dataset[0], dataset[4]], 0)


def test_a_tree_never_exceeds_the_longest_prompt(open_dataset):
    many = {"0": [talk(ask(f"What is number {n}?", str(n))) for n in range(30)]}
    dataset = open_dataset("language.max_length=120", conversations=many)
    numbers = [number for tree in dataset.trees for number in tree]
    assert sorted(numbers) == list(range(33)) and sum(len(tree) > 2 for tree in dataset.trees) >= 3
    for index in range(len(dataset)):
        assert len(dataset[index]["input_ids"]) <= dataset.lengths[index] <= 120


def test_images_behind_the_question_fall_back_to_rows_or_are_moved_to_the_front(open_dataset):
    behind = {"0": [talk((f"What is it?\n{IMAGE_TOKEN}", "a")), talk((f"Where?\n{IMAGE_TOKEN}", "b"))]}
    assert [len(tree) for tree in open_dataset(conversations=behind).trees] == [1] * 5
    dataset = open_dataset("data.images_first=true", conversations=behind)
    assert [len(tree) for tree in dataset.trees] == [2, 1, 1, 1] and len(dataset[0]["pixel_values"]) == 1
    assert f"user\n{IMAGE_TOKEN * 8}\nWhat is it?" in dataset.tokenizer.decode(dataset[0]["input_ids"])


def test_images_first_keeps_their_number_and_leaves_text_alone():
    turns = [Turn(f"a{IMAGE_TOKEN}b", "x"), Turn(f"{IMAGE_TOKEN}\nc", "y")]
    assert images_first(turns) == [Turn(IMAGE_TOKEN * 2 + "\nab", "x"), Turn("c", "y")]
    assert images_first([Turn("a", "x")]) == [Turn("a", "x")]
    assert turns[0].question == f"a{IMAGE_TOKEN}b"


def test_a_conversation_too_long_costs_its_tree_only_itself(open_dataset):
    long = {"0": [talk(ask("word " * 200, "a")), talk(ask("What?", "b")), talk(ask("Where?", "c"))]}
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


# ---------------------------------------------------------------------------------------------- loss and gradients


def loss_and_gradients(
    config, dtype: torch.dtype, checkpointing: bool, batch_size: int, attention: str = "sdpa", device: str = "cpu"
):
    """Over all train conversations, in batches as the dataset gives them, with one weight per supervised token."""
    tokenizer = load_tokenizer(config.language.path)
    torch.manual_seed(0)
    model = build_model(config, tokenizer).train().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # lora_B starts at zero, and the projector nearly so
                parameter.add_(torch.randn(parameter.shape, dtype=torch.float64).to(dtype) * 0.2)
    if checkpointing:
        model.gradient_checkpointing_enable()
    model.to(device).set_attention(attention)
    dataset = ImageCaptionDataset(config, tokenizer, load_image_processor(config.vision.path))
    count = sum(label != X for i in range(len(dataset)) for label in dataset[i]["labels"])
    total = 0.0
    for start in range(0, len(dataset), batch_size):
        batch = samples_of_batch(dataset, list(range(start, min(start + batch_size, len(dataset)))))
        batch = {key: value.to(device) for key, value in batch.items()}
        batch["pixel_values"] = batch["pixel_values"].to(dtype)
        loss = model(**batch, num_items_in_batch=count).loss
        loss.backward()
        total += loss.item()
    return total, {n: p.grad for n, p in model.named_parameters() if p.requires_grad}, len(dataset)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # The norm and rotary code of transformers casts to float32 even in float64: 1e-7 is what that leaves.
    [(torch.float64, 1e-6), (torch.float32, 2e-5)],
)
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3])  # 3: trees and single rows, padded
@pytest.mark.parametrize("attention", ["sdpa", "tree_attention"])
def test_trees_give_the_loss_and_the_gradients_of_separate_rows(
    make_config, dtype, tolerance, checkpointing, batch_size, attention
):
    options = {"pictures": 5, "conversations": CONVERSATIONS}
    lora = "lora.lora_dropout=0.0"
    rows = loss_and_gradients(make_config(lora, "data.message_trees=false", **options), dtype, False, 1)
    trees = loss_and_gradients(make_config(lora, **options), dtype, checkpointing, batch_size, attention)
    assert (rows[2], trees[2]) == (8, 4)
    assert trees[0] == pytest.approx(rows[0], rel=tolerance)
    assert trees[1].keys() == rows[1].keys() and len(rows[1]) > 20
    for name, gradient in rows[1].items():
        scale = gradient.abs().max()
        assert scale > 0
        assert (trees[1][name] - gradient).abs().max() <= tolerance * scale, name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention's backward pass needs CUDA")
@pytest.mark.parametrize("batch_size", [1, 3])
def test_flex_attention_gives_the_loss_and_the_gradients_of_sdpa(make_config, batch_size):
    config = make_config("lora.lora_dropout=0.0", pictures=5, conversations=CONVERSATIONS)
    torch.backends.cuda.matmul.allow_tf32 = False
    sdpa, flex = (
        loss_and_gradients(config, torch.float32, False, batch_size, attention, "cuda")
        for attention in ("sdpa", "flex_attention")
    )
    assert flex[0] == pytest.approx(sdpa[0], rel=1e-4)
    for name, gradient in sdpa[1].items():
        assert (flex[1][name] - gradient).abs().max() <= 1e-3 * gradient.abs().max(), name


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@torch.no_grad()
def test_flex_attention_gives_the_same_loss(make_config, monkeypatch):
    monkeypatch.setattr(
        WrappedFlexAttention, "__call__", lambda self: flex_attention
    )  # not compiled: a minute on a CPU
    config = make_config("lora.lora_dropout=0.0", pictures=5, conversations=CONVERSATIONS)
    tokenizer = load_tokenizer(config.language.path)
    model = build_model(config, tokenizer)
    enlarge_projector(model)
    dataset = ImageCaptionDataset(config, tokenizer, load_image_processor(config.vision.path))
    trees, rows = ([0, 1], [len(dataset) - 1, len(dataset) - 2])
    for indices in (trees, rows):
        batch = samples_of_batch(dataset, indices)
        assert ("segments" in batch) == (indices == trees)
        model.set_attention("sdpa")
        by_sdpa = model(**batch).loss.item()
        model.set_attention("flex_attention")
        assert model(**batch).loss.item() == pytest.approx(by_sdpa, rel=1e-5)


def test_block_mask_is_the_tree_mask():
    segments = torch.tensor([[0, 0, 1, 1, 2, PADDING, PADDING, PADDING], [0, 1, 2, 2, 3, 3, 4, 4]]).repeat_interleave(
        32, 1
    )
    blocks = tree_block_mask(segments)
    rows, query, key = (torch.arange(n) for n in (2, 256, 256))
    dense = blocks.mask_mod(rows[:, None, None], torch.tensor(0), query[None, :, None], key[None, None, :])
    assert torch.equal(dense, tree_mask(segments)[:, 0])
    assert blocks.shape == (2, 1, 256, 256) and blocks.sparsity() > 0


def test_eager_attention_gives_the_same_loss(make_config):
    config = make_config("lora.lora_dropout=0.0", pictures=5, conversations=CONVERSATIONS)
    tokenizer = load_tokenizer(config.language.path)
    model = build_model(config, tokenizer)
    dataset = ImageCaptionDataset(config, tokenizer, load_image_processor(config.vision.path))
    batch = samples_of_batch(dataset, [0, 1])
    by_sdpa = model(**batch).loss.item()
    model.set_attention("eager")
    assert model(**batch).loss.item() == pytest.approx(by_sdpa, rel=1e-5)
