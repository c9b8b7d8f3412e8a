"""The right side: questions, answers and the window's own sentences, in one text."""

from __future__ import annotations

from collections.abc import Callable
from tkinter import ttk

from window.look import Look


class Transcript:
    """``pointed`` is called with (turn, character of its answer) under the mouse, or (None, 0); ``clicked`` a turn."""

    def __init__(self, parent, look: Look, pointed: Callable, clicked: Callable) -> None:
        self.pointed, self.clicked = pointed, clicked
        self.empty = True
        px, colors = look.px, look.colors
        self.text = look.text_box(parent, state="disabled", padx=px(16), pady=px(10), spacing2=px(3), cursor="arrow")
        self.bar = bar = ttk.Scrollbar(parent, orient="vertical", takefocus=False)  # after the text: it lies above

        def scrolled(first: str, behind: str) -> None:  # the bar is there when there is something to scroll
            bar.set(first, behind)
            bar.place_forget() if float(first) <= 0 and float(behind) >= 1 else bar.place(**place)

        place = {"relx": 1, "x": -px(3), "y": px(4), "anchor": "ne", "relheight": 1, "height": -px(8)}
        self.text.configure(yscrollcommand=scrolled)
        bar.configure(command=self.text.yview)
        self.text.pack(fill="both", expand=True)
        inset = {"lmargin1": px(10), "lmargin2": px(10), "rmargin": px(10)}
        self.text.tag_configure("hint", foreground=colors.muted, justify="center", spacing1=px(24))
        self.text.tag_configure("question", font=look.bold, spacing1=px(9), spacing3=px(7), **inset)
        self.text.tag_configure("question", background=colors.question, lmargincolor=colors.question)
        self.text.tag_configure("answer", spacing1=px(8), spacing3=px(14), **inset)
        self.text.tag_configure("note", foreground=colors.muted, font=look.small, spacing3=px(10), **inset)
        self.text.tag_configure("problem", background=colors.warning, foreground=colors.on_warning, **inset)
        self.text.tag_configure("problem", lmargincolor=colors.warning, spacing1=px(7), spacing3=px(7))
        self.text.tag_configure("gap", font=look.small)
        self.text.tag_configure("marked", background=colors.marked)
        self.text.tag_raise("sel")
        self.text.bind("<Motion>", self._on_motion)
        self.text.bind("<Leave>", lambda event: self.pointed(None, 0))
        self.text.bind("<ButtonRelease-1>", self._on_click)
        self.text.bind("<Button-1>", lambda event: self.text.focus_set(), add=True)

    def clear(self, hint: str) -> None:
        """Nothing but a hint, which goes with the first thing written."""
        self._edit(lambda: (self.text.delete("1.0", "end"), self.text.insert("end", hint, "hint")))
        self.empty = True

    def question(self, question: str) -> None:
        self._write(f"{question}\n", "question")
        self.text.see("end")  # who asks wants to see the answer, wherever the view was

    def begin_answer(self, turn: int) -> None:
        """Pieces that come now belong to this turn's answer."""
        self.text.mark_set("answer", "end-1c")
        self.text.mark_gravity("answer", "left")
        self.tags = ("answer", f"answer-{turn}")

    def piece(self, piece: str) -> None:
        self._write(piece, self.tags)

    def end_answer(self, turn: int, answer: str) -> None:
        """The answer is whole: what was streamed gives way to it, to the letter."""

        def replace() -> None:
            self.text.delete("answer", "end-1c")
            self.text.insert("end", answer, ("answer", f"answer-{turn}"))
            self.text.insert("end", "\n", "answer")

        self._edit(replace)

    def drop_question(self) -> None:
        """Take the last question away, which has no word of an answer."""
        first = self.text.tag_prevrange("question", "end")[0]
        self._edit(lambda: self.text.delete(first, "end-1c"))

    def note(self, kind: str, line: str) -> None:
        self._write(f"{line}\n", kind)
        self._write("\n", "gap")

    def mark(self, turn: int | None, span: tuple[int, int] | None) -> None:
        """Mark a word of an answer, or nothing."""
        self.text.tag_remove("marked", "1.0", "end")
        start = self._start_of(turn)
        if span is not None and start is not None:
            self.text.tag_add("marked", f"{start} + {span[0]} chars", f"{start} + {span[1]} chars")

    def see(self, turn: int) -> None:
        self.text.see(self._start_of(turn) or "end")

    def _start_of(self, turn: int | None) -> str | None:
        found = self.text.tag_ranges(f"answer-{turn}") if turn is not None else ()
        return str(found[0]) if found else None

    def _at(self, event) -> tuple[int | None, int]:
        """The turn and the character of its answer under the mouse."""
        place = self.text.index(f"@{event.x},{event.y}")
        box = self.text.bbox(place)
        turn = next((tag for tag in self.text.tag_names(place) if tag.startswith("answer-")), None)
        if turn is None or box is None or not (box[0] <= event.x < box[0] + box[2]):
            return None, 0
        turn = int(turn.removeprefix("answer-"))
        count = self.text.count(self._start_of(turn), place, "chars")
        return turn, int(count[0] if isinstance(count, tuple) else count or 0)  # None for 0 before Python 3.13

    def _on_motion(self, event) -> None:
        self.pointed(*self._at(event))

    def _on_click(self, event) -> None:
        turn, _ = self._at(event)
        if turn is not None:
            self.clicked(turn)

    def _write(self, words: str, tags) -> None:
        if self.empty:
            self._edit(lambda: self.text.delete("1.0", "end"))
            self.empty = False
            self.text.mark_set("answer", "end-1c")
        self._edit(lambda: self.text.insert("end-1c", words, tags))

    def _edit(self, change: Callable) -> None:
        at_end = self.text.dlineinfo("end-1c") is not None  # the last line is seen; who has scrolled up stays there
        self.text.configure(state="normal")
        change()
        self.text.configure(state="disabled")
        if at_end:
            self.text.see("end")
