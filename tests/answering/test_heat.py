"""The picture under the heat map."""

from __future__ import annotations

import numpy as np

from answering.heat import with_heat
from tests.helpers.tiny import picture


def test_the_dropped_patch_is_crossed_out_and_a_blue_picture_stays_blue():
    grid = np.array([[np.nan, 0.0], [0.1, 0.4]], dtype=np.float32)
    page = np.array(with_heat(picture("blue").resize((80, 80)), grid)).astype(int)
    assert page[20, 60].tolist() == [191, 191, 255]  # no attention: a quarter of the colour
    assert page[60, 20].tolist() == [143, 143, 255]  # a quarter of the largest share
    assert page[60, 60].tolist() == [0, 0, 255] and page[40, 40].tolist() == [245, 158, 11]  # outlined
    assert len(np.unique(page[:40, :40].reshape(-1, 3), axis=0)) > 1  # lines across it
