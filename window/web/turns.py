"""One model for everyone: jobs are done one at a time, in the order in which they came."""

from __future__ import annotations

import queue
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator

from common.errors import UserError

MOST_JOBS = 20  # each holds one of gradio's 40 threads while it waits; the rest are for uploads and for stopping


class Job:
    """One turn at the model. ``work`` is called with the job and looks at ``stopping``."""

    def __init__(self, work: Callable[[Job], None]) -> None:
        self.work = work
        self.stopped = False  # by a person; whoever streams an answer sets ``stopping`` at its end too
        self.stopping = threading.Event()
        self._news: queue.Queue[bool] = queue.Queue()  # True: something changed; False: the job has ended

    def stop(self) -> None:
        self.stopped = True
        self.stopping.set()

    def changed(self) -> None:
        """Something that is shown has changed."""
        self._news.put(True)

    def end(self) -> None:
        self._news.put(False)

    def changes(self) -> Iterator[None]:
        """Once for each change until the job has ended. Several that came while one was shown are one."""
        running = True
        while running:
            running = self._news.get()
            while running and not self._news.empty():
                running = self._news.get()
            yield


class Turns:
    """The thread that does the jobs. A job that nobody follows any more does not hold the others up."""

    def __init__(self, most: int = MOST_JOBS) -> None:
        self.most = most
        self._jobs: deque[Job] = deque()  # the first one is being done
        self._lock = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def join(self, job: Job) -> None:
        """Queue a job.

        Raises:
            UserError: too many are waiting.
        """
        with self._lock:
            if len(self._jobs) >= self.most:
                raise UserError("too many questions are waiting; ask again in a moment")
            self._jobs.append(job)
            self._lock.notify()

    def count(self) -> int:
        """How many jobs there are, the one that is being done included."""
        with self._lock:
            return len(self._jobs)

    def before(self, job: Job) -> int:
        """How many jobs come before this one; 0 while it is being done, and after it."""
        with self._lock:
            return self._jobs.index(job) if job in self._jobs else 0

    def stop(self, job: Job) -> None:
        """End a job. One that is being done ends within a token; one that waits is ended here, without the model."""
        job.stop()
        with self._lock:
            waiting = job in self._jobs and self._jobs[0] is not job
            if waiting:
                self._jobs.remove(job)
        if waiting:
            self._do(job)

    def close(self, timeout: float) -> bool:
        """Stop every job, end the thread, and return whether it ended within ``timeout`` seconds."""
        with self._lock:
            self._closed = True
            for job in self._jobs:
                job.stop()
            self._lock.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._jobs or self._closed)
                if not self._jobs:
                    return
                job = self._jobs[0]
            self._do(job)

    def _do(self, job: Job) -> None:
        try:
            job.work(job)
        except Exception:  # else nobody would be answered any more
            traceback.print_exc()
        with self._lock:
            if job in self._jobs:
                self._jobs.remove(job)
            others = list(self._jobs)
        job.end()
        for other in others:
            other.changed()  # it has moved up
