"""Asking: why a question is refused, the answer in progress, and how it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from answering.conversation import Exchange, typed
from answering.drawing import Corners
from common.text import whole
from dataset.boxes import asked_about

if TYPE_CHECKING:
    from window.controller import Window


class Questions:
    """Asks a window's questions and takes the events of their answers."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.job: int | None = None  # the worker's, of the answer in progress
        self.partial = ""  # the answer in progress
        self.stopped = False  # whether the person stopped it
        self.asked: list[str] = []  # since the window was opened, for the key Up

    # ------------------------------------------------------------------------------------------ asking

    def ask(self) -> None:
        """Ask what is typed, ending the answer in progress. A question that cannot be asked stays, with the reason."""
        box, about = self.window.view.question_box, self.window.boxes
        question, replaced = whole(box.text.strip())
        if not question:
            return
        boxes, picture = about.of_next()
        refused = self._refusal(boxes, picture)
        if refused:
            box.refuse(refused)
            return
        box.text, about.pending = "", None
        box.entry.focus_set()
        self._ask(question, replaced, boxes, picture)

    def again(self, turn: int) -> None:
        """Ask an earlier question once more, about the same boxes."""
        earlier = self.window.conversation.turns[turn]
        boxes, picture = self.window.boxes.of_turn(earlier)
        refused = self._refusal(boxes, picture)
        if refused:
            self.window.view.question_box.refuse(refused)
        else:
            self._ask(asked_about(typed(earlier.question))[1], 0, boxes, picture)

    def _refusal(self, boxes: Sequence[Corners], picture: int | None) -> str:
        """Why no question about these boxes of a picture can be asked now; "" if one can."""
        window = self.window
        if window.missing:
            return window.said(window.missing)
        if not window.conversation.images:
            return window.t("picture_first")
        if window.worker.assistant is None and window.models.loading is None:
            return window.t("no_model_yet")
        return window.boxes.refusal(boxes, picture)

    def _ask(self, question: str, replaced: int, boxes: Sequence[Corners], picture: int | None) -> None:
        """Ask a question about ``boxes`` of a picture; ``replaced`` characters of it could not be read."""
        window, talk = self.window, self.window.conversation
        self.end()
        if replaced:
            window.say("note", window.t("replaced_one" if replaced == 1 else "replaced", count=replaced))
        self.asked.append(question)
        request = talk.ask(question, window.boxes.thousandths(boxes, picture), picture)
        window.strip.states = []  # its pictures stay
        talk.turns[-1].checkpoint = str(window.models.checkpoint or "")
        self.partial, self.stopped = "", False
        window.maps.looking = window.maps.selected = None
        window.boxes.go_to(len(talk.turns) - 1)
        window.maps.show()
        window.show_question(len(talk.turns) - 1)
        self.job = window.worker.ask(request, **window.models.answer_settings())
        window.keeping.keep_soon()
        window.boxes.show()
        window.show_state("stage_waiting" if window.models.loading is not None else "stage_answer")

    # ------------------------------------------------------------------------------------------ ending

    def stop(self) -> None:
        """End the answer in progress; its words so far stay."""
        if self.job is not None:
            self.stopped = True
            self.window.worker.stop()
            # The button, which may have the focus, is going to be disabled.
            self.window.view.question_box.entry.focus_set()

    def end(self) -> Exchange | None:
        """Wait no longer for the answer in progress: keep its words.

        A question that has no word of an answer is removed and returned.
        """
        if self.job is None:
            return None
        answer, self.partial, self.job, self.stopped = self.partial.strip(), "", None, False
        if answer:
            self._set_answer(answer)
            return None
        self.window.view.transcript.drop_question()
        dropped = self.window.conversation.turns.pop()
        self.window.start.show()
        return dropped

    def give_back(self, dropped: Exchange | None) -> bool:
        """Put a question without an answer, and its rectangle, back into the input unless another is being typed."""
        if dropped is None:
            return False
        boxes, picture = self.window.boxes.of_turn(dropped)
        there = self.window.view.question_box.give_back(asked_about(typed(dropped.question))[1])
        if there and boxes:
            self.window.boxes.choose(boxes[0], picture)
        return there

    def _set_answer(self, answer: str) -> None:
        talk = self.window.conversation
        talk.answer(answer)
        self.window.view.transcript.end_answer(len(talk.turns) - 1, answer)
        self.window.keeping.keep()

    # ------------------------------------------------------------------------------------------ events

    def on_event(self, kind: str, value: Any) -> None:
        """An event of the job that answers."""
        window = self.window
        if kind == "stage":
            window.show_state("stage_answer")
        elif kind == "piece":
            piece = value if self.partial else value.lstrip()
            self.partial += piece
            window.view.transcript.piece(piece)
            window.keeping.keep_soon()
        elif kind == "answer":
            self._on_answer(value)
        elif kind == "problem":
            self._on_refused(window.reason("cannot_answer", value))

    def _on_answer(self, answer: str) -> None:
        window = self.window
        if self.stopped:
            self.give_back(self.end())
            window.say("note", window.t("stopped"))
        else:
            self.partial, self.job = "", None
            self._set_answer(answer)
            talk = window.conversation
            if not talk.plain(talk.turns[-1])[1].strip():  # or nothing but marks of boxes, which are hidden
                window.say("note", window.t("nothing"))
        window.show_idle()
        window.maps.show()

    def _on_refused(self, reason: str) -> None:
        """A question cannot be answered: it goes back into the input, with the reason."""
        window = self.window
        if self.give_back(self.end()):
            window.view.question_box.refuse(reason)
        else:  # some words came before, or another question is being typed
            window.say("problem", reason)
        window.show_idle()
