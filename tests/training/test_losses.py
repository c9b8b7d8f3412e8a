"""Contrastive losses: hand calculations, transformers' own, and two processes = one."""

from __future__ import annotations

import math
import os

import pytest
import torch
import torch.multiprocessing as processes

from tests.helpers.forked import free_port
from training.losses import (
    MAX_LOG_SCALE,
    gather_rows,
    generation_loss,
    hard_negatives,
    mask_words,
    masked_words_loss,
    matching_loss,
    query_text_loss,
    query_text_mask,
    query_text_similarities,
    sigmoid_loss,
    similarities,
    softmax_loss,
)

TEXTS = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
IMAGES = torch.tensor([[1.0, 0.0], [0.6, 0.8]])  # cosines [[1, 0.6], [0, 0.8]]
TWO = torch.tensor(math.log(2.0))


def test_similarities_are_scaled_cosines_of_texts_by_images():
    found = similarities(TEXTS, IMAGES, TWO, torch.tensor(-1.0))
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.2], [-1.0, 0.6]]))


def test_the_softmax_loss_by_hand():
    e = math.exp
    by_text = -(math.log(e(2.0) / (e(2.0) + e(1.2))) + math.log(e(1.6) / (e(0.0) + e(1.6)))) / 2
    by_image = -(math.log(e(2.0) / (e(2.0) + e(0.0))) + math.log(e(1.6) / (e(1.2) + e(1.6)))) / 2
    assert softmax_loss(TEXTS, IMAGES, TWO).item() == pytest.approx((by_text + by_image) / 2, abs=1e-6)


def test_the_sigmoid_loss_by_hand():
    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    by_hand = -sum(math.log(sigmoid(x)) for x in (1.0, -0.2, 1.0, 0.6)) / 2
    assert sigmoid_loss(TEXTS, IMAGES, TWO, torch.tensor(-1.0)).item() == pytest.approx(by_hand, abs=1e-6)


def test_the_softmax_loss_is_that_of_transformers():
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss  # the two processes need it not

    torch.manual_seed(0)
    texts, images, scale = torch.randn(7, 5), torch.randn(7, 5), torch.tensor(2.6592)
    torch.testing.assert_close(
        softmax_loss(texts, images, scale), image_text_contrastive_loss(similarities(texts, images, scale))
    )


def test_the_temperature_is_learnt_down_to_a_hundredth():
    for start, learns in ((2.0, True), (MAX_LOG_SCALE + 0.1, False)):
        scale = torch.tensor(start, requires_grad=True)
        softmax_loss(TEXTS, IMAGES, scale).backward()
        assert (scale.grad != 0).item() is learns


# ---------------------------------------------------------------------------------------------- two processes


def losses_and_gradients(rows: slice) -> list[torch.Tensor]:
    """Both losses of these rows of six pairs and their gradients, averaged over the processes as DDP does."""
    torch.manual_seed(1)
    texts, images = torch.randn(6, 3)[rows], torch.randn(6, 3)[rows]
    found = []
    for loss in (softmax_loss, lambda t, i, s: sigmoid_loss(t, i, s, torch.tensor(-3.0))):
        weight, scale = torch.full((3, 3), 0.1).fill_diagonal_(1.0).requires_grad_(), torch.tensor(1.5).requires_grad_()
        value = loss(texts @ weight, images @ weight.T, scale)
        value.backward()
        assert weight.grad is not None and scale.grad is not None
        found += [value.detach(), weight.grad, scale.grad]
    return found


