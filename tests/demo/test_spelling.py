"""Tokens that no text of the demo has get embeddings that differ."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from demo.spelling import separate_unused


def test_rows_that_are_alike_become_different_and_the_others_stay():
    generator = torch.Generator().manual_seed(0)
    pushed = 3 * F.normalize(torch.randn(1, 64, generator=generator))
    table = pushed + 0.05 * torch.randn(300, 64, generator=generator)
    table[::5] = torch.randn(60, 64, generator=generator)
    before, unused = table.clone(), torch.arange(300) % 5 > 0
    assert separate_unused(table, torch.Generator().manual_seed(1)) == 240
    torch.testing.assert_close(table[~unused], before[~unused], rtol=0, atol=0)
    cosines = F.normalize(table[unused]) @ F.normalize(table[unused]).T
    assert abs(cosines[~torch.eye(240).bool()].mean() - 0.5) < 0.05  # half of each row is the mean, half its own
    assert abs(table[unused].norm(dim=1).mean() / 3 - 1) < 0.05
    # A hidden state that made these tokens unlikely still does.
    against = -pushed[0]
    assert (table[unused] @ against).max() < 0.25 * (before[unused] @ against).mean()
