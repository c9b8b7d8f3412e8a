"""Runs of train.py that start at once, in processes forked from one that has imported torch already.

    python -m tests.helpers.forked        reads a request a line, writes a reply a line; started by :func:`forks`

Importing torch and transformers takes seconds, and a test that kills a run twenty times has to start it as often. The
process that forks only imports and never computes, so no thread is lost in a fork.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import torch

REPO = Path(__file__).resolve().parent.parent.parent


@cache
def forks() -> Forks:
    """One for all tests of a session."""
    server = Forks()
    atexit.register(server.close)
    return server


class Forks:
    """The other end of the pipe, in the test."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
        command = [sys.executable, "-m", "tests.helpers.forked"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, cwd=REPO, env=environment, text=True, **pipes)

    def run(
        self,
        *arguments: str,
        log: Path,
        script: str = "train",
        kill: dict | None = None,
        ranks: int = 1,
        fault: str | None = None,
    ) -> dict:
        """Run a script to its end: "codes" (exit status of each rank, -9: killed), "seconds", "stdout", "stderr", and
        both as "output".

        ``kill``: {"after": seconds}, or {"event": "step", "evaluate" or "file", "count": n}: SIGKILL, or another
        "signal", at the n-th. ``fault``: what happens to the disk after the first checkpoint.
        """
        request = {"script": script, "argv": list(arguments), "log": str(log), "kill": kill or {}, "ranks": ranks}
        request["fault"] = fault
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        reply = json.loads(self.process.stdout.readline())
        reply["stdout"], reply["stderr"] = (Path(f"{log}{end}").read_text(encoding="utf-8") for end in ("", ".err"))
        return {**reply, "output": reply["stdout"] + reply["stderr"]}

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)


def serve() -> None:
    # What costs the seconds: the commands import it only after they have checked their arguments.
    for name in ("train", "training.dry_run", "evaluate", "evaluation.asking", "evaluation.report", "retrieval.loop"):
        importlib.import_module(name)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        replies.write(json.dumps(handle(json.loads(line))) + "\n")
        replies.flush()


def handle(request: dict, limit: float = 120.0) -> dict:
    begin = time.monotonic()
    port = free_port()
    for end in ("", ".err"):
        Path(request["log"] + end).write_text("", encoding="utf-8")
    children = {child(request, rank, port): rank for rank in range(request["ranks"])}
    codes: list[int | None] = [None] * request["ranks"]
    after = request["kill"].get("after")
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in children:
            codes[children.pop(pid)] = os.waitstatus_to_exitcode(status)
            continue
        seconds = time.monotonic() - begin
        if after is not None and seconds > after:
            os.kill(min(children), signal.SIGKILL)
            after = None
        if seconds > limit:
            for pid in children:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    return {"codes": codes, "seconds": time.monotonic() - begin}


def child(request: dict, rank: int, port: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        for number, end in ((1, ""), (2, ".err")):
            os.dup2(os.open(request["log"] + end, os.O_WRONLY | os.O_APPEND), number)
        sys.stdin = open(os.devnull, encoding="utf-8")  # the one that it has was read from
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
        if request["ranks"] > 1:
            world = str(request["ranks"])
            os.environ.update(WORLD_SIZE=world, LOCAL_WORLD_SIZE=world, RANK=str(rank), LOCAL_RANK=str(rank))
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        sys.argv = [f"{request['script']}.py", *request["argv"]]
        if "event" in request["kill"] and rank == request["ranks"] - 1:
            arm(**request["kill"])
        if request["fault"]:
            break_disk(request["fault"])
        code = importlib.import_module(request["script"]).main()
        if code == 0 and torch.distributed.is_initialized():
            sys.exit("ended without leaving the group")
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) else 1
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code if isinstance(code, int) else 1)


def arm(event: str, count: int, signal: int = signal.SIGKILL) -> None:
    """Send this process a signal at the ``count``-th event from now."""
    left = count

    def happened() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal)

    def audit(name: str, arguments: tuple) -> None:
        if name in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"):
            if "checkpoint-" in str(arguments[0]):
                happened()

    from training.loop import Loop

    if event == "file":
        sys.addaudithook(audit)
        return
    name = {"step": "forward_backward", "evaluate": "to_device"}[event]
    original = getattr(Loop, name)

    def counted(self, *args, **kwargs):
        if event == "step" or not self.model.training:
            happened()
        return original(self, *args, **kwargs)

    setattr(Loop, name, counted)


def break_disk(fault: str) -> None:
    """After the first checkpoint: the disk is full, the run's folder is gone, or a file has replaced it."""
    from training.loop import Loop

    original = Loop.save

    def save(self, *args, **kwargs):
        original(self, *args, **kwargs)
        run = self.run
        if fault == "full":
            import resource

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        else:
            run.rename(run.with_name("elsewhere"))
            if fault == "replaced":
                run.write_text("a file", encoding="utf-8")

    Loop.save = save


def free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


if __name__ == "__main__":
    serve()
