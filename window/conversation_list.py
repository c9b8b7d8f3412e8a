"""The list of the kept conversations: search, open, rename, delete and undo."""

from __future__ import annotations

import tkinter
from pathlib import Path
from tkinter import ttk
from typing import TYPE_CHECKING

from PIL import ImageTk

from common.errors import UserError
from window.history import Entry
from window.transcript import clock

if TYPE_CHECKING:
    from window.controller import Window

ROWS_AT_ONCE = 10  # between keys and clicks: reading ten small pictures takes 5 ms


class ConversationList(tkinter.Toplevel):
    """Shows the conversations of a window's history, the last changed first."""

    def __init__(self, window: Window) -> None:
        self.window, self.look, self.t = window, window.view.look, window.t
        super().__init__(window.root, background=self.look.colors.ground)
        self.keeping, self.history = window.keeping, window.keeping.history
        self.entries: dict[str, Entry] = {}
        self.images: dict[str, ImageTk.PhotoImage] = {}  # Tk itself keeps no reference
        self.pending: str | None = None  # Tk's timer
        self.renamed = ""  # the name of the conversation whose title is being typed
        self.title(self.t("conversations_short"))
        self.transient(window.root)
        px = self.look.px
        width, height = min(px(560), self.winfo_screenwidth()), min(px(520), self.winfo_screenheight() - px(60))
        left, top = window.root.winfo_rootx() + px(60), window.root.winfo_rooty() + px(40)
        left, top = min(left, self.winfo_screenwidth() - width), min(top, self.winfo_screenheight() - height - px(50))
        self.geometry(f"{width}x{height}+{max(0, left)}+{max(0, top)}")
        self._build()
        self._bind_keys()
        self.keeping.keep_now()
        self.fill()
        self.wait_visibility()
        self.search.focus_set()

    def _build(self) -> None:
        px, button = self.look.px, self.look.button
        top, foot = ttk.Frame(self, padding=px(12)), ttk.Frame(self, padding=px(12))
        ttk.Label(top, text=self.t("search")).pack(side="left", padx=(0, px(8)))
        self.search: ttk.Entry = ttk.Entry(top, font=self.look.font)
        self.search.pack(fill="x", expand=True)
        self.rows = ttk.Treeview(self, columns=("when",), show="tree", selectmode="browse")
        self.rows.column("when", width=px(150), stretch=False, anchor="e")
        bar = ttk.Scrollbar(self, command=self.rows.yview, style="Page.Vertical.TScrollbar", takefocus=False)
        self.rows.configure(yscrollcommand=bar.set)
        self.message = ttk.Label(foot, style="Small.TLabel")
        self.title_entry = ttk.Entry(foot, font=self.look.font)
        self.message.pack(side="bottom", fill="x", pady=(px(6), 0))
        self.buttons = {}
        for key, command in (
            ("open", self.open),
            ("rename", self.rename),
            ("delete", self.delete),
            ("undo", self.undo),
        ):
            self.buttons[key] = button(foot, self.t(key), command, "Accent.TButton" if key == "open" else "TButton")
            self.buttons[key].pack(side="left", padx=(0, px(8)))
        top.pack(fill="x")
        foot.pack(side="bottom", fill="x")
        bar.pack(side="right", fill="y")
        self.rows.pack(fill="both", expand=True, padx=(px(12), 0))

    def _bind_keys(self) -> None:
        self.search.bind("<KeyRelease>", lambda event: self.fill())
        self.search.bind("<Down>", lambda event: self.rows.focus_set())
        self.search.bind("<Return>", lambda event: self.open())
        self.title_entry.bind("<Return>", lambda event: self._set_title())
        self.title_entry.bind("<Escape>", lambda event: self._end_rename())
        self.rows.bind("<Double-Button-1>", lambda event: self.open())
        self.rows.bind("<Return>", lambda event: self.open())
        self.rows.bind("<Delete>", lambda event: self.delete())
        self.rows.bind("<F2>", lambda event: self.rename())
        self.bind("<Control-z>", lambda event: self.undo())
        self.bind("<Escape>", lambda event: self.destroy())

    def destroy(self) -> None:
        if self.pending is not None:
            self.after_cancel(self.pending)
            self.pending = None
        super().destroy()
        self.images.clear()

    # ------------------------------------------------------------------------------------------ the rows

    def fill(self, chosen: str | None = None) -> None:
        """List what the search finds; ``chosen`` is selected, by default the first."""
        found = self.history.entries(self.search.get().strip())
        if [*self.entries.values()] == found:
            return
        if self.pending is not None:
            self.after_cancel(self.pending)
        self.entries = {entry.name: entry for entry in found}
        self.rows.delete(*self.rows.get_children())
        for entry in found:
            picture = Path(entry.pictures[0]).name if entry.pictures else ""
            when = clock(entry.changed)
            self.rows.insert("", "end", entry.name, text=f"  {entry.title}", values=(when,), tags=(picture,))
        if found:
            chosen = chosen if chosen in self.entries else found[0].name
            self.rows.selection_set(chosen)
            self.rows.focus(chosen)
        self.message.configure(text="" if found else self.t("no_conversations"))
        self._draw([entry.name for entry in found])

    def _draw(self, names: list[str]) -> None:
        """Read the small pictures of some rows; the others' follow when Tk has time."""
        self.pending = None
        side = self.look.px(44)
        for name in names[:ROWS_AT_ONCE]:
            if name not in self.images and (picture := self.history.small_picture(name)) is not None:
                picture.thumbnail((side, side))
                self.images[name] = ImageTk.PhotoImage(picture, master=self)
            if name in self.images:
                self.rows.item(name, image=str(self.images[name]))
        if rest := names[ROWS_AT_ONCE:]:
            self.pending = self.after(10, lambda: self._draw(rest))

    @property
    def chosen(self) -> str | None:
        return next(iter(self.rows.selection()), None)

    # ------------------------------------------------------------------------------------------ what can be done

    def open(self) -> None:
        if self.chosen is not None:
            self.keeping.open(self.chosen)
            self.destroy()

    def rename(self) -> None:
        """Type another title: Enter takes it, Esc leaves the old one."""
        if self.chosen is not None:
            self.renamed = self.chosen
            self.title_entry.delete(0, "end")
            self.title_entry.insert(0, self.entries[self.renamed].title)
            self.title_entry.select_range(0, "end")
            self.title_entry.pack(side="bottom", fill="x", pady=(self.look.px(8), 0))
            self.title_entry.focus_set()

    def _set_title(self) -> None:
        try:
            self.keeping.rename(self.renamed, self.title_entry.get().strip())
        except UserError as error:
            self.message.configure(text=self.window.said(str(error)))
        self._end_rename()
        self.fill(self.renamed)

    def _end_rename(self) -> str:
        self.title_entry.pack_forget()
        self.rows.focus_set()
        return "break"  # Esc does not close the list

    def delete(self) -> None:
        """Delete the chosen conversation; it can be put back."""
        name = self.chosen
        if name is None:
            return
        title, following = self.entries[name].title, self.rows.next(name) or self.rows.prev(name)
        try:
            self.history.delete(name)
        except OSError as error:
            self.message.configure(text=self.window.said(str(error.strerror)))
            return
        self.window.recent.read()
        self.fill(following)
        self.message.configure(text=self.t("deleted", title=title))

    def undo(self) -> None:
        """Put the last deleted conversation back."""
        name = self.history.undo_delete()
        if name is not None:
            self.window.recent.read()
            self.fill(name)
