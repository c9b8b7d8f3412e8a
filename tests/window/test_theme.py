"""How menus, buttons and bars are drawn, by the pixels of a virtual screen."""

from __future__ import annotations

import pytest
from PIL import ImageGrab

from tests.helpers.screen import loaded, talked
from tests.window.test_look import contrast

tkinter = pytest.importorskip("tkinter", reason="this Python has no Tk")

from window.preferences import Preferences  # noqa: E402


def pixel(screen: str, x: int, y: int) -> str:
    return "#" + bytes(ImageGrab.grab((x, y, x + 1, y + 1), xdisplay=screen).getpixel((0, 0))).hex()


def test_the_scrollbar_and_the_drop_area_are_seen(open_window, screen, red):
    window, person = open_window(preferences=Preferences(size=100))
    loaded(window, person)
    view, surface = window.view, window.view.look.colors.surface
    outline = view.pane.canvas.itemcget(view.pane.canvas.find_all()[0], "outline")
    assert contrast(outline, surface) >= 3
    window.pictures.open(str(red))
    person.until(lambda: window.conversation.images)
    talked(window, person, *["a red circle"] * 30)
    bar = view.transcript.bar

    def thumb() -> str:
        first, last = bar.get()
        y = bar.winfo_rooty() + round((first + last) / 2 * bar.winfo_height())
        return pixel(screen, bar.winfo_rootx() + bar.winfo_width() // 2, y)

    person.until(lambda: contrast(thumb(), surface) >= 3, 20)


def test_a_menu_has_an_edge_and_space_and_a_menu_button_its_arrow_at_the_edge(open_window, screen):
    window, person = open_window(preferences=Preferences(dark=True, size=100))
    loaded(window, person)
    menu, colors = window.view.menus.of_entry, window.view.look.colors
    menu.post(200, 300)
    person.until(menu.winfo_viewable)
    left, top, width = menu.winfo_rootx(), menu.winfo_rooty(), menu.winfo_width()
    middle = top + (menu.yposition(0) + menu.yposition(1)) // 2
    points = [(left, middle), (left + 2, middle), (left + width - 1, middle), (left + width // 2, top)]
    wanted = [colors.edge, colors.ground, colors.edge, colors.edge]
    person.until(lambda: [pixel(screen, *point) for point in points] == wanted, 20)
    line = window.view.look.font.metrics("linespace")
    assert all(menu.yposition(index + 1) - menu.yposition(index) >= line + 8 for index in range(3))
    menu.unpost()
    button = window.view.model_button
    width, middle = button.winfo_width(), button.winfo_height() // 2
    arrow = [x for x in range(width) if "indicator" in str(button.identify(x, middle))]
    assert width - 12 <= max(arrow) < width and len(arrow) < 20


def test_the_progress_bar_and_the_banner_are_drawn_like_the_rest(open_window, screen):
    window, person = open_window(preferences=Preferences(size=100))
    loaded(window, person)
    view, colors = window.view, window.view.look.colors
    view.show_status("Reading...", answering=False, loading=True)
    view.progress.stop()
    view.show_demo_note(True)

    def at(widget, x: int, y: int) -> str:
        return pixel(screen, widget.winfo_rootx() + x, widget.winfo_rooty() + y)

    bar, note = view.progress, view.demo_note
    person.until(lambda: (bar.winfo_height(), note.winfo_ismapped()) == (4, True), 20)
    wanted = [colors.accent, colors.line]
    person.until(lambda: [at(bar, x, 2) for x in (20, bar.winfo_width() - 5)] == wanted, 20)
    wanted = [colors.ground, colors.warning]
    person.until(lambda: [at(note, x, x) for x in (0, 7)] == wanted, 20)  # its corners are round
