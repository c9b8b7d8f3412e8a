"""The picture under the heat map."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.tiny import picture

pytest.importorskip("tkinter", reason="this Python has no Tk")

from window.picture import with_heat  # noqa: E402


def test_the_dropped_patch_is_crossed_out_and_the_hottest_is_red():
    grid = np.array([[np.nan, 0.0], [0.1, 0.4]], dtype=np.float32)
    page = np.array(with_heat(picture("white").resize((80, 80)), grid)).astype(int)
    quarters = [page[:40, 40:], page[40:, :40], page[40:, 40:]]
    assert (quarters[0] == 255).all()  # nothing went there
    reds = [int((255 - quarter[..., 1]).mean()) for quarter in quarters]
    assert reds[0] < reds[1] < reds[2] and len(np.unique(quarters[2].reshape(-1, 3), axis=0)) == 1
    assert len(np.unique(page[:40, :40].reshape(-1, 3), axis=0)) > 1  # lines across it
