"""A headless Chromium for the tests of the HTML report and of the page, and for screenshots, without any package.

It is driven by the DevTools protocol over two pipes (``--remote-debugging-pipe``): messages are JSON, each ended by a
zero byte; Chromium reads from file descriptor 3 and writes to 4.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from select import select
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = (
    "--headless=new --remote-debugging-pipe --no-first-run --no-default-browser-check --disable-gpu "
    "--disable-extensions --disable-background-networking --disable-component-update "
    "--disable-dev-shm-usage --hide-scrollbars --lang=en-US"
).split()
KEY_CODES = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39}  # what a key without a character needs


def find_chromium() -> str | None:
    """The path of an installed Chromium or Chrome; None without one, and on Windows, which has no such pipes."""
    if os.name == "nt":
        return None
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page of a running Chromium. Use it in a ``with`` statement."""

    def __init__(self, program: str, seconds: float = 120) -> None:
        self.program, self.seconds = program, seconds
        self.number, self.session = 0, ""
        self.buffer = b""
        self.events: list[dict] = []

    def __enter__(self) -> Browser:
        self.folder = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        command = [self.program, *OPTIONS, f"--user-data-dir={self.folder.name}"]
        if os.geteuid() == 0:
            command.append("--no-sandbox")  # its sandbox refuses to start as root
        with _pipe() as (theirs_in, self.write), _pipe(reading=True) as (self.read, theirs_out):

            def connect() -> None:
                os.dup2(theirs_in, 3)
                os.dup2(theirs_out, 4)

            self.process = subprocess.Popen(
                command,
                pass_fds=(3, 4),
                preexec_fn=connect,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "HOME": self.folder.name},
            )
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.write)
        os.close(self.read)
        self.folder.cleanup()

    # ------------------------------------------------------------------------------------------ the protocol

    def call(self, method: str, **parameters: Any) -> dict:
        """Send a command and wait for its result. Events that arrive meanwhile are kept in ``events``."""
        self.number += 1
        message: dict = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def _receive(self) -> dict:
        end = time.monotonic() + self.seconds
        while b"\0" not in self.buffer:
            ready, _, _ = select([self.read], [], [], max(0.0, end - time.monotonic()))
            piece = os.read(self.read, 1 << 20) if ready else b""
            if not piece:
                raise TimeoutError(f"no answer from {self.program} within {self.seconds} s")
            self.buffer += piece
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def wait_for(self, event: str) -> dict:
        """The first event of this name since the last :meth:`open`."""
        while True:
            for seen in self.events:
                if seen.get("method") == event:
                    return seen
            self.events.append(self._receive())

    # ------------------------------------------------------------------------------------------ the page

    def open(self, file: Path, state: str = "") -> None:
        """Load a file, with the part of its address after "#", and wait until it is complete."""
        self.visit("about:blank")  # else a new "#" loads nothing
        self.visit(f"{file.resolve().as_uri()}#{state}")

    def visit(self, url: str) -> None:
        """Load an address and wait until it is complete."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        self.wait_for("Page.loadEventFired")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            raise RuntimeError(done["exceptionDetails"]["exception"].get("description", script))
        return done["result"].get("value")

    def until(self, script: str) -> Any:
        """Wait until a JavaScript expression is true, and give its value."""
        end = time.monotonic() + self.seconds
        while not (value := self.run(script)):
            if time.monotonic() > end:
                raise TimeoutError(f"not true within {self.seconds} s: {script}")
            time.sleep(0.05)
        return value

    def attach(self, selector: str, files: Sequence[Path]) -> None:
        """Choose files in an ``input`` of the page."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file.resolve()) for file in files])

    def press(self, key: str) -> None:
        """Press and release a key: one character, or a name such as "Escape"."""
        text: dict[str, Any] = {"text": key} if len(key) == 1 else {"windowsVirtualKeyCode": KEY_CODES[key]}
        if key == "Enter":
            text["text"] = "\r"
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def size(self, width: int, height: int, scale: float = 1) -> None:
        """The page's width and height in CSS pixels; a screenshot has ``scale`` times as many."""
        options = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **options)

    def screenshot(self) -> bytes:
        """What is seen, as a PNG."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def requested(self) -> list[str]:
        """The addresses that the page has asked for since it was opened."""
        return [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]

    def complaints(self) -> list[str]:
        """Errors, refusals of the content security policy, and dialogs since the page was opened."""
        self.run("1")  # what happened before has arrived then
        kinds = {
            "Runtime.exceptionThrown",
            "Runtime.consoleAPICalled",
            "Log.entryAdded",
            "Page.javascriptDialogOpening",
        }
        return [json.dumps(event["params"]) for event in self.events if event.get("method") in kinds]


@contextmanager
def _pipe(reading: bool = False) -> Iterator[tuple[int, int]]:
    """A pipe whose ends are above 9, so that they are not those that Chromium expects; Chromium's end is closed."""
    import fcntl  # not on Windows

    ends = os.pipe()
    high = (fcntl.fcntl(ends[0], fcntl.F_DUPFD_CLOEXEC, 10), fcntl.fcntl(ends[1], fcntl.F_DUPFD_CLOEXEC, 10))
    os.close(ends[0])
    os.close(ends[1])
    try:
        yield high
    finally:
        os.close(high[1] if reading else high[0])
