"""The models by name. A new one is a file of its own and an entry here."""

from __future__ import annotations

from baselines.attention import Attention
from baselines.ibowimg import IBowImg
from baselines.lstm import LSTM
from baselines.parts import Baseline
from baselines.question import Question

MODELS: dict[str, type[Baseline]] = {"question": Question, "ibowimg": IBowImg, "lstm": LSTM, "attention": Attention}
