"""What a test can make go wrong on the stand-in. All off by default; no I/O here.

Gates are `threading.Event`s that the test sets: nothing here sleeps. Leaving `with StandIn()` opens them all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Event, Lock


@dataclass(frozen=True, slots=True)
class Drop:
    """`at` bytes of the body, then the connection is gone; the content-length is honest."""

    at: int
    reset: bool = False
    """RST instead of FIN."""


@dataclass(frozen=True, slots=True)
class Stall:
    """`at` bytes of the body, then nothing until `gate` is set, then the rest."""

    at: int
    gate: Event


@dataclass(frozen=True, slots=True)
class Drip:
    """`at` bytes of the body, then a byte every `every_s` seconds until `gate` is set, then the rest."""

    at: int
    gate: Event
    every_s: float = 0.02


@dataclass(frozen=True, slots=True)
class WrongLength:
    """The whole body under a content-length that is `by` too large (negative: too small), then the end."""

    by: int


@dataclass(frozen=True, slots=True)
class ChunkedCut:
    """No content-length: chunked, `at` bytes. `clean` ends with the closing chunk, as if that were all."""

    at: int
    clean: bool = False


@dataclass(frozen=True, slots=True)
class CloseDelimited:
    """Neither length nor chunks: `at` bytes, then the connection ends."""

    at: int


@dataclass(frozen=True, slots=True)
class Flip:
    """The lowest bit of byte `at` is another one; length and headers are right."""

    at: int


@dataclass(frozen=True, slots=True)
class ForcedGzip:
    """Compressed though nobody offered gzip."""


@dataclass(frozen=True, slots=True)
class HtmlPage:
    """200 with a page of a login portal."""

    body: bytes = b"<!doctype html><html><body>Please log in</body></html>"


DownloadFault = Drop | Stall | Drip | WrongLength | ChunkedCut | CloseDelimited | Flip | ForcedGzip | HtmlPage


@dataclass(frozen=True, slots=True)
class Canned:
    """Answered instead of the real thing. `content-length` is added unless `headers` has one."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class HangUp:
    """The connection ends without an answer."""

    served: bool = False
    """What was asked is done all the same; only the answer is lost."""


@dataclass(frozen=True, slots=True)
class After:
    """Called when the request was served, before its answer goes out."""

    act: Callable[[], object]


Act = Canned | HangUp | After | Callable[[], object]


@dataclass(slots=True)
class Rule:
    """What happens to the next `times` requests (None: all) of this method whose path has `pattern`."""

    method: str
    pattern: str
    act: Act
    times: int | None
    skip: int
    """Matching requests that still pass untouched."""

    def take(self, method: str, path: str) -> bool:
        if self.method not in ("*", method) or self.times == 0 or not re.search(self.pattern, path):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass(slots=True)
class Faults:
    """Knobs of one stand-in. Set the fields; add rules with the methods."""

    create_gate: Event | None = None
    """Snapshot creation begins only when set. The snapshot is made even if the client has gone by then."""
    answer_gate: Event | None = None
    """The snapshot is made and listed at once; the answer to its creation waits."""
    unpack_gate: Event | None = None
    """The next upload lies there as a file at once, and becomes a collection only when set, client or no client."""
    replace_after_create: int = 0
    """So many creates are followed, before their answer, by another client's snapshot of the same second:
    same name, another checksum, ours is gone."""
    checksum: str | None = None
    """Descriptions name this sha256 instead of the true one."""
    no_checksum: bool = False
    """Descriptions have no checksum key (S3, before 1.8)."""
    date_lag_s: int = 0
    """The `date` of each answer lies so far behind the clock that names snapshots. Recorded: up to one second
    (two-nodes.json, "snapshot on 1": 01-56-18 in the name, 01:56:17 as the date)."""
    delete_fails: int = 0
    """So many snapshot deletions answer 500 and leave the file."""
    downloads: list[DownloadFault | None] = field(default_factory=list)
    """One for each snapshot download to come, in order, used up by it; None: that one is well."""
    every_download: DownloadFault | None = None
    """For the downloads after those."""
    rules: list[Rule] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock, repr=False)
    _held: list[Event] = field(default_factory=list, repr=False)
    _closed: bool = False

    def answer(
        self,
        method: str,
        pattern: str,
        status: int,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        times: int | None = 1,
        skip: int = 0,
    ) -> None:
        """Answer this instead. `pattern` is searched in the raw path (no query); method "*" is any."""
        self.rules.append(Rule(method, pattern, Canned(status, dict(headers or {}), body), times, skip))

    def refuse(
        self,
        method: str,
        pattern: str,
        status: int,
        text: str,
        headers: Mapping[str, str] | None = None,
        *,
        times: int | None = 1,
    ) -> None:
        """An error in the server's JSON envelope (`retry-after` and such go into `headers`)."""
        body = json.dumps({"status": {"error": text}, "time": 0.0}).encode()
        headers = {"content-type": "application/json", **(headers or {})}
        self.answer(method, pattern, status, headers, body, times=times)

    def redirect(self, method: str, pattern: str, location: str, *, times: int | None = 1) -> None:
        self.answer(method, pattern, 307, {"location": location}, times=times)

    def hang_up(self, method: str, pattern: str, *, times: int | None = 1, skip: int = 0, served: bool = False) -> None:
        self.rules.append(Rule(method, pattern, HangUp(served), times, skip))

    def after(
        self, method: str, pattern: str, act: Callable[[], object], *, times: int | None = 1, skip: int = 0
    ) -> None:
        """Call `act` when such a request has been served, before its answer goes out."""
        self.rules.append(Rule(method, pattern, After(act), times, skip))

    def before(
        self,
        method: str,
        pattern: str,
        act: Callable[[], object],
        *,
        times: int | None = 1,
        skip: int = 0,
    ) -> None:
        """Call `act` when such a request has come in, before it is served (to delete the collection, say)."""
        self.rules.append(Rule(method, pattern, act, times, skip))

    def rules_for(self, method: str, path: str) -> list[Act]:
        """What applies to this request; counts it."""
        with self._lock:
            return [rule.act for rule in self.rules if rule.take(method, path)]

    def next_download(self) -> DownloadFault | None:
        with self._lock:
            return self.downloads.pop(0) if self.downloads else self.every_download

    def spend(self, knob: str) -> bool:
        """Whether a counting knob (`delete_fails`, `replace_after_create`) has one left; takes it."""
        with self._lock:
            left = getattr(self, knob)
            if left:
                setattr(self, knob, left - 1)
            return bool(left)

    def hold(self, gate: Event | None) -> None:
        """Wait until the gate is open, or the stand-in closes."""
        if gate is None:
            return
        with self._lock:
            self._held.append(gate)
            if self._closed:
                gate.set()
        gate.wait()

    def hold_on(self, gate: Event, seconds: float) -> bool:
        """Wait so long at most; whether the gate is open, or the stand-in closes."""
        with self._lock:
            self._held.append(gate)
            if self._closed:
                gate.set()
        return gate.wait(seconds)

    def open_all(self) -> None:
        """The stand-in is closing: nobody waits any more."""
        with self._lock:
            self._closed = True
            for gate in self._held:
                gate.set()
