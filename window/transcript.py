"""The conversation as it is shown: questions and answers as bubbles, and the window's own sentences, in one text."""

from __future__ import annotations

import tkinter
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from tkinter import ttk
from typing import Any

from answering.checkpoints import name_of
from dataset.boxes import markup_of
from window.look import Look

ACTIONS = ("copy", "again", "look")  # under each answer


class Transcript:
    """Questions and answers in a text that cannot be edited, with notes and problems of the window.

    ``pointed`` is called with the turn and the character of its answer that are under the mouse, or with (None, 0);
    ``clicked`` with the turn whose answer was clicked; each of ``actions`` (their names are in ACTIONS) with the turn
    under whose answer it is.
    """

    def __init__(
        self,
        parent: tkinter.Misc,
        look: Look,
        t: Callable[..., str],
        pointed: Callable[[int | None, int], None],
        clicked: Callable[[int], None],
        actions: Mapping[str, Callable[[int], None]],
    ) -> None:
        self.look, self.t, self.pointed, self.clicked, self.actions = look, t, pointed, clicked, actions
        self.size, self.at_end = (0, 0), True  # at_end: whether the last line was visible before the size changes
        px = look.px
        self.text = look.text_box(parent, state="disabled", padx=px(12), pady=px(8), spacing2=px(3), cursor="arrow")
        self.bar = bar = ttk.Scrollbar(parent, orient="vertical", takefocus=False)  # made last, so it is on top

        def scrolled(first: float, last: float) -> None:
            """The bar is shown only if there is something to scroll. Tk gives shares of the text, as strings."""
            bar.set(first, last)
            if self.size == (self.text.winfo_width(), self.text.winfo_height()):
                self.at_end = float(last) >= 1
            if float(first) <= 0 and float(last) >= 1:
                bar.place_forget()
            else:
                bar.place(relx=1, x=-px(3), y=px(4), anchor="ne", relheight=1, height=-px(8))

        self.text.configure(yscrollcommand=scrolled)
        bar.configure(command=self.text.yview)
        self.text.pack(fill="both", expand=True)
        self.ends = {
            (kind, top): tkinter.PhotoImage(master=self.text)
            for kind in ("question", "answer")
            for top in (True, False)
        }
        self._configure_tags()
        self.text.bind("<Motion>", self._on_motion)
        self.text.bind("<Leave>", lambda event: self.pointed(None, 0))
        self.text.bind("<ButtonRelease-1>", self._on_click)
        self.text.bind("<Button-1>", lambda event: self.text.focus_set(), add=True)
        self.text.bind("<Configure>", self._on_resize)
        self.text.bind("<<Copy>>", lambda event: self._copy())

    def _configure_tags(self) -> None:
        px, colors, tag = self.look.px, self.look.colors, self.text.tag_configure
        tag("hint", foreground=colors.muted, justify="center", spacing1=px(24))
        bubble: dict[str, Any] = {"lmargin1": px(12), "lmargin2": px(12), "rmargin": px(12)}
        for kind, color in (("question", colors.question), ("answer", colors.ground)):
            tag(kind, background=color, lmargincolor=color, rmargincolor=color, **bubble)
        tag("question", font=self.look.bold)
        tag("who", foreground=colors.muted, font=self.look.small, spacing1=px(10), spacing3=px(3))
        tag("end", font=self.look.tiny)
        tag("action", foreground=colors.accent, font=self.look.small, spacing1=px(3), spacing3=px(6))
        tag("shown", background=colors.question, underline=True)
        tag("note", foreground=colors.muted, font=self.look.small, spacing1=px(6), spacing3=px(6), **bubble)
        warning = colors.warning
        tag("problem", background=warning, foreground=colors.on_warning, lmargincolor=warning, rmargincolor=warning)
        tag("problem", spacing1=px(7), spacing3=px(7), **bubble)
        tag("gap", font=self.look.small)
        tag("marked", background=colors.marked)
        tag("markup", elide=True)  # of boxes, which are drawn over the picture
        tag("hand")
        self.text.tag_bind("hand", "<Enter>", lambda event: self.text.configure(cursor="hand2"))
        self.text.tag_bind("hand", "<Leave>", lambda event: self.text.configure(cursor="arrow"))
        self.text.tag_raise("sel")

    def _on_resize(self, event: tkinter.Event) -> None:
        """Draw the bubbles' ends as wide as the text; a text that showed its last answer continues to."""
        width = max(1, event.width - 2 * self.look.px(12))
        colors = {"question": self.look.colors.question, "answer": self.look.colors.ground}
        for (kind, top), image in self.ends.items() if event.width != self.size[0] else ():
            image.configure(data=self.look.bubble_end(width, colors[kind], top))
        if self.at_end:
            self._see_last()
        self.size = (event.width, event.height)

    # ------------------------------------------------------------------------------------------ writing

    def clear(self) -> None:
        self._edit(lambda: self.text.delete("1.0", "end"))

    def start(self, hint: str) -> ttk.Frame:
        """Show a hint at the top until the first question; returns a frame under it, for what can be tried."""
        frame = ttk.Frame(self.text, style="Surface.TFrame")

        def insert() -> None:
            self._remove_start()
            self.text.insert("1.0", f"{hint}\n\n", ("hint", "start"))
            self.text.window_create("2.0", window=frame)
            for tag in ("hint", "start"):
                self.text.tag_add(tag, "2.0")

        self._edit(insert)
        return frame

    def _remove_start(self) -> None:
        """With its frame, which Tk destroys with its place in the text."""
        if found := self.text.tag_ranges("start"):
            self.text.delete(*found)

    def question(self, turn: int, question: str, when: str) -> None:
        """A question and when it was asked (ISO 8601, or "")."""
        asked = f"asked-{turn}"
        who = " · ".join(part for part in (self.t("you"), clock(when)) if part)

        def insert() -> None:
            self._remove_start()
            self._insert(f"{who}\n", ("who", asked))
            self._insert_end("question", True, asked)
            self._insert(f"{question}\n", ("question", asked))
            self._insert_end("question", False, asked)

        self._edit(insert)
        self.text.see("end")  # also if it was scrolled up: the person wants to see the answer

    def begin_answer(self, turn: int, checkpoint: str) -> None:
        """Pieces from now on belong to this turn's answer, by ``checkpoint`` ("": unknown)."""
        asked = f"asked-{turn}"
        who = name_of(Path(checkpoint)) if checkpoint else self.t("model")

        def insert() -> None:
            self._insert(f"{who}\n", ("who", asked))
            self._insert_end("answer", True, asked)

        self._edit(insert)
        self.text.mark_set("answer", "end-1c")
        self.text.mark_gravity("answer", "left")
        self.tags = ("answer", f"answer-{turn}", asked)

    def piece(self, piece: str) -> None:
        def insert() -> None:
            self._insert(piece, self.tags)
            so_far = self.text.get("answer", "end-1c")
            if "<" in so_far:
                self._hide_markup(so_far, grows=True)

        self._edit(insert)

    def end_answer(self, turn: int, answer: str) -> None:
        """Replace the streamed pieces by the whole answer, with the actions under it."""
        asked = f"asked-{turn}"

        def replace() -> None:
            self.text.delete("answer", "end-1c")
            self._insert(answer, ("answer", f"answer-{turn}", asked))
            self._hide_markup(answer)
            self._insert("\n", ("answer", asked))
            self._insert_end("answer", False, asked)
            for name in ACTIONS:
                self._insert_action(name, turn)
                self._insert("      " if name != ACTIONS[-1] else "\n", ("action", asked))

        self._edit(replace)

    def drop_question(self) -> None:
        """Remove the last question, which has no answer."""
        last = max(int(tag.removeprefix("asked-")) for tag in self.text.tag_names() if tag.startswith("asked-"))
        first = str(self.text.tag_ranges(f"asked-{last}")[0])

        def remove() -> None:
            self.text.delete(first, "end-1c")
            self.text.tag_delete(f"asked-{last}")

        self._edit(remove)

    def note(self, kind: str, line: str) -> None:
        def insert() -> None:
            self._insert(f"{line}\n", kind)
            self._insert("\n", "gap")

        self._edit(insert)

    # These are for functions that are given to _edit. Each edit asks Tk for the layout, which waits for the display.

    def _insert(self, words: str, tags: str | tuple[str, ...]) -> None:
        self.text.insert("end-1c", words, tags)

    def _hide_markup(self, answer: str, grows: bool = False) -> None:
        """Hide the marks of boxes in the answer that was inserted last."""
        self.text.tag_remove("markup", "answer", "end")
        for start, end in markup_of(answer, grows):
            self.text.tag_add("markup", f"answer + {start} chars", f"answer + {end} chars")

    def _insert_end(self, kind: str, top: bool, asked: str) -> None:
        """A line with the rounded top or bottom of a bubble."""
        self.text.image_create("end-1c", image=self.ends[kind, top])
        self.text.tag_add("end", "end-2c")
        self.text.tag_add(asked, "end-2c")
        self._insert("\n", ("end", asked))

    def _insert_action(self, name: str, turn: int) -> None:
        tag = f"{name}-{turn}"
        self.text.tag_bind(tag, "<ButtonRelease-1>", lambda event: self._act(name, turn))
        self._insert(self.t(f"action_{name}"), ("action", "hand", tag, f"asked-{turn}"))

    def _act(self, name: str, turn: int) -> None:
        if not self.text.tag_ranges("sel"):  # the mouse selected nothing on its way
            self.actions[name](turn)

    @property
    def ended(self) -> bool:
        """Whether the last line is visible."""
        return self.text.dlineinfo("end-1c") is not None

    def _edit(self, change: Callable[[], None]) -> None:
        """Change the text, and stay at its end; a text that was scrolled up stays where it is."""
        ended = self.ended
        self.text.configure(state="normal")
        change()
        self.text.configure(state="disabled")
        if ended:
            self._see_last()

    def _see_last(self) -> None:
        """Scroll to the end; what is offered before the first question is read from its beginning."""
        self.text.see("1.0" if self.text.tag_ranges("start") else "end")

    def _copy(self) -> str:
        """Copy what is selected as it is seen: Tk would copy hidden marks too."""
        if selected := self.text.tag_ranges("sel"):
            self.text.clipboard_clear()
            self.text.clipboard_append(self.text.tk.call(self.text, "get", "-displaychars", *map(str, selected)))
        return "break"

    # ------------------------------------------------------------------------------------------ marks and the mouse

    def mark(self, turn: int | None, span: tuple[int, int] | None) -> None:
        """Mark the answer whose map is shown, and the characters ``span`` of it; None: no mark."""
        self.text.tag_remove("shown", "1.0", "end")
        found = self.text.tag_ranges(f"look-{turn}") if turn is not None else ()
        if found:
            self.text.tag_add("shown", *found)
        self.mark_words(turn, span)

    def mark_words(self, turn: int | None, span: tuple[int, int] | None) -> None:
        """Mark the characters ``span`` of an answer; None: no mark."""
        self.text.tag_remove("marked", "1.0", "end")
        start = self.start_of(turn)
        if span is not None and start is not None:
            self.text.tag_add("marked", f"{start} + {span[0]} chars", f"{start} + {span[1]} chars")

    def see(self, turn: int) -> None:
        """Scroll to a turn's answer."""
        self.text.see(self.start_of(turn) or "end")

    def start_of(self, turn: int | None) -> str | None:
        """Where a turn's answer begins in the text."""
        found = self.text.tag_ranges(f"answer-{turn}") if turn is not None else ()
        return str(found[0]) if found else None

    def turn_at(self, event: tkinter.Event) -> int | None:
        """The turn under the mouse, its question included."""
        tags = self.text.tag_names(self.text.index(f"@{event.x},{event.y}"))
        return next((int(tag.removeprefix("asked-")) for tag in tags if tag.startswith("asked-")), None)

    def _at(self, event: tkinter.Event) -> tuple[int | None, int]:
        """The turn and the character of its answer under the mouse, or (None, 0)."""
        index = self.text.index(f"@{event.x},{event.y}")
        box = self.text.bbox(index)
        tag = next((tag for tag in self.text.tag_names(index) if tag.startswith("answer-")), None)
        if tag is None or box is None or not (box[0] <= event.x < box[0] + box[2]):
            return None, 0
        turn = int(tag.removeprefix("answer-"))
        count: Any = self.text.count(self.start_of(turn) or "1.0", index, "chars")
        return turn, int(count[0] if isinstance(count, tuple) else count or 0)  # None for 0 before Python 3.13

    def _on_motion(self, event: tkinter.Event) -> None:
        self.pointed(*self._at(event))

    def _on_click(self, event: tkinter.Event) -> None:
        turn, _ = self._at(event)
        if turn is not None:
            self.clicked(turn)


def clock(when: str) -> str:
    """Hours and minutes of a time (ISO 8601), with the day unless it is today; "" for one that cannot be read."""
    try:
        time = datetime.fromisoformat(when).astimezone()
    except ValueError:
        return ""
    return time.strftime("%H:%M" if time.date() == datetime.now().date() else "%Y-%m-%d %H:%M")
