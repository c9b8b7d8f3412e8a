"""How LLaVA is told of SigLIP's final norm."""

from __future__ import annotations

import pytest
import torch
from transformers import SiglipVisionModel

from answering.exporting.tower import SCALE, tower_part
from common.errors import UserError
from tests.helpers.tiny import save_siglip
from visual.load import load_vision


@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh", "quick_gelu"])
def test_the_block_gives_the_normalised_features_times_its_scale(siglip_folder, activation):
    tower = load_vision(str(siglip_folder))
    tower.config.hidden_act = activation
    tower = type(tower)._from_config(tower.config).eval()
    tower.end_at_layer(-1)
    part = tower_part(tower, None)
    with torch.no_grad():
        stock = SiglipVisionModel(part.config).eval()
        stock.load_state_dict(part.state)
        pixels = torch.rand(2, 3, 42, 42)
        found = stock(pixels, output_hidden_states=True).hidden_states[-1] / part.divisor
        wanted = tower(pixels)
    assert part.divisor == SCALE and part.config.num_hidden_layers == 3
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_a_tower_with_a_narrow_mlp_is_refused_with_the_other_way(siglip_folder):
    tower = load_vision(str(siglip_folder))
    tower.config.intermediate_size = 31
    with pytest.raises(UserError, match="an MLP of at least 2 x 16 .* use --norm tie"):
        tower_part(tower, "block")
    assert tower_part(tower, "tie").config.tie_last_hidden_states


def test_a_tower_without_a_final_norm_takes_no_way_to_keep_it(tmp_path):
    tower = load_vision(str(save_siglip(tmp_path)), layer=-2)
    assert tower_part(tower, None).config.num_hidden_layers == 1
    with pytest.raises(UserError, match="--norm = tie: this tower's features have no final norm"):
        tower_part(tower, "tie")
