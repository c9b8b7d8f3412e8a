"""Sessions on the tiny model, and the page in headless Chromiums; skipped with the reason where gradio is absent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from benchmarks.browser import NAMES, Browser, find_chromium
from tests.helpers.tiny import never_ends
from window.web.model import Model
from window.web.server import prepare_gradio, served
from window.web.sessions import Sessions


@pytest.fixture
def sessions(checkpoint) -> Iterator[Sessions]:
    """All tabs of a page whose model is the tiny one."""
    model = Model(checkpoint, "cpu")
    model.start()
    found = Sessions(model)
    yield found
    assert found.turns.close(timeout=60)


@pytest.fixture
def endless(sessions) -> Sessions:
    """The same; an answer of the model does not end by itself."""
    never_ends(sessions.model.assistant)
    sessions.model.assistant.config.generate.max_new_tokens = 3000
    return sessions


@pytest.fixture(scope="session")
def browsers() -> Iterator[list[Browser]]:
    """Two running Chromiums, one for each person."""
    pytest.importorskip("gradio", reason="gradio is not installed; `make test-web` installs it beside and runs these")
    program = find_chromium()
    if program is None:
        pytest.skip(f"no Chromium to open the page in: none of {', '.join(NAMES)} is installed, or this is Windows")
    with ExitStack() as stack:
        yield [stack.enter_context(Browser(program)) for _ in range(2)]


@pytest.fixture
def uploads(tmp_path, monkeypatch) -> Path:
    """The folder of uploaded files; gradio's settings are undone afterwards."""
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR", "no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    prepare_gradio(str(tmp_path / "uploads"))
    return tmp_path / "uploads"


@pytest.fixture
def serve(browsers, sessions, uploads) -> Callable[..., AbstractContextManager[str]]:
    """A function that serves the page, and gives its address in a ``with`` statement."""
    from window.web.page import Page

    return lambda **options: served(Page(sessions, **options))


@pytest.fixture
def address(serve) -> Iterator[str]:
    """The page's address while it is served."""
    with serve() as found:
        yield found


@pytest.fixture
def person(browsers, address) -> Callable[[int], Person]:
    """A function that opens the page: person 0, or person 1 at the same time."""
    return lambda number=0, language="en-US", mode="light": Person(browsers[number], address, language, mode)


class Person:
    """Someone with the page in front of them."""

    def __init__(self, browser: Browser, address: str, language: str, mode: str = "light") -> None:
        self.browser, self.address = browser, address
        browser.size(1280, 900)
        browser.call("Emulation.setUserAgentOverride", userAgent="test", acceptLanguage=language)
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": mode}])
        browser.visit(address)
        browser.run("sessionStorage.clear()")
        self.reload()

    def reload(self) -> None:
        self.browser.visit(self.address)
        self.until("document.querySelector('#status p')?.innerText && document.querySelector('#box textarea')")

    def until(self, script: str) -> None:
        self.browser.until(f"!!({script})")

    def text(self, selector: str) -> str:
        return self.browser.run(f"document.querySelector({selector!r})?.innerText ?? ''").strip()

    @property
    def status(self) -> str:
        return self.text("#status")

    def until_status(self, start: str) -> None:
        self.until(f"document.querySelector('#status').innerText.trim().startsWith({start!r})")

    def until_words(self) -> None:
        """Wait until an answer has begun."""
        self.until("document.querySelector('#chat [data-testid=bot]')?.innerText.length > 5")

    def attach(self, *files: Path) -> None:
        before = self.browser.run("document.querySelectorAll('#box .thumbnail-item').length")
        self.browser.attach("#box input[type=file]", files)
        self.until(f"document.querySelectorAll('#box .thumbnail-item').length == {before + len(files)}")

    def type(self, words: str) -> None:
        self.browser.run("document.querySelector('#box textarea').focus()")
        self.browser.call("Input.insertText", text=words)

    def ask(self, question: str, *files: Path) -> None:
        if files:
            self.attach(*files)
        self.type(question)
        self.browser.press("Enter")

    def click(self, selector: str) -> None:
        self.until(f"document.querySelector({selector!r})")
        self.browser.run(f"document.querySelector({selector!r}).click()")

    def said(self, who: str = "bot") -> list[str]:
        """The messages of "bot" or "user", from the first to the last."""
        return self.browser.run(
            f"[...document.querySelectorAll('#chat [data-testid={who}]')].map((one) => one.innerText.trim())"
        )
