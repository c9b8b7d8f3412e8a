"""Pictures by address: what is fetched, what is not, and within which limits."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from transformers import SiglipImageProcessorPil

from answering.serving import pictures as pictures_module
from answering.serving.pictures import KEPT, FetchLimits, Pictures, fetch, from_data_url, is_public
from dataset.image import ImageError, prepare_image
from tests.helpers.serving import data_url
from tests.helpers.tiny import picture

HERE = FetchLimits(1000, seconds=10.0, private=True)


class Site(BaseHTTPRequestHandler):
    """A small web site."""

    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/").replace("_", "/"))
            self.end_headers()
        elif self.path == "/drip":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while not self.server.ended.wait(0.05):
                self.wfile.write(b"x")
        else:
            content = {"/picture": b"content", "/large": b"x" * 1001, "/%C3%A4%20b?c=d": b"odd name"}.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"") + (5 if self.path == "/large" else 0)))
            self.end_headers()
            self.wfile.write(content or b"")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.daemon_threads = True
    server.ended = threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.ended.set()
    server.shutdown()
    server.server_close()


def test_an_address_is_fetched_with_its_redirects(site):
    assert fetch(f"{site}/picture", HERE) == b"content"
    assert fetch(f"{site}/to/_to__picture", HERE) == b"content"
    assert fetch(f"{site}/ä b?c=d", HERE) == b"odd name"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/none", "cannot be fetched: 404 Not Found"),
        ("/large", "too large: more than 1,000 bytes"),
        ("/to/_to__to__to__picture", "cannot be fetched: more than 3 redirects"),
        ("/to/file:___etc_passwd", "expected a data: URL, or an address that begins with http:// or https://"),
    ],
)
def test_what_cannot_be_fetched_says_why(site, path, message):
    with pytest.raises(ImageError) as failed:
        fetch(site + path, HERE)
    assert str(failed.value) == message


def test_a_server_that_sends_a_byte_now_and_then_is_left(site):
    with pytest.raises(ImageError, match="cannot be fetched within 0.3 s"):
        fetch(f"{site}/drip", FetchLimits(1000, seconds=0.3, private=True))


@pytest.mark.parametrize("url", ["", "a.jpg", "/etc/passwd", "file:///etc/passwd", "ftp://a/b", "http://", "http:///a"])
def test_other_kinds_of_addresses_are_refused(url):
    with pytest.raises(ImageError, match="expected a data: URL, or an address"):
        fetch(url, HERE)


@pytest.mark.parametrize("url", ["http://[", "http://a:port/", "http://a\x00b/", "http://" + "a" * 300 + "/"])
def test_broken_addresses_are_one_line(url):
    with pytest.raises(ImageError, match=r"^[^\n]{1,200}$"):
        fetch(url, HERE)


def test_this_machine_is_not_asked_unless_that_is_allowed(site, monkeypatch):
    public = FetchLimits(1000)
    with pytest.raises(ImageError, match="an address of this machine or its network; --private-pictures allows those"):
        fetch(f"{site}/picture", public)
    port = int(site.rpartition(":")[2])
    names = lambda host, port, **options: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", port))]  # noqa: E731
    monkeypatch.setattr(socket, "getaddrinfo", names)  # a public name that points into the network
    with pytest.raises(ImageError, match="an address of this machine or its network"):
        fetch(f"http://example.org:{port}/picture", public)


def test_a_redirect_into_the_network_is_not_followed(site, monkeypatch):
    public = lambda address: asked.append(address) or len(asked) == 1  # noqa: E731
    asked: list[str] = []
    monkeypatch.setattr(pictures_module, "is_public", public)
    with pytest.raises(ImageError, match="an address of this machine"):
        fetch(f"{site}/to/_picture", FetchLimits(1000))
    assert asked == ["127.0.0.1", "127.0.0.1"]


@pytest.mark.parametrize(
    ("address", "wanted"),
    [("8.8.8.8", True), ("2606:4700::1111", True), ("127.0.0.1", False), ("10.1.2.3", False)]
    + [
        ("169.254.169.254", False),
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("2002:7f00:1::", False),
        ("fe80::1%eth0", False),
    ]
    + [("0.0.0.0", False), ("224.0.0.1", False), ("100.64.0.1", False), ("fc00::1", False), ("192.168.0.1", False)],
)
def test_which_addresses_are_public(address, wanted):
    assert is_public(address) is wanted


def test_data_urls():
    assert from_data_url("data:image/png;base64,aGk=") == from_data_url("DATA:;BASE64,aGk=") == b"hi"
    for url in ("data:image/png,hi", "data:image/png;base64", "data:;base64,a", "data:;base64,a\n", "data:;base64,ä"):
        with pytest.raises(ImageError, match="data: URL"):
            from_data_url(url)


def test_the_same_bytes_are_decoded_once_and_the_oldest_is_forgotten(monkeypatch):
    processor = SiglipImageProcessorPil(size={"height": 42, "width": 42})
    pictures, decoded = Pictures(processor, 1000 * 1000, HERE), []
    prepare = lambda image, processor: decoded.append(1) or prepare_image(image, processor)  # noqa: E731
    monkeypatch.setattr(pictures_module, "prepare_image", prepare)
    red = pictures(data_url(picture("red")))
    assert torch.equal(red.pixel_values, prepare_image(picture("red"), processor))
    assert pictures(data_url(picture("red"))) is red and len(decoded) == 1
    for number in range(KEPT):
        pictures(data_url(picture(f"#0000{number:02x}")))
    again = pictures(data_url(picture("red")))
    assert again is not red and again.digest == red.digest and len(decoded) == KEPT + 2


def test_pictures_keep_to_the_limit_of_pixels():
    processor = SiglipImageProcessorPil(size={"height": 42, "width": 42})
    with pytest.raises(ImageError, match="too large: 30 x 60 pixels, limit 1,000 in all"):
        Pictures(processor, 1000, HERE)(data_url(picture("red")))
    with pytest.raises(ImageError, match="not an image in a known format"):
        Pictures(processor, 1000, HERE)("data:;base64," + base64.b64encode(b"nothing").decode())
