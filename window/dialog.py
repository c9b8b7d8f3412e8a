"""The settings dialog."""

from __future__ import annotations

import math
import tkinter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from tkinter import ttk
from typing import Any, TypeVar

from common.language import system_language
from common.text import whole
from window.look import Look
from window.preferences import LANGUAGES, SIZES, Preferences

_K = TypeVar("_K")


class SettingsDialog(tkinter.Toplevel):
    """Shows ``preferences``; OK calls ``apply`` with a changed copy.

    ``defaults`` are the checkpoint's own answer length and system prompt. A value equal to them is not kept as a
    preference, so that the next checkpoint's own value is used.
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
        self.body = ttk.Frame(self.page, padding=(look.px(20), look.px(20), look.px(20), 0))
        self.body.columnconfigure(1, weight=1)
        self._make_variables()
        self._build()
        self.fill(preferences)
        self._fit_to_screen(parent)
        self.bind("<Escape>", lambda event: self.destroy())
        self.bind("<Return>", self._on_return)
        self.wait_visibility()
        self.grab_set()
        self.greedy.focus_set()

    def destroy(self) -> None:
        """Delete the variables too: Python could collect them in another thread, which must not call Tk."""
        super().destroy()
        del self.do_sample, self.dark, self.temperature, self.length, self.device, self.language, self.text_size

    def _make_variables(self) -> None:
        self.do_sample = tkinter.BooleanVar(self)
        self.dark = tkinter.BooleanVar(self)
        self.temperature, self.length = tkinter.StringVar(self), tkinter.StringVar(self)
        self.device, self.language = tkinter.StringVar(self), tkinter.StringVar(self)
        self.text_size = tkinter.StringVar(self)

    def _build(self) -> None:
        t, body = self.t, self.body
        radio: dict[str, Any] = {"variable": self.do_sample, "style": "Dot.TRadiobutton", "command": self._show_use}
        self.greedy = ttk.Radiobutton(body, text=t("greedy"), value=False, **radio)
        self._row(0, "decoding", self.greedy)
        self._row(1, None, ttk.Radiobutton(body, text=t("sampling"), value=True, **radio))
        self.heat = ttk.Spinbox(
            body, textvariable=self.temperature, from_=0.1, to=5, increment=0.1, width=8, font=self.look.font
        )
        self._row(2, "temperature", self.heat)
        spin = ttk.Spinbox(body, textvariable=self.length, from_=1, to=4096, increment=16, width=8, font=self.look.font)
        self._row(3, "length", spin)
        self.system = self.look.text_box(body, height=3, padx=self.look.px(6), pady=self.look.px(5))
        self.system.configure(width=36, highlightthickness=1, highlightbackground=self.look.colors.edge)
        self.system.configure(highlightcolor=self.look.colors.accent)
        self.system.bind("<Tab>", self._leave_text)
        self._row(4, "system", self.system)
        self._row(5, "device", self._choice(self.device, self.names.values()))
        self._row(6, "language", self._choice(self.language, LANGUAGES.values()))
        self._row(7, "size", self._choice(self.text_size, self.sizes.values()))
        self.dark_switch = ttk.Checkbutton(body, text=t("dark"), variable=self.dark, style="Switch.TCheckbutton")
        self._row(8, None, self.dark_switch)
        self._build_foot()

    def _build_foot(self) -> None:
        px, gap = self.look.px, self.look.px(8)
        foot = ttk.Frame(self, padding=(px(20), gap, px(20), px(20)))
        foot.pack(side="bottom", fill="x")
        self.message = ttk.Label(foot, style="Small.TLabel", foreground=self.look.colors.on_warning)
        self.message.pack(anchor="w")
        row = ttk.Frame(foot)
        row.pack(fill="x", pady=(gap, 0))
        ttk.Button(row, text=self.t("defaults"), command=self._reset).pack(side="left")
        ttk.Button(row, text=self.t("ok"), style="Accent.TButton", command=self.accept).pack(side="right")
        cancel = ttk.Button(row, text=self.t("cancel"), command=self.destroy)
        cancel.pack(side="right", padx=gap)

    def _reset(self) -> None:
        """Show the defaults. Whether attention maps are shown is not a setting of this dialog."""
        self.fill(Preferences(look=self.preferences.look))

    def _fit_to_screen(self, parent: tkinter.Tk) -> None:
        """Place it near the window's corner. On a low screen (200 % on a laptop) all but the buttons scrolls."""
        px = self.look.px
        self.update_idletasks()
        width, whole = self.body.winfo_reqwidth(), self.body.winfo_reqheight()
        available = self.winfo_screenheight() - px(50)  # without the title and the taskbar
        height = min(whole, available - self.winfo_reqheight())  # the dialog has only its buttons so far
        self.page.create_window(0, 0, window=self.body, anchor="nw", width=width)
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
        if event.widget.master is self.body:
            top, whole = event.widget.winfo_y(), self.body.winfo_reqheight()
            first, last = (whole * share for share in self.page.yview())
            if top < first or top + event.widget.winfo_height() > last:
                self.page.yview_moveto((top - self.look.px(20)) / whole)

    def _row(self, number: int, key: str | None, widget: tkinter.Widget) -> None:
        gap = self.look.px(4)
        if key is not None:
            label = ttk.Label(self.body, text=self.t(key))
            label.grid(row=number, column=0, sticky="nw", padx=(0, self.look.px(20)), pady=2 * gap)
        widget.grid(row=number, column=1, sticky="w", pady=gap)

    def _choice(self, variable: tkinter.StringVar, values: Iterable[str]) -> ttk.Combobox:
        return ttk.Combobox(
            self.body, textvariable=variable, values=list(values), state="readonly", width=16, font=self.look.font
        )

    def fill(self, preferences: Preferences) -> None:
        """Show ``preferences``."""
        self.do_sample.set(preferences.do_sample)
        self.dark.set(preferences.dark)
        self.temperature.set(f"{preferences.temperature:g}")
        self.length.set(str(preferences.max_new_tokens or self.defaults["max_new_tokens"]))
        self.system.delete("1.0", "end")
        self.system.insert("1.0", self.defaults["system"] if preferences.system is None else preferences.system)
        self.device.set(self.names.get(preferences.device, preferences.device))
        self.language.set(LANGUAGES[preferences.language or system_language()])
        self.text_size.set(self.sizes[preferences.size])
        self._show_use()

    def _show_use(self) -> None:
        self.heat.configure(state="normal" if self.do_sample.get() else "disabled")

    def accept(self) -> None:
        """Apply the settings and close, or say which number is wrong."""
        try:
            temperature = self._number("temperature", self.temperature.get(), float, 0.1, 5)
            length = int(self._number("length", self.length.get(), int, 1, 4096))
        except ValueError as error:
            self.message.configure(text=str(error))
            return
        system, _ = whole(self.system.get("1.0", "end-1c").strip())
        language = _key(LANGUAGES, self.language.get())
        changed = replace(
            self.preferences,
            do_sample=self.do_sample.get(),
            dark=self.dark.get(),
            temperature=temperature,
            max_new_tokens=None if length == self.defaults["max_new_tokens"] else length,
            system=None if system == self.defaults["system"] else system,
            device=_key(self.names, self.device.get()),
            language="" if language == system_language() else language,
            size=_key(self.sizes, self.text_size.get()),
        )
        self.destroy()
        self.apply(changed)

    def _number(self, key: str, value: str, convert: Callable[[str], float], least: float, most: float) -> float:
        """Raises ValueError, with a message for the user, for anything but a number from ``least`` to ``most``."""
        try:
            number = convert(value)
        except ValueError:
            number = math.nan
        if not least <= number <= most:
            raise ValueError(self.t("bad_number", name=self.t(key), value=value or "–", least=least, most=most))
        return number

    def _leave_text(self, event: tkinter.Event) -> str:
        next_widget = event.widget.tk_focusNext()
        if next_widget is not None:
            next_widget.focus_set()
        return "break"

    def _on_return(self, event: tkinter.Event) -> None:
        if not isinstance(event.widget, (tkinter.Text, ttk.Button)):
            self.accept()


def _key(names: Mapping[_K, str], value: str) -> _K:
    """The key with this name."""
    return next(key for key, name in names.items() if name == value)
