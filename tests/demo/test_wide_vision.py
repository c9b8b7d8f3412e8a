"""The tower's training on random shapes: its targets, and that a few steps of it lower every loss."""

from __future__ import annotations

import math
import random
import re

import pytest
import torch
from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

from demo import wide_vision
from demo.wide_pictures import blank, draw_named, draw_pairs, draw_shape
from demo.wide_vision import (
    Describer,
    LoudLinear,
    describing_losses,
    draw_demo,
    naming_loss,
    numbers,
    patches_kept,
    patches_on_objects,
    wide_batch,
    windows,
)


def tiny_tower() -> SiglipVisionModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    return SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=112, patch_size=14, vision_use_head=False))


@pytest.fixture(scope="module")
def drawn():
    """12 pictures in pairs, and 12 of four shapes."""
    rng = random.Random(0)
    return draw_pairs(12, rng), draw_named(12, rng, [draw_shape(rng) for _ in range(4)])


def test_a_patch_is_on_the_object_that_covers_most_of_it():
    cover = torch.zeros(1, 2, 64)
    cover[0, 0, [0, 9, 10, 11]] = torch.tensor([1.0, 0.8, 0.3, 0.1])
    cover[0, 1, [10, 20, 21]] = torch.tensor([0.05, 0.06, 0.03])  # so small that it covers no patch by 12 %
    share, owner, on = patches_on_objects(cover)
    assert on[0].nonzero().flatten().tolist() == [9, 10, 20]  # never 0, which the main model drops
    assert owner[0, [9, 10, 20]].tolist() == [0, 0, 1]
    assert share[0, [10, 20]].tolist() == pytest.approx([0.3, 0.06])


def test_all_patches_on_objects_are_kept_before_any_other():
    share = torch.zeros(2, 64)
    share[0, [3, 40, 63]] = 0.5
    kept = patches_kept(share, 28)
    assert kept.shape == (2, 28) and all(len(set(row)) == 28 for row in kept.tolist())
    assert {3, 40, 63} <= set(kept[0].tolist())


def test_a_window_is_the_mask_around_a_patch():
    mask = torch.arange(32.0 * 32).view(1, 32, 32)
    around = windows(mask).view(64, 12, 12)
    assert torch.equal(around[9], mask[0, :12, :12])  # row 1, column 1
    assert torch.equal(around[0, 4:, 4:], mask[0, :8, :8]) and around[0, :4].sum() == 0


def test_a_hue_is_a_point_on_a_circle():
    pictures = blank((4,))
    pictures.colors[:, 0] = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [0, 0, 1], [0.4, 0.4, 0.4]])
    red, green, pale_blue, gray = numbers(pictures)[:, 0, 7:]
    third = 2 * math.pi / 3
    assert red.tolist() == pytest.approx([1.5, 0], abs=1e-5)
    assert green.tolist() == pytest.approx([1.5 * math.cos(third), 1.5 * math.sin(third)], abs=1e-5)
    assert pale_blue.tolist() == pytest.approx([0.75 * math.cos(third), -0.75 * math.sin(third)], abs=1e-5)
    assert gray.abs().max() < 1e-6


def test_a_batch_keeps_pairs_together_and_names_at_the_end(drawn):
    batch = wide_batch(*drawn, random.Random(1), pairs=4, others=5)
    assert len(batch) == 13
    assert (batch.names[:8] == -100).all() and (batch.names[8:, 0] >= 0).all()
    shapes = batch.silhouettes[:8, 0].float()
    apart = (shapes[:, None] - shapes).abs().mean((2, 3)) + 1000 * torch.eye(8)
    assert (apart.argmin(1) == torch.arange(8) ^ 1).float().mean() > 0.7


def test_every_loss_falls(drawn):
    model = Describer(tiny_tower(), 4)
    demo = draw_demo(6, random.Random(0), range(2, 10))
    batch = wide_batch(*drawn, random.Random(1), pairs=6, others=12)
    optimizers, schedules = wide_vision.wide_optimizer(model, 1000)
    seen = []
    for _ in range(30):
        torch.manual_seed(1)  # the same patches in each step
        losses, _ = describing_losses(model, batch, 12, 28)
        losses["words"], _ = naming_loss(model, demo.pixels, demo.words)
        wide_vision.optimizing.step(torch.stack([*losses.values()]).sum(), model, optimizers, schedules)
        seen.append({name: loss.item() for name, loss in losses.items()})
    assert len(seen[0]) == 9
    for name in seen[0]:
        assert seen[-1][name] < seen[0][name], name


