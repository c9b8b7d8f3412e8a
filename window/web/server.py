"""Serving the page: on this computer only, without analytics, with nothing loaded from elsewhere."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from window.web import limits

if TYPE_CHECKING:
    from window.web.page import Page

HOST = "127.0.0.1"
# The browser itself refuses to load anything from elsewhere, and no other page may show this one in a frame.
# gradio's own scripts need "unsafe-inline" and "unsafe-eval".
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


def prepare_gradio(folder: str) -> None:
    """Set what gradio reads from the environment, before it is imported. ``folder`` is for uploaded files."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = folder
    for name in ("no_proxy", "NO_PROXY"):  # gradio asks its own server whether it runs, and not through a proxy
        os.environ[name] = ",".join(part for part in (os.environ.get(name), HOST) if part)


@contextmanager
def served(page: Page, port: int | None = None, share: bool = False) -> Iterator[str]:
    """The page while it is served; gives its address. ``port`` None: the first free one from 7860 on.

    Raises:
        UserError: the port is in use, or gradio's server for ``share`` cannot be reached.
    """
    from starlette.middleware import Middleware

    from window.web.page import CSS, THEME

    try:
        _, local, public = page.blocks.launch(
            server_name=HOST,
            server_port=port,
            share=share,
            max_file_size=limits.MOST_BYTES,
            app_kwargs={"middleware": [Middleware(_Headers)]},
            theme=THEME,
            css=CSS,
            footer_links=[],
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            enable_monitoring=False,
            prevent_thread_lock=True,
            quiet=True,
        )
    except OSError:
        taken = f"port {port} is in use" if port else "no port from 7860 to 7959 is free"
        raise UserError(f"{taken}; choose another with --port") from None
    try:
        if share and not public:
            raise UserError("--share: gradio's server, which makes the link, cannot be reached; leave --share out")
        yield public or local
    finally:
        page.blocks.close(verbose=False)


_Message = MutableMapping[str, Any]


class _Headers:
    """Adds :data:`HEADERS` to every answer of the server."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: _Message, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        async def send_with_headers(message: _Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *added]
            await send(message)

        await self.app(scope, receive, send_with_headers)
