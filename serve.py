"""Serve a trained model over HTTP, in OpenAI's protocol.

    python serve.py --checkpoint checkpoints/demo
    python serve.py --checkpoint checkpoints/demo --port 9000 generate.batch_size=16
    VLM_SERVE_KEY=secret python serve.py --checkpoint checkpoints/run --host 0.0.0.0

and then, with the address http://127.0.0.1:8000/v1, any client for OpenAI's chat completions: pictures are image_url
parts with a data: URL or an http(s) address. Questions that come at once are answered together, and what was computed
of a picture is kept for the next question about it. What a request does not say (temperature, max_tokens, seed, stop)
is as in the checkpoint's config. Needs two optional packages: pip install fastapi uvicorn. More: docs/serving.md.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from answering.checkpoints import add_checkpoint_arguments, base_overrides, check_overrides, open_config
from common.errors import UserError, exit_status
from common.optional import require_packages

if TYPE_CHECKING:
    from answering.assistant import Assistant

KEY = "VLM_SERVE_KEY"
LOCAL = ("127.0.0.1", "localhost", "::1")
MIB = 2**20


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    return exit_status(lambda: run(args), "stopped")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=Path,
        metavar="DIR",
        help="a checkpoint, or a run's folder (its best checkpoint)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    add_checkpoint_arguments(parser)
    parser.add_argument("--name", help="of the model, as clients call it (default: the run's name)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: all of them (default: %(default)s)"
    )
    parser.add_argument("--port", type=int, default=8000, help="0: a free one (default: %(default)s)")
    parser.add_argument(
        "--key-file", type=Path, metavar="FILE", help=f"what clients must send as their key (default: {KEY}, if set)"
    )
    for name, default, what in (
        ("--queue", 64, "most questions at once, those that wait included; more get status 503"),
        ("--seconds", 300, "most time for one request"),
        ("--body-mib", 20, "largest request, and largest picture that is fetched, in MiB"),
        ("--prefix-mib", 1024, "memory for the keys and values of pictures, in MiB"),
    ):
        parser.add_argument(name, type=int, default=default, metavar="N", help=f"{what} (default: %(default)s)")
    parser.add_argument(
        "--private-pictures", action="store_true", help="fetch pictures from this machine and its network too"
    )
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="a generate. key or data.max_pixels")
    args = parser.parse_intermixed_args(argv)
    for name in ("queue", "seconds", "body_mib", "prefix_mib"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if not 0 <= args.port < 65536:
        parser.error("--port must be from 0 to 65535")
    return args


def run(args: argparse.Namespace) -> None:
    """Check what can be checked without a model, load it, and serve until Ctrl-C."""
    from answering.devices import check_device

    require_packages(("fastapi", "uvicorn"), "serve.py")
    check_device(args.device)
    check_overrides(args.words)
    overrides = [*args.words, *base_overrides(args)]
    config = open_config(args.checkpoint, overrides)
    if config.generate.num_beams > 1:
        raise UserError(f"generate.num_beams = {config.generate.num_beams}: not served; add generate.num_beams=1")
    key = read_key(args.key_file)
    listener = listen(args.host, args.port)

    from answering.assistant import Assistant
    from answering.opening import assistant_of
    from model.model import quiet_libraries

    if assistant_of(args.checkpoint) is not Assistant:
        raise UserError(f"--checkpoint = {args.checkpoint}: a baseline, which is not served; ask.py asks it")
    quiet_libraries()
    assistant = Assistant.load(args.checkpoint, args.device, verify=args.verify, overrides=overrides)
    serve(assistant, listener, key, args)


def read_key(file: Path | None) -> str | None:
    """The key that clients must have, from a file or the environment; None for no key.

    Raises:
        UserError: the file cannot be read, or what is there cannot be a key.
    """
    where = f"--key-file = {file}" if file else KEY
    try:
        key = file.read_text(encoding="utf-8").strip() if file else os.environ.get(KEY)
    except (OSError, UnicodeError) as error:
        raise UserError(f"{where}: cannot be read ({error})") from None
    if key is not None and not (key and key.isascii() and key.isprintable() and " " not in key):
        raise UserError(f"{where}: expected a key of printable ASCII characters without blanks")
    return key


def listen(host: str, port: int) -> socket.socket:
    """A socket at the address, which takes connections once the model is loaded.

    Raises:
        UserError: there is no such address, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: cannot be used ({error.strerror or error})") from None
    return listener


def serve(assistant: Assistant, listener: socket.socket, key: str | None, args: argparse.Namespace) -> None:
    """Answer requests until Ctrl-C."""
    import uvicorn

    from answering.serving.app import Limits, Service, build_app
    from answering.serving.engine import Engine
    from answering.serving.pictures import FetchLimits, Pictures

    fetching = FetchLimits(args.body_mib * MIB, private=args.private_pictures)
    service = Service(
        engine=Engine(assistant, args.prefix_mib * MIB),
        pictures=Pictures(assistant.image_processor, assistant.config.data.max_pixels, fetching),
        name=args.name or assistant.config.train.run,
        limits=Limits(args.queue, args.seconds, args.body_mib * MIB),
        key=key,
        local=args.host in LOCAL,
    )
    listener.listen()  # who connects from now on is served
    host, port = listener.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    print(f"ready     {address}/v1, model {service.name}, on {assistant.device}; Ctrl-C ends", flush=True)
    if key is None and not service.local:
        print("note: whoever reaches this address can ask; a key is set with --key-file", file=sys.stderr)
    quiet = {"log_level": "warning", "access_log": False, "server_header": False}
    plain = {"http": "h11", "ws": "none", "lifespan": "off", "loop": "asyncio"}
    config = uvicorn.Config(build_app(service), timeout_graceful_shutdown=3, **quiet, **plain)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        if not service.engine.close(timeout=10):
            os._exit(1)  # torch aborts if one of its threads outlives the interpreter


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
