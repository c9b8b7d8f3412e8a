"""The model that answers everyone: at most one checkpoint is loaded at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from answering.checkpoints import checkpoint_facts, checkpoints_under, name_of, open_config
from answering.examples import Examples, examples_of
from answering.worker import import_opening
from common.errors import UserError
from window.web.texts import text

if TYPE_CHECKING:
    from answering.assistant import Assistant
    from answering.baseline import BaselineAssistant
    from settings import Config

CHECKPOINTS = Path("checkpoints")


class Model:
    """Loads a checkpoint when a question for it has its turn. Everything but ``load`` may be called from any thread.

    ``first`` is the checkpoint of the command line, or a run's folder. ``most_prefixes``: of how many conversations
    the keys and values of the pictures are kept for the next question.
    """

    def __init__(
        self,
        first: Path,
        device: str | None = None,
        verify: bool = False,
        overrides: Sequence[str] = (),
        most_prefixes: int = 4,
    ) -> None:
        self.first, self.device, self.verify, self.overrides = first, device, verify, list(overrides)
        self.most_prefixes = most_prefixes
        self.assistant: Assistant | BaselineAssistant | None = None
        self.checkpoint: Path | None = None  # the one that is loaded
        self._examples: dict[tuple[Path, str], Examples] = {}

    def start(self, on_stage: Callable[[str], object] = str) -> None:
        """Load the first checkpoint. Of a run's folder it is the best one, which is ``first`` from then on.

        Raises:
            UserError: as :meth:`load`.
        """
        self.first = self.load(self.first, on_stage).checkpoint or self.first
        self.checkpoint = self.first

    def load(self, checkpoint: Path, on_stage: Callable[[str], object] = str) -> Assistant | BaselineAssistant:
        """The assistant of a checkpoint. Another one is dropped first: there may be no memory for two.

        Raises:
            UserError: as :meth:`answering.assistant.Assistant.load`.
        """
        if self.assistant is not None and self.checkpoint == checkpoint:
            return self.assistant
        self.assistant = self.checkpoint = None
        opened = import_opening()
        from answering.assistant import Assistant

        assistant = opened(checkpoint).load(checkpoint, self.device, on_stage, self.verify, self.overrides)
        if isinstance(assistant, Assistant):  # a baseline keeps none
            assistant.most_prefixes = self.most_prefixes
        self.assistant, self.checkpoint = assistant, checkpoint
        return assistant

    def config(self, checkpoint: Path) -> Config | None:
        """A checkpoint's config with the command line's changes; None if it cannot be read, which loading it says."""
        try:
            return open_config(checkpoint, self.overrides)
        except UserError:
            return None

    def examples(self, checkpoint: Path, language: str) -> Examples:
        """Its example pictures and questions; read once."""
        if (checkpoint, language) not in self._examples:
            self._examples[checkpoint, language] = examples_of(checkpoint, language)
        return self._examples[checkpoint, language]

    def choices(self, language: str) -> list[tuple[str, str]]:
        """What a page offers, (line about it, path): the first checkpoint, then every one under ``checkpoints/``."""
        found = {self.first.resolve(): self.first}
        for path in checkpoints_under(CHECKPOINTS):
            found.setdefault(path.resolve(), path)
        return [(_line(path, language), str(path)) for path in found.values()]


def _line(checkpoint: Path, language: str) -> str:
    """Run, step, score if it was evaluated, base models and date of a checkpoint."""
    facts = checkpoint_facts(checkpoint)
    score = text(language, "score", score=f"{facts.score:.3f}") if facts.score is not None else ""
    return " · ".join(part for part in (name_of(checkpoint), score, " + ".join(facts.bases), facts.date) if part)