def one_of_two(rank: int, port: int, folder: str) -> None:
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    found = losses_and_gradients(slice(3 * rank, 3 * rank + 3))
    for tensor in found:
        torch.distributed.all_reduce(tensor)
    torch.save([tensor / 2 for tensor in found], os.path.join(folder, f"{rank}.pt"))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_loss_and_the_gradients_of_one(tmp_path):
    processes.spawn(one_of_two, (free_port(), str(tmp_path)), nprocs=2)
    wanted = losses_and_gradients(slice(0, 6))
    for rank in (0, 1):
        for ours, theirs in zip(torch.load(tmp_path / f"{rank}.pt"), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_process_alone_gathers_its_own_rows():
    assert gather_rows(TEXTS) is TEXTS


# ---------------------------------------------------------------------------------------------- BLIP-2's first stage

WORDS = torch.tensor([[True, True], [True, False]])  # the second text has one word and padding


@pytest.mark.parametrize(
    ("loss", "wanted"),
    [
        ("itc", ["1100", "1100", "0011", "0011"]),
        ("itm", ["1111", "1111", "1111", "1111"]),
        ("mlm", ["1111", "1111", "1111", "1111"]),
        ("itg", ["1100", "1100", "1110", "1111"]),
    ],
)
def test_each_loss_has_its_mask_of_queries_and_words(loss, wanted):
    mask = query_text_mask(loss, 2, WORDS)
    assert mask.shape == (2, 1, 4, 4)
    assert ["".join(str(int(seen)) for seen in row) for row in mask[0, 0]] == wanted
    assert not mask[1, 0, :, 3].any() and torch.equal(mask[1, 0, :, :3], mask[0, 0, :, :3])


QUERIES = torch.tensor([[[1.0, 0.0], [0.0, -1.0]], [[0.6, 0.8], [-1.0, 0.0]]])  # of two pictures


def test_a_picture_is_as_similar_as_its_most_similar_query():
    found = query_text_similarities(TEXTS, QUERIES, TWO)
    torch.testing.assert_close(found, torch.tensor([[2.0, 1.2], [0.0, 1.6]]))
    assert query_text_loss(TEXTS, QUERIES, TWO).item() == pytest.approx(softmax_loss(TEXTS, IMAGES, TWO).item())


def test_hard_negatives_are_others_and_the_similar_ones_come_more_often():
    torch.manual_seed(0)
    logits = torch.tensor([[9.0, 0.0, math.log(3.0)], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    drawn = [hard_negatives(logits) for _ in range(400)]
    pictures, texts = (torch.stack(part) for part in zip(*drawn, strict=True))  # [400, 3]
    own = torch.arange(3)
    assert (pictures != own).all() and (texts != own).all()
    assert (pictures[:, 0] == 2).float().mean().item() == pytest.approx(0.75, abs=0.07)  # e^0 against 3
    assert (texts[:, 2] == 0).float().mean().item() == pytest.approx(0.75, abs=0.07)


def test_the_matching_loss_by_hand():
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0], [math.log(4.0), 0.0]])
    by_hand = -(math.log(3 / 4) + math.log(1 / 2) + math.log(4 / 5)) / 3
    assert matching_loss(logits, 1).item() == pytest.approx(by_hand, abs=1e-6)


def test_the_generation_loss_by_hand():
    logits = torch.zeros(2, 2, 3)
    logits[0, 0, 1] = math.log(2.0)  # 2 / 4
    logits[1, 1, 0] = 99.0  # padding
    by_hand = -(math.log(2 / 4) + math.log(1 / 3) + math.log(1 / 3)) / 3
    found = generation_loss(logits, torch.tensor([[1, 2], [0, 2]]), WORDS)
    assert found.item() == pytest.approx(by_hand, abs=1e-6)


def test_masked_words_are_chosen_among_the_words_in_berts_shares():
    torch.manual_seed(0)
    ids = torch.randint(10, 500, (50, 200))
    words = torch.arange(200) < torch.arange(1, 51)[:, None] * 4
    inputs, labels = mask_words(ids, words, mask_id=999)
    chosen = labels != -100
    assert not (chosen & ~words).any() and chosen.any(1).all()
    assert torch.equal(labels[chosen], ids[chosen]) and torch.equal(inputs[~chosen], ids[~chosen])
    shares = [chosen.sum() / words.sum(), (inputs[chosen] == 999).float().mean()]
    shares.append((inputs[chosen] == ids[chosen]).float().mean())
    assert [share.item() for share in shares] == pytest.approx([0.15, 0.8, 0.1], abs=0.04)
    one = mask_words(torch.tensor([[5, 6]]), torch.tensor([[True, False]]), mask_id=999)[1]
    assert one.tolist() == [[5, -100]]


def test_the_masked_words_loss_by_hand():
    logits = torch.zeros(1, 3, 4)
    logits[0, 1, 3] = math.log(5.0)  # 5 / 8
    by_hand = -(math.log(5 / 8) + math.log(1 / 4)) / 2
    assert masked_words_loss(logits, torch.tensor([[-100, 3, 0]])).item() == pytest.approx(by_hand, abs=1e-6)
