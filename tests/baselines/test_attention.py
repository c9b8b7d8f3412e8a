"""Show, Ask, Attend and Answer gives the numbers of the public PyTorch re-implementation."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from baselines.attention import Attention, normalised
from baselines.parts import Widths
from settings import Baselines

# Its names of the classifier's layers, and ours.
RENAMED = {"classifier.lin1": "classifier.1", "classifier.lin2": "classifier.4"}


@pytest.fixture
def reference(shared_data) -> dict[str, torch.Tensor]:
    file = shared_data / "saaa" / "reference.safetensors"
    if not file.is_file():
        pytest.skip(f"no reference numbers at {file}")
    return load_file(file)


@pytest.fixture
def model(reference) -> Attention:
    sizes = Baselines(embedding_size=12, lstm_size=24, attention_size=16, hidden_size=20)
    model = Attention(Widths(words=17, answers=10, patch=32), sizes)
    weights = {}
    for name, tensor in reference.items():
        if not name.startswith(("in.", "out.")):
            for theirs, ours in RENAMED.items():
                name = name.replace(theirs, ours)
            weights[name] = tensor.flatten(1) if name.endswith("conv.weight") else tensor  # 1 x 1 convolutions
    model.load_state_dict(weights)
    return model.eval()


@torch.inference_mode()
def test_every_number_is_that_of_the_reimplementation(model, reference):
    patches = reference["in.v"].flatten(2).transpose(1, 2)  # [B, C, H, W] -> [B, N, D]
    inputs = (reference["in.q"], reference["in.q_len"])
    question = model.text(*inputs)
    found = {
        "v_normalised": normalised(patches).transpose(1, 2),
        "question_vector": question,
        "attention_scores": model.attention(normalised(patches), question),
        "attention_maps": model.weights(patches, *inputs),
        "logits": model(patches, *inputs),
    }
    for name, tensor in found.items():
        wanted = reference[f"out.{name}"]
        torch.testing.assert_close(tensor.reshape(wanted.shape), wanted, rtol=0, atol=1e-5, msg=name)


def test_the_question_vector_does_not_read_what_pads_a_question(model):
    short = torch.tensor([[3, 4]])
    padded = torch.tensor([[3, 4, 0, 0]])
    lengths = torch.tensor([2])
    assert torch.equal(model.text(short, lengths), model.text(padded, lengths))


def test_a_patch_of_zeros_stays_zero():
    assert torch.equal(normalised(torch.zeros(1, 2, 3)), torch.zeros(1, 2, 3))


def test_the_defaults_are_those_of_the_paper():
    sizes = Baselines()
    assert (sizes.answers, sizes.lstm_size, sizes.attention_size, sizes.glimpses) == (3000, 1024, 512, 2)
    assert (sizes.hidden_size, sizes.dropout, sizes.batch_size, sizes.learning_rate) == (1024, 0.5, 128, 1e-3)
