"""The conversation as it is shown: questions, answers and the window's own sentences, in one text."""

from __future__ import annotations

import tkinter
from collections.abc import Callable
from tkinter import ttk
from typing import Any

from window.look import Look


class Transcript:
    """Questions and answers in a text that cannot be edited, with notes and problems of the window.

    ``pointed`` is called with the turn and the character of its answer that are under the mouse, or with (None, 0);
    ``clicked`` with the turn whose answer was clicked.
    """

    def __init__(
        self,
        parent: tkinter.Misc,
        look: Look,
        pointed: Callable[[int | None, int], None],
        clicked: Callable[[int], None],
    ) -> None:
        self.pointed, self.clicked = pointed, clicked
        self.empty = True
        px, colors = look.px, look.colors
        self.text = look.text_box(parent, state="disabled", padx=px(16), pady=px(10), spacing2=px(3), cursor="arrow")
        self.bar = bar = ttk.Scrollbar(parent, orient="vertical", takefocus=False)  # made last, so it is on top

        def scrolled(first: float, last: float) -> None:
            """The bar is shown only if there is something to scroll. Tk gives shares of the text, as strings."""
            bar.set(first, last)
            if float(first) <= 0 and float(last) >= 1:
                bar.place_forget()
            else:
                bar.place(relx=1, x=-px(3), y=px(4), anchor="ne", relheight=1, height=-px(8))

        self.text.configure(yscrollcommand=scrolled)
        bar.configure(command=self.text.yview)
        self.text.pack(fill="both", expand=True)
        inset: dict[str, Any] = {"lmargin1": px(10), "lmargin2": px(10), "rmargin": px(10)}
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
        """Show only a hint, which is removed when something is written."""

        def replace() -> None:
            self.text.delete("1.0", "end")
            self.text.insert("end", hint, "hint")

        self._edit(replace)
        self.empty = True

    def question(self, question: str) -> None:
        self._write(f"{question}\n", "question")
        self.text.see("end")  # also if it was scrolled up: the person wants to see the answer

    def begin_answer(self, turn: int) -> None:
        """Pieces from now on belong to this turn's answer."""
        self.text.mark_set("answer", "end-1c")
        self.text.mark_gravity("answer", "left")
        self.tags = ("answer", f"answer-{turn}")

    def piece(self, piece: str) -> None:
        self._write(piece, self.tags)

    def end_answer(self, turn: int, answer: str) -> None:
        """Replace the streamed pieces by the whole answer."""

        def replace() -> None:
            self.text.delete("answer", "end-1c")
            self.text.insert("end", answer, ("answer", f"answer-{turn}"))
            self.text.insert("end", "\n", "answer")

        self._edit(replace)

    def drop_question(self) -> None:
        """Remove the last question, which has no answer."""
        first = str(self.text.tag_ranges("question")[-2])  # ranges are pairs: begin, end
        self._edit(lambda: self.text.delete(first, "end-1c"))

    def note(self, kind: str, line: str) -> None:
        self._write(f"{line}\n", kind)
        self._write("\n", "gap")

    def mark(self, turn: int | None, span: tuple[int, int] | None) -> None:
        """Mark the characters ``span`` of a turn's answer; None: no mark."""
        self.text.tag_remove("marked", "1.0", "end")
        start = self._start_of(turn)
        if span is not None and start is not None:
            self.text.tag_add("marked", f"{start} + {span[0]} chars", f"{start} + {span[1]} chars")

    def see(self, turn: int) -> None:
        """Scroll to a turn's answer."""
        self.text.see(self._start_of(turn) or "end")

    def _start_of(self, turn: int | None) -> str | None:
        found = self.text.tag_ranges(f"answer-{turn}") if turn is not None else ()
        return str(found[0]) if found else None

    def _at(self, event: tkinter.Event) -> tuple[int | None, int]:
        """The turn and the character of its answer under the mouse, or (None, 0)."""
        index = self.text.index(f"@{event.x},{event.y}")
        box = self.text.bbox(index)
        tag = next((tag for tag in self.text.tag_names(index) if tag.startswith("answer-")), None)
        if tag is None or box is None or not (box[0] <= event.x < box[0] + box[2]):
            return None, 0
        turn = int(tag.removeprefix("answer-"))
        count: Any = self.text.count(self._start_of(turn) or "1.0", index, "chars")
        return turn, int(count[0] if isinstance(count, tuple) else count or 0)  # None for 0 before Python 3.13

    def _on_motion(self, event: tkinter.Event) -> None:
        self.pointed(*self._at(event))

    def _on_click(self, event: tkinter.Event) -> None:
        turn, _ = self._at(event)
        if turn is not None:
            self.clicked(turn)

    def _write(self, words: str, tags: str | tuple[str, ...]) -> None:
        if self.empty:
            self._edit(lambda: self.text.delete("1.0", "end"))
            self.empty = False
            self.text.mark_set("answer", "end-1c")
        self._edit(lambda: self.text.insert("end-1c", words, tags))

    def _edit(self, change: Callable[[], None]) -> None:
        """Change the text, and stay at its end; a text that was scrolled up stays where it is."""
        at_end = self.text.dlineinfo("end-1c") is not None  # the last line is visible
        self.text.configure(state="normal")
        change()
        self.text.configure(state="disabled")
        if at_end:
            self.text.see("end")