def test_a_loud_head_gives_its_rows_their_lengths_and_leaves_the_others():
    head = LoudLinear(4, [0.0, 2.0])
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[3.0, 0, 0, 0], [0, 5.0, 0, 0]]))
        head.bias.zero_()
    assert head(torch.ones(1, 4)).tolist() == [[3.0, 2.0]]
    head(torch.ones(1, 4)).sum().backward()
    assert head.weight.grad[0].tolist() == [1.0] * 4
    assert abs(head.weight.grad[1, 1]) < 1e-6  # its length cannot change what the head says


def test_a_step_reads_nothing_back_from_its_device(drawn):
    """On the device ``meta`` there are no values, so reading one is an error, as is a tensor left on the CPU."""
    model, demo = Describer(tiny_tower(), 4).to("meta"), draw_demo(2, random.Random(0), range(2, 10)).to("meta")
    optimizers, schedules = wide_vision.wide_optimizer(model, 10)
    batch = wide_batch(*(pictures.to("meta") for pictures in drawn), random.Random(1), pairs=4, others=5)
    losses, _ = describing_losses(model, batch, 8, 28)
    losses["words"], _ = naming_loss(model, demo.pixels, demo.words)
    wide_vision.optimizing.step(torch.stack([*losses.values()]).sum(), model, optimizers, schedules)
    assert all(parameter.grad.is_meta for parameter in model.tower.parameters())


def test_without_an_object_the_losses_are_zero_and_not_nan():
    torch.manual_seed(0)
    losses, _ = describing_losses(Describer(tiny_tower(), 4), blank((4,)), 4, 28)
    assert losses.pop("on") > 0
    assert all(loss == 0 for loss in losses.values())


def test_a_pair_is_found_among_the_others_by_its_vector():
    model = Describer(tiny_tower(), 4)
    vectors = torch.eye(32)[:4].repeat_interleave(2, 0)[:, None].repeat(1, 5, 1)  # [8, 5, 32]
    first = torch.ones(8, 5, dtype=torch.bool)
    vectors[:, 4], first[:, 4] = 100 * torch.eye(32)[8:16], False  # a patch off the object is ignored
    losses, shares = wide_vision._pooled_losses(model, vectors, first, torch.zeros(8, dtype=torch.long), 8)
    assert shares["pair"] == 1
    first[0] = False  # no patch of this picture was kept, so neither of the pair is asked
    _, shares = wide_vision._pooled_losses(model, vectors, first, torch.zeros(8, dtype=torch.long), 8)
    assert shares["pair"] == 1
    _, shares = wide_vision._pooled_losses(model, vectors.roll(1, 0), first, torch.zeros(8, dtype=torch.long), 8)
    assert shares["pair"] == 0


def test_the_tower_is_trained_further_and_written(tmp_path, monkeypatch, capsys):
    tiny_tower().save_pretrained(tmp_path / "siglip")
    SiglipImageProcessorPil(size={"height": 112, "width": 112}).save_pretrained(tmp_path / "siglip")
    monkeypatch.setattr(wide_vision, "BACKBONES", tmp_path)
    small = {"PAIRED_DRAWN": 20, "NAMED_DRAWN": 20, "DEMO_DRAWN": 6, "HELD_OUT": 8, "SHAPES": 4}
    for name, value in (small | {"PAIRED": 8, "NAMED": 6, "DEMO": 4}).items():
        monkeypatch.setattr(wide_vision, name, value)
    encoded = []
    encode = Describer.encode
    monkeypatch.setattr(Describer, "encode", lambda self, x: encoded.append(tuple(x.shape[:2])) or encode(self, x))
    output = tmp_path / "elsewhere"
    wide_vision.train_wide(4, "cpu", output)
    assert encoded == [*[(14, 28), (4, 64)] * 3, (7, 64), (4, 64), (16, 64), (8, 64)]  # all 64 patches at the end
    before, after = tiny_tower().state_dict(), SiglipVisionModel.from_pretrained(output / "siglip").state_dict()
    assert set(before) == set(after)
    assert SiglipImageProcessorPil.from_pretrained(output / "siglip").size == {"height": 112, "width": 112}
    assert not torch.equal(before["encoder.layers.0.mlp.fc1.weight"], after["encoder.layers.0.mlp.fc1.weight"])
    assert re.search(r"4  right on held-out pictures: .*pair \d\.\d+  words \d\.\d+", capsys.readouterr().out)
