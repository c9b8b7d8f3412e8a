"""Where the model looks: which answer's map is shown, or which word's, and the job that computes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dataset.boxes import in_plain_words

if TYPE_CHECKING:
    from answering.attention_map import AttentionMap
    from window.controller import Window

# What the line under the picture says of each kind of map.
SHOWS = {"tokens": "shows_tokens", "queries": "shows_queries", "cross_attention": "shows_cross_attention"}


class Maps:
    """The attention maps of a window's conversation."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.looking: int | None = None  # the worker's job
        self.clear()

    def clear(self) -> None:
        """Forget the maps: they are of another conversation or another model."""
        self.by_picture: dict[int, dict[int, AttentionMap]] = {}  # picture -> turn -> the map of its answer
        self.selected: int | None = None  # the turn whose map is shown; None: the last answer's
        self.looking_at = (0, 0)  # the picture and the turn whose map is being computed
        self.span: tuple[int, int] | None = None  # the word whose map is shown; None: the whole answer's

    @property
    def found(self) -> dict[int, AttentionMap]:
        """Turn -> the map of its answer on the shown picture."""
        return self.by_picture.setdefault(self.window.strip.shown, {})

    # ------------------------------------------------------------------------------------------ which map

    def toggle(self) -> None:
        self.window.variables.look.set(not self.window.variables.look.get())
        self.on_switch()

    def on_switch(self) -> None:
        """The switch "Where it looks" was turned on or off."""
        self.window.prefer(look=self.window.variables.look.get())
        self.show()

    def select(self, turn: int) -> None:
        """Show where the model looked for this answer, and its boxes, on their picture."""
        self.selected = turn
        self.window.boxes.go_to(turn)
        self.show()

    def look_at(self, turn: int) -> None:
        """Switch the maps on and show this answer's; switch them off if it is shown already."""
        shown = self.window.preferences.look and self.shown_turn() == turn
        self.selected = turn
        self.window.boxes.go_to(turn)
        self.window.variables.look.set(not shown)
        self.on_switch()

    def shown_turn(self) -> int | None:
        """The turn whose map is shown: the selected one, else the last that has an answer."""
        answered = self.window.answered_turns()
        return self.selected if self.selected in answered else (answered[-1] if answered else None)

    def shown(self) -> AttentionMap | None:
        """The map of the shown turn; None if maps are switched off or it is not there yet."""
        turn = self.shown_turn()
        return self.found.get(turn) if self.window.preferences.look and turn is not None else None

    def step_word(self, step: int) -> None:
        """Show the next word's map; after the last word comes the whole answer."""
        found = self.shown()
        if found is None:
            self.window.boxes.step(step)
            return
        choices = [None, *found.words()]
        self.show(choices[(choices.index(self.span) + step) % len(choices)])
        if self.span is not None:
            self.window.boxes.on_word(self.shown_turn(), self.span[0])

    def step_answer(self, step: int) -> None:
        """Show the next answer's map."""
        answered, shown = self.window.answered_turns(), self.shown_turn()
        if shown is not None:
            position = answered.index(shown) + step
            turn = answered[max(0, min(position, len(answered) - 1))]
            self.select(turn)
            self.window.view.transcript.see(turn)

    # ------------------------------------------------------------------------------------------ showing it

    def show(self, span: tuple[int, int] | None = None) -> None:
        """Show the map of the shown turn, or of a word of its answer. If it is not there, ask the worker for it."""
        window = self.window
        self.span, turn, found = span, self.shown_turn(), self.shown()
        window.view.transcript.mark(turn if found is not None else None, span)
        grid = found.of(span) if found is not None else None
        window.view.show_map(grid, self._about(found, grid, span))
        window.boxes.show()
        idle = window.questions.job is None and self.looking is None and window.models.loading is None
        wanted = window.preferences.look and found is None and turn is not None
        if turn is not None and wanted and idle and window.worker.assistant is not None:
            request, picture = window.conversation.up_to(turn), window.strip.shown
            if picture < len(request.images):  # else it was added after this answer
                self.looking_at = picture, turn
                self.looking = window.worker.look(request, picture, **window.models.answer_settings())

    def _about(self, found: AttentionMap | None, grid: np.ndarray | None, span: tuple[int, int] | None) -> str:
        window = self.window
        if found is None or grid is None:
            return window.t("no_map_yet") if window.preferences.look and not window.conversation.turns else ""
        share = f"{100 * float(np.nansum(grid)):.0f} %"
        word = in_plain_words(found.text[slice(*span)] if span else "", lambda box: "▭")
        who = window.t("whole_answer") if span is None else window.t("one_word", word=word)
        return window.t(SHOWS[found.shows], who=who, share=share)

    def on_word(self, turn: int | None, offset: int) -> None:
        """The mouse is over character ``offset`` of an answer, or (None) over none."""
        found = self.shown() if turn == self.shown_turn() else None
        span = None
        if found is not None:
            span = next((word for word in found.words() if word[0] <= offset < word[1]), None)
        if span != self.span:
            self.show(span)

    def on_patch(self, patch: tuple[int, int] | None) -> None:
        """The mouse is over a patch (row, column) of the map, or over none."""
        found = self.shown()
        if found is None:
            return
        grid = found.of(self.span)
        if patch is None:
            line = self._about(found, grid, self.span)
        elif np.isnan(grid[patch]):
            line = self.window.t("dropped_patch")
        else:
            share = f"{100 * float(grid[patch]):.1f} %"
            line = self.window.t("one_patch", row=patch[0] + 1, column=patch[1] + 1, share=share)
        self.window.view.map_note.configure(text=line)

    def on_event(self, kind: str, value: Any) -> None:
        """An event of the job that computes a map."""
        window = self.window
        if kind == "stage":
            window.show_state("stage_look")
            return
        self.looking = None
        window.show_idle()
        if kind == "looked":
            picture, turn = self.looking_at
            self.by_picture.setdefault(picture, {})[turn] = value
            self.show()
        else:
            window.say_problem("cannot_look", value)
