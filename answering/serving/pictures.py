"""Pictures by address: ``data:`` URLs, and http(s) addresses fetched within limits.

An address comes from whoever asks, so a server that fetches it must not become their way into its own network: only
public addresses are connected to, and what was checked is what is connected to (a name cannot point elsewhere a moment
later). Proxies of the environment are not used.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import http.client
import ipaddress
import socket
import ssl
import string
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from answering.serving.engine import Picture
from dataset.image import ImageError, ImageProcessor, load_image, prepare_image

REDIRECTS = 3
KEPT = 64  # prepared pictures: 110 MB at 384 x 384


@dataclass(frozen=True)
class FetchLimits:
    """Of pictures that are fetched."""

    most_bytes: int
    seconds: float = 10.0
    private: bool = False  # whether addresses of this machine and its network are allowed


class Pictures:
    """Reads, checks and prepares pictures. Several threads may call it."""

    def __init__(self, processor: ImageProcessor, max_pixels: int, limits: FetchLimits) -> None:
        self.processor, self.max_pixels, self.limits = processor, max_pixels, limits
        self._kept: OrderedDict[str, Picture] = OrderedDict()  # by digest, the least recently used first
        self._lock = threading.Lock()

    def __call__(self, url: str) -> Picture:
        """The picture at an address.

        Raises:
            ImageError: it cannot be fetched or used.
        """
        return self.prepare(self.read(url))

    def read(self, url: str) -> bytes:
        """The file at an address, which may take ``limits.seconds``. Raises ImageError."""
        return from_data_url(url) if url[:5].lower() == "data:" else fetch(url, self.limits)

    def prepare(self, content: bytes) -> Picture:
        """The picture in a file; the same bytes are decoded once. Raises ImageError."""
        digest = hashlib.sha256(content).hexdigest()
        with self._lock:
            if digest in self._kept:
                self._kept.move_to_end(digest)
                return self._kept[digest]
        picture = Picture(digest, prepare_image(load_image(content, self.max_pixels), self.processor))
        with self._lock:
            self._kept[digest] = picture
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return picture


def from_data_url(url: str) -> bytes:
    """Raises ImageError if it is not base64."""
    head, comma, content = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise ImageError("a data: URL that does not begin with data:image/...;base64,")
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise ImageError("a data: URL that is not base64") from None


def fetch(url: str, limits: FetchLimits) -> bytes:
    """The content of an http(s) address, after at most REDIRECTS redirects.

    Raises:
        ImageError: another kind of address, one that is not allowed, too large, too slow, or no answer.
    """
    end = time.monotonic() + limits.seconds
    for _ in range(REDIRECTS + 1):
        found: bytes | str = b""
        problem = ""
        try:
            found = _get(url, limits, end)
        except ImageError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            problem = " ".join(str(error).split())[:160] or type(error).__name__
        if time.monotonic() >= end:  # what was read until then may be a part
            raise ImageError(f"cannot be fetched within {limits.seconds:g} s")
        if problem:
            raise ImageError(f"cannot be fetched: {problem}")
        if isinstance(found, bytes):
            return found
        url = found
    raise ImageError(f"cannot be fetched: more than {REDIRECTS} redirects")


def _get(url: str, limits: FetchLimits, end: float) -> bytes | str:
    """The content of an address, or the address that it redirects to."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ImageError("expected a data: URL, or an address that begins with http:// or https://")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port)
    sock = _connect(connection.host, connection.port, limits, end)
    closing = threading.Timer(end - time.monotonic(), _shut, [sock])  # a server that sends a byte now and then
    closing.start()
    try:
        if parts.scheme == "https":
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=connection.host)
        connection.sock = sock
        path = urlunsplit(("", "", parts.path or "/", parts.query, ""))
        headers = {"Accept": "image/*", "Accept-Encoding": "identity", "Connection": "close"}
        connection.request("GET", quote(path, safe=string.punctuation), headers=headers)
        return _content(connection.getresponse(), url, limits)
    finally:
        closing.cancel()
        connection.close()
        sock.close()


def _connect(host: str, port: int, limits: FetchLimits, end: float) -> socket.socket:
    """A connection to an address that is allowed."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if not limits.private and not all(is_public(str(address[0])) for *_, address in found):
        raise ImageError("an address of this machine or its network; --private-pictures allows those")
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.settimeout(max(0.01, end - time.monotonic()))
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet's."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip.sixtofour or ip
    return ip.is_global and not ip.is_multicast


def _content(response: http.client.HTTPResponse, url: str, limits: FetchLimits) -> bytes | str:
    """The content of a response, or the address that it redirects to."""
    if response.status in (301, 302, 303, 307, 308) and (target := response.getheader("Location")):
        return urljoin(url, target)
    if response.status != 200:
        raise ImageError(f"cannot be fetched: {response.status} {response.reason}"[:160])
    content = response.read(limits.most_bytes + 1)
    if len(content) > limits.most_bytes:
        raise ImageError(f"too large: more than {limits.most_bytes:,} bytes")
    if response.length:  # what the header promised and has not come
        raise http.client.IncompleteRead(content)
    return content


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed already
        sock.shutdown(socket.SHUT_RDWR)
