"""Read in a few threads while a walk goes on; what comes of each job is taken up in the order of the walk."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from docmind_backup.copying import BUFFER, Copier
from docmind_backup.core.model import Event, OnEvent
from docmind_backup.errors import Stopped

MOST = 4
"""Threads at most, and one more than there are cores: while one waits for the disk, the others hash."""
LIGHT = 16 * 1024
"""Bytes of a file up to which reading it is light."""
BATCH = 32
"""Files after which what waits is handed over: handing over costs as much as linking one."""
AHEAD = 32
"""Batches that the walk may be ahead of what was taken up."""

Result = Callable[[], Any]
"""Gives what the job gave, or raises what it raised."""
Job = Callable[[Copier], Any]


class Teller:
    """Tells of events one at a time, from whatever thread; once something failed, whoever tells is stopped."""

    def __init__(self, on_event: OnEvent, on_failure: Callable[[BaseException], None] = lambda _: None) -> None:
        self._on_event = on_event
        self._on_failure = on_failure
        """Ends what waits for something else than an event; called once, with what ends the run."""
        self._one = threading.Lock()
        self.failure: BaseException | None = None
        """What ends the run: the first that was raised."""

    def __call__(self, event: Event) -> None:
        with self._one:
            if self.failure:
                raise Stopped
            try:
                self._on_event(event)
            except BaseException as error:
                self.failed(error)
                raise

    def failed(self, error: BaseException) -> None:
        if self.failure is None and not isinstance(error, Stopped):
            self.failure = error
            self._on_failure(error)


@contextmanager
def beside(work: Callable[[], None], teller: Teller, name: str = "files") -> Iterator[None]:
    """`work` goes on in a thread of its own until the block is done too; what fails in one ends the other."""

    def run() -> None:
        try:
            work()
        except BaseException as error:
            teller.failed(error)

    thread = threading.Thread(target=run, name=name)
    try:
        thread.start()
        yield
        thread.join()
    except BaseException as error:
        teller.failed(error)
        if thread.ident is not None:
            thread.join()
        raise
    if teller.failure:
        raise teller.failure


@dataclass(slots=True)
class _Turn:
    """One job, or something to be done when it is its turn."""

    job: Job | None
    take: Callable[[Result], None]
    value: Any = None
    error: BaseException | None = None

    def do(self, copier: Copier) -> None:
        try:
            self.value = self.job(copier) if self.job else None
        except BaseException as error:
            self.error = error

    def result(self) -> Any:
        if self.error:
            raise self.error
        return self.value


@dataclass(slots=True)
class _Batch:
    on_bytes: Callable[[int], None]
    turns: list[_Turn] = field(default_factory=list[_Turn])
    jobs: int = 0
    files: int = 0
    bytes: int = 0
    working: threading.Lock = field(default_factory=threading.Lock)
    """Held until all is done."""
    sent: bool = False


class Crew:
    """The threads of one run; started when the first job comes."""

    def __init__(self, size: int = 0) -> None:
        self._size = size or min(MOST, 1 + (os.cpu_count() or 1))
        self._queue: SimpleQueue[_Batch | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._local = threading.local()
        self.stopped = False

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for _thread in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def window(self, on_bytes: Callable[[int], None]) -> Window:
        """For one source."""
        return Window(self, on_bytes)

    def send(self, batch: _Batch) -> None:
        """To the threads; where there can be none, it is done at once."""
        if not self._threads:
            self._start()
        if self._threads:
            self._queue.put(batch)
        else:
            self._do(batch)

    def _start(self) -> None:
        """As many as can be had."""
        for _ in range(self._size):
            thread = threading.Thread(target=self._work, name="crew", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return
            self._threads.append(thread)

    def _work(self) -> None:
        while (batch := self._queue.get()) is not None:
            self._do(batch)

    def _do(self, batch: _Batch) -> None:
        """Whatever happens, who waits for it hears of it."""
        try:
            copier = self._copier(batch)
            for turn in batch.turns:
                if self.stopped:
                    turn.error = Stopped()
                else:
                    turn.do(copier)
        except BaseException as error:
            for turn in batch.turns:
                turn.error = error
        finally:
            batch.working.release()

    def _copier(self, batch: _Batch) -> Copier:
        """One for each thread."""
        copier: Copier | None = getattr(self._local, "copier", None)
        if copier is None:
            copier = self._local.copier = Copier(batch.on_bytes)
        copier.on_bytes = self._unless_stopped(batch.on_bytes)
        return copier

    def _unless_stopped(self, on_bytes: Callable[[int], None]) -> Callable[[int], None]:
        def tell(count: int) -> None:
            if self.stopped:
                raise Stopped
            on_bytes(count)

        return tell


class Window:
    """The jobs of one walk that are under way, oldest first. All calls come from the walk's own thread."""

    def __init__(self, crew: Crew, on_bytes: Callable[[int], None]) -> None:
        self._crew = crew
        self._on_bytes = on_bytes
        self._copier = Copier(on_bytes)
        self._batch = _Batch(on_bytes)
        self._under_way: deque[_Batch] = deque()

    def give(self, job: Job, take: Callable[[Result], None], size: int, files: int = 1, *, light: bool = False) -> None:
        """Have `job` done in another thread; `take` is called here with its result when it is its turn.

        A `light` one is done here and now: handed over, both threads would only wait for each other.
        """
        if light:
            value = job(self._copier)
            self.later(lambda: take(lambda: value), files)
            return
        self._batch.jobs += 1
        self._add(_Turn(job, take), size, files)

    def later(self, take: Callable[[], None], files: int = 0) -> None:
        """Do something after what was given so far was taken; it holds on to so many `files`."""
        if self._batch.turns or self._under_way:
            self._add(_Turn(None, lambda _: take()), 0, files)
        else:
            take()

    def _add(self, turn: _Turn, size: int, files: int) -> None:
        self._batch.turns.append(turn)
        self._batch.files += files
        self._batch.bytes += size
        if self._batch.files >= BATCH or self._batch.bytes >= BUFFER:
            self._send()
            while len(self._under_way) > AHEAD or (self._under_way and not self._under_way[0].working.locked()):
                self._take_oldest()

    def take_some(self) -> bool:
        """Wait for the oldest jobs; False when there are none."""
        if self._batch.turns:
            self._send()
        if not self._under_way:
            return False
        self._take_oldest()
        return True

    def finish(self) -> None:
        """Wait for everything that was given."""
        while self.take_some():
            pass

    def abandon_unless_done(self) -> None:
        """After an error take nothing any more; when this returns, nobody works on a job of this walk."""
        if not self._under_way and not self._batch.turns:
            return
        self._crew.stopped = True
        for batch in self._under_way:
            if batch.sent:
                with batch.working:
                    pass
        self._under_way.clear()

    def _send(self) -> None:
        batch, self._batch = self._batch, _Batch(self._on_bytes)
        if batch.jobs:
            batch.working.acquire()
        self._under_way.append(batch)
        if batch.jobs:
            self._crew.send(batch)
            batch.sent = True

    def _take_oldest(self) -> None:
        batch = self._under_way[0]
        with batch.working:
            pass
        for turn in batch.turns:
            turn.take(turn.result)
        self._under_way.popleft()
