"""The extended Qwen: equal to transformers without images, and only the embedding changed with them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from transformers import Qwen2ForCausalLM

from qwen.Mqwen import MQwen2ForCausalLM
from qwen.tokenizer import IGNORE_INDEX

IMAGE = 700


@pytest.fixture(scope="module")
def pair(qwen_folder):
    """(transformers' own model, ours) with the same weights."""
    plain = Qwen2ForCausalLM.from_pretrained(qwen_folder, dtype=torch.float32).eval()
    ours = MQwen2ForCausalLM.from_pretrained(qwen_folder, dtype=torch.float32).eval()
    ours.image_token_id = IMAGE
    return plain, ours


def rows_with_images():
    """Two rows: two images of 2 tokens in row 0, none in row 1; features by row."""
    ids = torch.tensor([[5, IMAGE, IMAGE, 6, IMAGE, IMAGE, 7], [1, 2, 3, 4, 5, 6, 7]])
    features = [torch.randn(2, 2, 32, generator=torch.Generator().manual_seed(0)), torch.zeros(0, 2, 32)]
    return ids, features


def test_without_images_equals_transformers_to_the_bit(pair):
    plain, ours = pair
    ids = torch.randint(0, 600, (2, 17), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    assert torch.equal(plain(ids, attention_mask=mask).logits, ours(ids, attention_mask=mask).logits)
    options = {"max_new_tokens": 12, "do_sample": False, "attention_mask": mask}
    assert torch.equal(plain.generate(ids, **options), ours.generate(ids, **options))


def test_features_replace_exactly_the_placeholders_in_order(pair):
    plain, ours = pair
    ids, features = rows_with_images()
    embeds = plain.get_input_embeddings()(ids).clone()
    embeds[0, 1:3], embeds[0, 4:6] = features[0][0], features[0][1]
    assert torch.equal(ours.embed(ids, features), embeds)
    assert torch.equal(ours(ids, images=features).logits, plain(inputs_embeds=embeds).logits)


def test_wrong_count_names_row_and_both_numbers(pair):
    _, ours = pair
    ids, features = rows_with_images()
    with pytest.raises(ValueError, match="row 0 has 4 .* placeholders but 2 visual tokens"):
        ours(ids, images=[features[0][:1], features[1]])
    with pytest.raises(ValueError, match="row 1 has 0 .* placeholders but 4 visual tokens"):
        ours(ids, images=[features[0], features[0]])


def test_generation_with_cache_equals_repeated_full_forward(pair):
    _, ours = pair
    ids, features = rows_with_images()
    ids, features = ids[:1], features[:1]
    out = ours.generate(ids, images=features, max_new_tokens=6, do_sample=False, eos_token_id=None)
    grown = ids
    for _ in range(6):
        following = ours(grown, images=features).logits[:, -1].argmax(-1, keepdim=True)
        grown = torch.cat([grown, following], 1)
    assert torch.equal(out, grown)


def test_generation_computes_one_row_of_logits_a_step(pair):
    _, ours = pair
    ids, features = rows_with_images()
    seen = []
    hook = ours.lm_head.register_forward_hook(lambda module, args, output: seen.append(output.shape[1]))
    ours.generate(ids, images=features, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    hook.remove()
    assert seen == [1, 1, 1]


def test_beams_and_repeated_sequences_keep_their_image(pair):
    _, ours = pair
    ids, features = rows_with_images()
    options = {"images": features, "max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    both = ours.generate(ids, num_beams=3, **options)
    alone = ours.generate(ids[:1], num_beams=3, **{**options, "images": features[:1]})
    assert torch.equal(both[:1], alone)


def test_loss_is_summed_over_labels_and_divided_by_the_given_count(pair):
    plain, ours = pair
    ids, features = rows_with_images()
    labels = torch.full_like(ids, IGNORE_INDEX)
    labels[0, 6], labels[1, 3:5] = 7, torch.tensor([4, 5])
    logits = plain(inputs_embeds=ours.embed(ids, features)).logits[:, :-1]
    total = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    assert ours(ids, images=features, labels=labels).loss.item() == pytest.approx(total.item() / 3, rel=1e-6)
    loss = ours(ids, images=features, labels=labels, num_items_in_batch=10).loss
    assert loss.item() == pytest.approx(total.item() / 10, rel=1e-6)


def test_loss_and_gradients_equal_the_full_computation_in_float64(pair):
    """The head runs at labelled positions only, and gives the same loss and gradients."""
    plain, ours = (model.double() for model in pair)
    try:
        ids, features = rows_with_images()
        features = [f.double() for f in features]
        labels = torch.full_like(ids, IGNORE_INDEX)
        labels[0, 6], labels[1, 2:] = 7, ids[1, 2:]
        ours(ids, images=features, labels=labels).loss.backward()
        plain(inputs_embeds=ours.embed(ids, features).detach(), labels=labels).loss.backward()
        # The reference is given embeddings, so only ours has a gradient there.
        wanted = {n: p.grad for n, p in plain.named_parameters() if "embed" not in n}
        found = {n: p.grad for n, p in ours.named_parameters() if "embed" not in n}
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)
    finally:
        for model in pair:
            model.float().zero_grad()


def test_a_batch_without_any_label_is_an_error(pair):
    _, ours = pair
    with pytest.raises(ValueError, match="nothing to learn"):
        ours(torch.tensor([[1, 2]]), labels=torch.full((1, 2), IGNORE_INDEX))
