"""Tokens per second, padding and waiting."""

from __future__ import annotations

import pytest

from dataset.collate import Counts
from training.throughput import Throughput


def test_throughput_adds_up_and_counts_from_zero_after_a_report():
    meter = Throughput()
    meter.add(Counts(tokens=90, visual=80, padding=10))
    meter.begin -= 10.0
    meter.waiting = 2.0
    report = meter.report()
    assert report["tokens_per_second"] == pytest.approx(9, abs=1) and report["text_tokens_per_second"] == 1
    assert report["padding"] == 0.1 and report["waiting_for_data"] == pytest.approx(0.2, abs=0.01)
    assert (meter.tokens, meter.visual, meter.padding, meter.waiting) == (0, 0, 0, 0.0)


def test_padding_goes_on_from_the_resumed_run_and_speed_does_not():
    meter = Throughput()
    meter.before = (100, 50)
    meter.add(Counts(tokens=100, visual=0, padding=0))
    meter.begin -= 10.0
    assert meter.since_log() == (200, 50)
    report = meter.report()
    assert report["padding"] == 0.2 and report["tokens_per_second"] == 10
    assert meter.since_log() == (0, 0)


def test_it_counts_by_the_clock_that_it_is_given():
    seconds = iter((10.0, 14.0, 14.0, 15.0, 15.0))
    throughput = Throughput(lambda: next(seconds))
    throughput.add(Counts(tokens=100, visual=60, padding=0))
    assert throughput.report()["tokens_per_second"] == 25
    throughput.add(Counts(tokens=100, visual=60, padding=0))
    assert throughput.report()["text_tokens_per_second"] == 40
