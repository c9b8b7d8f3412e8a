"""The settings dialog: one page for answers, one for the rest."""

from __future__ import annotations

import json
import math
import tkinter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from tkinter import ttk
from typing import Any, TypeVar

from common.language import system_language
from common.text import whole
from window.look import Look
from window.preferences import ANSWER, LANGUAGES, NULLABLE, NUMBERS, SIZES, Number, Preferences

_K = TypeVar("_K")


class SettingsDialog(tkinter.Toplevel):
    """Shows ``preferences``; OK calls ``apply`` with a changed copy.

    ``defaults`` are the checkpoint's own settings of an answer. A value equal to its own is not kept as a preference,
    so that the next checkpoint's own value is used.
    """

    def __init__(
        self,
        parent: tkinter.Tk,
        look: Look,
        t: Callable[..., str],
        preferences: Preferences,
        defaults: dict[str, Any],
        devices: list[str],
        apply: Callable[[Preferences], None],
    ) -> None:
        super().__init__(parent, background=look.colors.ground)
        self.look, self.t, self.preferences, self.defaults, self.apply = look, t, preferences, defaults, apply
        self.names = {"": t("device_auto"), **{device: device for device in devices}}
        self.sizes = {0: t("size_auto"), **{size: f"{size} %" for size in SIZES if size}}
        self.title(t("settings_title"))
        self.transient(parent)
        self.resizable(False, False)
        self.page = tkinter.Canvas(self, background=look.colors.ground, highlightthickness=0)
        self.book = ttk.Notebook(self.page)
        self._make_variables()
        self._build()
        self.fill_answers(preferences)
        self.fill_general(preferences)
        self._fit_to_screen(parent)
        self.bind("<Escape>", lambda event: self.destroy())
        self.bind("<Return>", self._on_return)
        self.wait_visibility()
        self.grab_set()
        self.greedy.focus_set()

    def destroy(self) -> None:
        """Delete the variables too: Python could collect them in another thread, which must not call Tk."""
        super().destroy()
        del self.do_sample, self.numbers, self.stops, self.dark, self.device, self.language, self.text_size

    def _make_variables(self) -> None:
        self.do_sample, self.dark = tkinter.BooleanVar(self), tkinter.BooleanVar(self)
        self.numbers = {number.key: tkinter.StringVar(self) for number in NUMBERS}
        self.stops, self.device = tkinter.StringVar(self), tkinter.StringVar(self)
        self.language, self.text_size = tkinter.StringVar(self), tkinter.StringVar(self)

    # ------------------------------------------------------------------------------------------ building

    def _build(self) -> None:
        self._build_answers(self._add_page("answers"))
        self._build_general(self._add_page("general"))
        self._build_foot()

    def _add_page(self, key: str) -> ttk.Frame:
        px = self.look.px
        frame = ttk.Frame(self.book, padding=(px(20), px(12), px(20), 0))
        frame.columnconfigure((1, 3), weight=1)
        self.book.add(frame, text=self.t(key))
        return frame

    def _build_answers(self, page: ttk.Frame) -> None:
        t, look = self.t, self.look
        radio: dict[str, Any] = {"variable": self.do_sample, "command": self._show_use}
        self.greedy = ttk.Radiobutton(page, text=t("greedy"), value=False, **radio)
        self._row(page, 0, "decoding", self.greedy)
        self._row(page, 1, None, ttk.Radiobutton(page, text=t("sampling"), value=True, **radio))
        self.fields = {}
        for index, number in enumerate(NUMBERS):
            limits: dict[str, Any] = {"from_": number.least, "to": number.most, "increment": number.step}
            variable = self.numbers[number.key]
            field = ttk.Spinbox(page, textvariable=variable, width=8, font=look.font, **limits)
            self._row(page, 2 + index // 2, number.key, field, column=index % 2 * 2)
            self.fields[number.key] = field
        self.stop_field = ttk.Entry(page, textvariable=self.stops, font=look.font)
        self._row(page, 7, "stop_strings", self.stop_field, wide=True)
        around, self.system = look.text_field(page, height=3, padx=look.px(5), pady=look.px(3))
        self.system.bind("<Tab>", self._leave_text)
        self._row(page, 8, "system", around, wide=True)

    def _build_general(self, page: ttk.Frame) -> None:
        self._row(page, 0, "device", self._choice(page, self.device, self.names.values()))
        self._row(page, 1, "language", self._choice(page, self.language, LANGUAGES.values()))
        self._row(page, 2, "size", self._choice(page, self.text_size, self.sizes.values()))
        dark = ttk.Checkbutton(page, text=self.t("dark"), variable=self.dark)
        self._row(page, 3, None, dark)

    def _build_foot(self) -> None:
        px, gap, button = self.look.px, self.look.px(8), self.look.button
        foot = ttk.Frame(self, padding=(px(20), gap, px(20), px(20)))
        foot.pack(side="bottom", fill="x")
        self.message = ttk.Label(foot, style="Small.TLabel", foreground=self.look.colors.on_warning)
        self.message.pack(anchor="w")
        row = ttk.Frame(foot)
        row.pack(fill="x", pady=(gap, 0))
        button(row, self.t("defaults"), self._reset).pack(side="left")
        button(row, self.t("ok"), self.accept, "Accent.TButton").pack(side="right")
        button(row, self.t("cancel"), self.destroy).pack(side="right", padx=gap)

    def _row(
        self, page: ttk.Frame, number: int, key: str | None, widget: tkinter.Widget, column: int = 0, wide: bool = False
    ) -> None:
        """A label and a widget; a ``wide`` widget, or one without a neighbour, takes the rest of the row."""
        gap = self.look.px(4)
        if key is not None:
            label = ttk.Label(page, text=self.t(key))
            before = self.look.px(24) if column else 0
            label.grid(row=number, column=column, sticky="nw", padx=(before, self.look.px(12)), pady=2 * gap)
        span = 1 if isinstance(widget, ttk.Spinbox) else 3
        widget.grid(row=number, column=column + 1, columnspan=span, sticky="ew" if wide else "w", pady=gap)

    def _choice(self, page: ttk.Frame, variable: tkinter.StringVar, values: Iterable[str]) -> ttk.Combobox:
        return ttk.Combobox(
            page, textvariable=variable, values=list(values), state="readonly", width=18, font=self.look.font
        )

    def _fit_to_screen(self, parent: tkinter.Tk) -> None:
        """Place it near the window's corner. On a low screen (200 % on a laptop) all but the buttons scrolls."""
        px = self.look.px
        self.update_idletasks()
        width, whole = self.book.winfo_reqwidth(), self.book.winfo_reqheight()
        available = self.winfo_screenheight() - px(50)  # without the title and the taskbar
        height = min(whole, available - self.winfo_reqheight())  # the dialog has only its buttons so far
        self.page.create_window(0, 0, window=self.book, anchor="nw", width=width)
        self.page.configure(width=width, height=height, scrollregion=(0, 0, width, whole))
        if height < whole:
            bar = ttk.Scrollbar(
                self, command=self.page.yview, orient="vertical", takefocus=False, style="Page.Vertical.TScrollbar"
            )
            self.page.configure(yscrollcommand=bar.set)
            bar.pack(side="right", fill="y")
            self.bind("<FocusIn>", self._show_focused)
        self.page.pack(fill="both", expand=True)
        self.update_idletasks()
        left = min(parent.winfo_rootx() + px(80), self.winfo_screenwidth() - self.winfo_reqwidth())
        top = min(parent.winfo_rooty() + px(60), available - self.winfo_reqheight())
        self.geometry(f"+{max(0, left)}+{max(0, top)}")

    def _show_focused(self, event: tkinter.Event) -> None:
        """Scroll to the widget that has the focus."""
        if str(event.widget).startswith(f"{self.book}."):
            top, whole = event.widget.winfo_rooty() - self.book.winfo_rooty(), self.book.winfo_reqheight()
            first, last = (whole * share for share in self.page.yview())
            if top < first or top + event.widget.winfo_height() > last:
                self.page.yview_moveto((top - self.look.px(70)) / whole)  # with the names of the pages over the first

    # ------------------------------------------------------------------------------------------ what is shown

    def _reset(self) -> None:
        """Show the defaults of the page that is shown."""
        (self.fill_answers, self.fill_general)[self.book.index("current")](Preferences())

    def fill_answers(self, preferences: Preferences) -> None:
        """Show the settings of an answer."""
        chosen = self.defaults | preferences.overrides()
        self.do_sample.set(chosen["do_sample"])
        for key, variable in self.numbers.items():
            variable.set(_shown(chosen[key]))
        stops = chosen["stop_strings"]
        one = len(stops) == 1 and not stops[0].startswith("[") and stops[0].strip() == stops[0]
        self.stops.set(stops[0] if one else json.dumps(stops, ensure_ascii=False) if stops else "")
        self.system.delete("1.0", "end")
        self.system.insert("1.0", chosen["system"])
        self._show_use()

    def fill_general(self, preferences: Preferences) -> None:
        """Show the device and how the window looks."""
        self.device.set(self.names.get(preferences.device, preferences.device))
        self.language.set(LANGUAGES[preferences.language or system_language()])
        self.text_size.set(self.sizes[preferences.size])
        self.dark.set(preferences.dark)

    def _show_use(self) -> None:
        for number in NUMBERS:
            used = self.do_sample.get() or not number.samples
            self.fields[number.key].configure(state="normal" if used else "disabled")

    # ------------------------------------------------------------------------------------------ what was chosen

    def accept(self) -> None:
        """Apply the settings and close, or say which of them is wrong."""
        try:
            answer = self._answer()
        except ValueError as error:
            self.message.configure(text=str(error))
            return
        language = _key(LANGUAGES, self.language.get())
        changed = replace(
            self.preferences,
            **answer,
            dark=self.dark.get(),
            device=_key(self.names, self.device.get()),
            language="" if language == system_language() else language,
            size=_key(self.sizes, self.text_size.get()),
        )
        self.destroy()
        self.apply(changed)

    def _answer(self) -> dict[str, Any]:
        """The settings of an answer, as preferences. Raises ValueError, with a message for the person."""
        chosen: dict[str, Any] = {number.key: self._number(number) for number in NUMBERS}
        chosen["do_sample"], chosen["stop_strings"] = self.do_sample.get(), self._stop_strings()
        chosen["system"] = whole(self.system.get("1.0", "end-1c").strip())[0]
        if chosen["min_new_tokens"] > chosen["max_new_tokens"]:
            raise self._bad_number("min_new_tokens", 0, chosen["max_new_tokens"])
        own = {key: None for key in ANSWER if chosen[key] == self.defaults[key]}
        return {key: "" if value is None else value for key, value in chosen.items()} | own

    def _number(self, number: Number) -> float | None:
        """The number in a field, None for an empty one that may be empty. Raises ValueError for any other text.

        The checkpoint's own number is taken as it is, also beyond the limits.
        """
        text, own = self.numbers[number.key].get().strip(), self.defaults[number.key]
        if text == _shown(own):
            return own
        if not text and number.key in NULLABLE:
            return None
        try:
            found = number.convert(text)
        except ValueError:
            found = math.nan
        if not number.least <= found <= number.most:
            raise self._bad_number(number.key, number.least, number.most)
        return found

    def _bad_number(self, key: str, least: float, most: float) -> ValueError:
        value = self.numbers[key].get() or "–"
        return ValueError(self.t("bad_number", name=self.t(key), value=value, least=least, most=most))

    def _stop_strings(self) -> list[str]:
        """One text, or a list as on the command line. Raises ValueError for what is neither."""
        text = whole(self.stops.get())[0]
        if not text.startswith("["):
            return [text] if text else []
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, list) or not all(isinstance(stop, str) and stop for stop in found):
            raise ValueError(self.t("bad_stops"))
        return found

    def _leave_text(self, event: tkinter.Event) -> str:
        next_widget = event.widget.tk_focusNext()
        if next_widget is not None:
            next_widget.focus_set()
        return "break"

    def _on_return(self, event: tkinter.Event) -> None:
        if not isinstance(event.widget, (tkinter.Text, ttk.Button)):
            self.accept()


def _shown(value: float | None) -> str:
    """A number as its field shows it; "" for None."""
    return "" if value is None else f"{value:.10g}"


def _key(names: Mapping[_K, str], value: str) -> _K:
    """The key with this name."""
    return next(key for key, name in names.items() if name == value)
