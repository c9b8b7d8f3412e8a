"""A run's folder, <train.output>/<train.run>: who may train into it, where the run resumes, and what is deleted when.

    checkpoint-<step>/    model/checkpoint.py
    metrics.jsonl         one line for each log and each evaluation (training/log.py)
    answers.jsonl         what the model said at each evaluation (training/sample_answers.py)
    loss.svg              their curve (training/curve.py)
    tensorboard/, wandb/  with train.report_to
    .lock                 while a process trains into the folder

Nothing is deleted before everything that can be checked was checked: :meth:`RunFolder.begin` does it, right before the
first step.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from common.command import resume_command, typed_command
from common.errors import UserError
from common.files import remove_folder
from model.run_checkpoints import checkpoints, latest_checkpoint, newest_undamaged, remove_stale, step_of
from training.distributed import rank
from training.log import ANSWERS, CURVE, METRICS

LOCK = ".lock"


class RunFolder:
    """The folder of one run, locked from :meth:`open` to :meth:`close`."""

    def __init__(self, path: Path, *, resume: bool = False, overwrite: bool = False) -> None:
        self.path, self.resume, self.overwrite = path, resume, overwrite
        self.latest: Path | None = None  # the checkpoint that the run resumes from
        self.lock = Lock(path / LOCK)

    def open(self) -> Path | None:
        """Lock the folder, and find the checkpoint to resume from. Deletes nothing that a person would miss.

        Raises:
            UserError: another process trains into it, it cannot be written, it holds a run that nobody asked to
                resume or overwrite, or every checkpoint in it is damaged.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not rank():
                tempfile.TemporaryFile(dir=self.path).close()
                self.lock.take()
                remove_stale(self.path)
        except OSError as error:
            raise UserError(f"{self.path}: checkpoints cannot be written here: {error.strerror or error}") from error
        latest = latest_checkpoint(self.path)
        if self.resume:
            self.latest = self._newest_undamaged(latest)
        elif latest and not self.overwrite:
            raise UserError(
                f"{self.path} already holds {latest.name}; to continue it: {resume_command()}; to start over, which "
                f"deletes it: {typed_command(add=['--overwrite'])}; or name another run with train.run=NAME"
            )
        return self.latest

    def _newest_undamaged(self, latest: Path | None) -> Path | None:
        found = newest_undamaged(self.path)
        if found is None and latest:
            again = typed_command(add=["--overwrite"], drop=["--resume"])
            raise UserError(f"--resume: every checkpoint in {self.path} is damaged; start over with: {again}")
        if found is None:
            print(f"--resume: {self.path} holds no complete checkpoint; starting from the beginning")
        return found

    def begin(self) -> None:
        """Delete what this run replaces: with --overwrite the earlier run, with --resume damaged newer checkpoints.

        Call it when everything is built and the next thing is the first step.
        """
        if rank():
            return
        for folder in checkpoints(self.path):
            damaged = self.latest is not None and step_of(folder) > step_of(self.latest)
            if self.overwrite and self.latest is None or damaged:
                remove_folder(folder)
        if self.latest is None:  # of an earlier run, even one that ended before its first checkpoint
            for name in (METRICS, ANSWERS, CURVE):
                (self.path / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Unlock the folder. One that stayed empty, because something was wrong with the run, is removed."""
        self.lock.release()
        if not rank():
            with suppress(OSError):  # it is not empty
                self.path.rmdir()


class Lock:
    """A file that is locked while it is open here. A crash unlocks it: the system does that, not this code.

    The lock is of one process and not of those it forks, so a loader's worker that outlives a killed run by a few
    seconds does not keep the run locked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: BinaryIO | None = None

    def take(self) -> None:
        """Lock the file, and write into it which process did.

        Raises:
            UserError: another process has it; names that process.
            OSError: the file cannot be made.
        """
        while self.file is None:
            file = open(self.path, "ab+")  # append: what another process wrote stays until the lock is ours
            try:
                _lock(file)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                    file.seek(0)
                    owner = file.read(200).decode("utf-8", "replace").strip() or "unknown"
                    file.close()
                    raise UserError(
                        f"{self.path.parent}: another process ({owner}) trains into this folder; wait for it, stop it, "
                        "or name another run with train.run=NAME"
                    ) from None
                # A network disk without locks. It has to do without.
            if _is_still(file, self.path):
                self.file = file
            else:  # its owner ended, and removed it, between the two steps
                file.close()
        self.file.truncate(0)
        self.file.write(f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
        self.file.flush()

    def release(self) -> None:
        """Remove the file, then unlock it: whoever opened it meanwhile sees that it is gone."""
        if self.file is None:
            return
        if os.name == "nt":  # where an open file cannot be removed
            self.file.close()
        with suppress(OSError):  # the folder is gone, or another process has the file open: unlocked it is harmless
            self.path.unlink(missing_ok=True)
        self.file.close()
        self.file = None


def _is_still(file: BinaryIO, path: Path) -> bool:
    """Whether ``path`` names this open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _lock(file: BinaryIO) -> None:
    """Lock without waiting.

    Raises:
        OSError: it is locked (EACCES, EAGAIN, EDEADLK), or the disk has no locks.
    """
    if sys.platform == "win32":
        import msvcrt

        file.seek(1 << 20)  # a byte that nobody reads: a locked one cannot be read
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
