"""Which checkpoint answers: the list to choose from, loading it, and the settings of its answers."""

from __future__ import annotations

from pathlib import Path
from tkinter import filedialog
from typing import TYPE_CHECKING, Any

from answering.checkpoints import checkpoint_facts, checkpoints_under, is_demo, name_of
from window.dialog import SettingsDialog
from window.preferences import ANSWER, Preferences

if TYPE_CHECKING:
    from window.controller import Window

CHECKPOINTS = Path("checkpoints")


class Models:
    """The checkpoint of a window's worker."""

    def __init__(self, window: Window, device: str | None, verify: bool) -> None:
        self.window, self.verify = window, verify
        self.device = device  # from the command line: for this run only
        self.loading: int | None = None  # the worker's job
        self.checkpoint: Path | None = None
        self.is_demo = False

    @property
    def name(self) -> str:
        return name_of(self.checkpoint) if self.checkpoint else ""

    def choices(self) -> list[tuple[Path, str]]:
        """The checkpoints to choose from, with a line about each. The current one is marked in the menu."""
        self.window.variables.checkpoint.set(str(self.checkpoint))
        return [(found, self._line(found)) for found in checkpoints_under(CHECKPOINTS)]

    def _line(self, checkpoint: Path) -> str:
        """Run, step, score if it was evaluated, base models and date."""
        facts = checkpoint_facts(checkpoint)
        score = self.window.t("score", score=f"{facts.score:.3f}") if facts.score is not None else ""
        return "  ·  ".join(part for part in (name_of(checkpoint), score, " + ".join(facts.bases), facts.date) if part)

    def load(self, checkpoint: Path) -> None:
        """Load another checkpoint, ending the answer in progress. The conversation can be continued with it."""
        window = self.window
        window.questions.give_back(window.questions.end())
        if self.checkpoint not in (None, Path(checkpoint)) and window.conversation.turns:
            window.say("note", window.t("switched", name=name_of(Path(checkpoint))))
        self.checkpoint = Path(checkpoint)
        self.is_demo = is_demo(self.checkpoint)  # only here: reading its config takes as long as a person notices
        window.maps.looking = None
        window.maps.clear()
        device = self.device or window.preferences.device or None
        self.loading = window.worker.load(self.checkpoint, device, verify=self.verify, overrides=window.overrides)
        window.maps.show()
        window.start.read()
        window.start.show()
        window.show_state("stage_libraries")

    def choose(self) -> None:
        if path := filedialog.askdirectory(
            parent=self.window.root, title=self.window.t("choose_checkpoint"), mustexist=True
        ):
            self.load(Path(path))

    def on_event(self, kind: str, value: Any) -> None:
        """An event of the job that loads."""
        window = self.window
        if kind == "stage":
            window.show_state(f"stage_{value}")
            return
        self.loading = None
        if kind == "problem":
            window.say_problem("cannot_load", value)
        window.start.show()
        window.show_idle()
        window.maps.show()

    # ------------------------------------------------------------------------------------------ settings

    def answer_settings(self) -> dict[str, Any]:
        """The preferences for an answer, without those that the command line has set."""
        set_there = {text.partition("=")[0].removeprefix("generate.") for text in self.window.overrides}
        chosen = self.window.preferences.overrides()
        return {name: value for name, value in chosen.items() if name not in set_there}

    def defaults(self) -> dict[str, Any]:
        """The checkpoint's own settings of an answer; those of a new config while no model is loaded."""
        from settings import Generate  # pydantic takes 0.15 s, which the window does not need to open

        assistant = self.window.worker.assistant
        generate = assistant.config.generate if assistant is not None else Generate()
        system = assistant.config.language.system if assistant is not None else ""
        return {name: getattr(generate, name, system) for name in ANSWER}

    def open_settings(self) -> None:
        window, devices = self.window, ["cpu", "cuda"]
        if window.preferences.device not in ("", *devices):
            devices.append(window.preferences.device)
        SettingsDialog(
            window.root,
            window.view.look,
            window.t,
            window.preferences,
            self.defaults(),
            devices,
            self.apply_settings,
        )

    def apply_settings(self, changed: Preferences) -> None:
        window = self.window
        new_device = changed.device != window.preferences.device
        before = vars(window.preferences)
        window.prefer(**{name: value for name, value in vars(changed).items() if value != before[name]})
        if new_device and self.checkpoint is not None:
            self.device = None
            self.load(self.checkpoint)
