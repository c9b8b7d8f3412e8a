"""Training with boxes: the new rows are resumed bit by bit."""

from __future__ import annotations

from tests.helpers.runs import assert_same, last_state, runs_of

TALK = {
    "source": "none",
    "language": "en",
    "split": "train",
    "turns": [{"q": "<|extra_0|>\nWhere is the dog?", "a": ["<ref>the dog</ref><box>(1,20),(300,999)</box>"]}],
}


def test_a_resumed_run_has_the_rows_of_one_that_never_stopped(make_config, tmp_path):
    settings = ["data.sources.0.boxes=0-999", "train.lr_scheduler_type=constant", "train.save_steps=2"]
    prepare = runs_of(make_config, tmp_path, settings, {str(number): [TALK, TALK] for number in range(4)})
    (whole, reference), (halves, resumed) = prepare("whole"), prepare("halves")
    assert whole()["codes"] == [0]
    assert halves("train.max_steps=2")["codes"] == [0]
    rows = [name for name in last_state(resumed)[1] if "trainable_tokens_delta" in name and "optimizer" not in name]
    assert len(rows) == 2  # of the embedding and of the output matrix
    assert halves("--resume")["codes"] == [0]
    assert_same(resumed, reference)
