"""The numbers of the table in docs/models.md."""

from __future__ import annotations

from model.connectors.table import rows


def test_the_table_counts_tokens_and_parameters():
    assert rows() == [
        ("linear", 728, 1_771_008),
        ("mlp", 728, 4_131_840),
        ("pool", 81, 18_287_616),
        ("resampler", 256, 13_974_528),
        ("qformer", 32, 103_984_128),
        ("cross_attention", 1, 189_966_350),
        ("pool 2", 196, 9_440_256),
    ]
