"""What evaluate.py asks of a model. A checkpoint's assistant, another project's model and a server all fit."""

from __future__ import annotations

from typing import Protocol

from dataset.prompt import Request


class Answerer(Protocol):
    """Anything that answers."""

    @property
    def device(self) -> str:
        """Where it computes: "cpu", "cuda:0", ..., or the address of a server."""

    def answer(self, requests: list[Request], **options) -> list[str]:
        """The answers to a batch of requests, in order; without any, none.

        ``options`` are the fields of the config's ``generate`` section but batch_size.

        Raises:
            UserError: a request cannot be asked, such as a prompt that is too long.
        """
