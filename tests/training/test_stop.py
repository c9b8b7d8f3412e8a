"""Ctrl-C and SIGTERM."""

from __future__ import annotations

import os
import signal

import pytest

from training.stop import StopSignal

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


@pytest.fixture
def stop():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    listener = StopSignal()
    listener.listen()
    yield listener
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_says_so(stop, number, capfd):
    assert not stop.asked
    signal.raise_signal(number)
    assert stop.asked
    assert "stopping after this step and saving" in capfd.readouterr().err


def test_a_second_ctrl_c_ends_at_once_but_not_within_a_second_of_the_first(stop):
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)  # what a launcher passes on
    stop.begin -= 1.1
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_repeated_sigterm_never_ends_at_once(stop):
    signal.raise_signal(signal.SIGTERM)
    stop.begin -= 100
    signal.raise_signal(signal.SIGTERM)
    assert stop.asked
