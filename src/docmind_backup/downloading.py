"""Fetch one snapshot so that it survives a bad line: taken up again where it broke off, if it is the same file still.

What was handed on is never asked for again, and never trusted: the caller's size and sha256 cover every byte of it.
When it is retried, resumed or begun anew, and why: docs/adr/0014-downloads.md.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import partial
from itertools import islice
from pathlib import Path

import httpx

from docmind_backup.breaking import Breaker
from docmind_backup.core.qdrant_rest import Refusals
from docmind_backup.core.server import Downloaded
from docmind_backup.errors import BackupError, QdrantError, QdrantUnreachable
from docmind_backup.receiving import receive

RETRIED = frozenset({408, 429, 500, 502, 503, 504})
"""Answers that may be others in a moment; any other refusal is one."""
LONGEST_WAIT_S = 30.0
"""Between two attempts, where the server does not ask for more."""
LONGEST_ASKED_S = 300.0
"""A server that asks for more with Retry-After is not waited for."""
FRESH = 16 * 1024 * 1024
"""After so many bytes more than ever before the attempts are counted anew."""
MAX_WORDS = 2**16
"""As much of an error's body is read."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a download is put up with."""

    silence_s: float
    min_rate: float
    """Bytes a second, on average over `silence_s` of waiting; less is as good as silence."""
    retries: int
    """Failures in a row that are followed by another attempt."""
    wait_s: float
    """Before the first of these; twice as long before each of the next."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a snapshot is, and how it is asked for."""

    address: str
    client: httpx.Client
    """Its connections are known to the breaker, and nothing else is asked for on them."""
    connect_s: float
    patience: Patience
    refusals: Refusals
    silence: Callable[[Exception], BackupError]
    """The words for an answer that did not come, or broke off."""
    breaker: Breaker


def fetch(site: Site, target: Path, on_bytes: Callable[[int], None]) -> Downloaded:
    """The snapshot as the new file `target` (0400). `on_bytes` hears of less than nothing when it is begun anew.

    Raises QdrantError in the server's words, OSError of the destination, Stopped; then there is no file.
    """
    with _Fetching(site) as fetching:
        while True:
            fetching.open()
            try:
                return receive(fetching.fill, target, on_bytes)
            except _AnotherFile:
                on_bytes(-fetching.forget())


class _SetbackError(Exception):
    """An attempt ended before it was through. `error` is what is told when there is no other one."""

    def __init__(self, error: BackupError, *, asked_s: float = 0) -> None:
        super().__init__(str(error))
        self.error = error
        self.asked_s = asked_s
        """The server wants to be left alone for so long."""


class _AnotherFile(Exception):
    """Nothing proves that what comes is the rest of what was handed on."""


@dataclass(frozen=True, slots=True)
class _Whole:
    """The file that the first answer announced."""

    size: int | None
    """None where the server does not say (S3)."""
    etag: str = ""

    @property
    def provable(self) -> bool:
        """Whether a rest can be told from another file's; a weak ETag says nothing about bytes."""
        return self.size is not None and re.fullmatch('"[^"]+"', self.etag) is not None

    def is_continued_by(self, answer: httpx.Response, at: int) -> bool:
        """Whether this is its rest from `at` on. Qdrant ignores If-Range: only what it answers with can tell."""
        if answer.status_code != 206 or self.size is None:
            return False
        span = f"bytes {at}-{self.size - 1}/{self.size}"
        same = (answer.headers.get("etag"), answer.headers.get("content-range")) == (self.etag, span)
        return same and _announced_size(answer) in (None, self.size - at)


class _Fetching:
    """One file in as many answers as it takes. All calls come from one thread."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._whole = _Whole(None)
        self._got = 0
        """What was handed on."""
        self._body: _Body | _Plain | None = None
        self._pace = _Pace(site.patience)
        self._answered = ExitStack()
        self._tries = _Tries(site)

    def __enter__(self) -> _Fetching:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def open(self) -> _Body | _Plain:
        """Ask until the server answers with what is not here yet. Raises _AnotherFile."""
        while self._body is None:
            self._site.breaker.check()
            try:
                self._body = self._asked()
            except _SetbackError as setback:
                self._close()
                self._tries.after(setback, self._got)
        return self._body

    def fill(self, view: memoryview) -> int:
        """As receiving.Fill; also raises _AnotherFile."""
        while True:
            body = self.open()
            try:
                with self._heard():
                    count = self._pace.of(partial(body.fill, view))
            except _SetbackError as setback:
                self._close()
                self._tries.after(setback, self._got)
                continue
            self._got += count
            return count

    def forget(self) -> int:
        """Begin anew; how much was handed on in vain."""
        self._close()
        vain, self._got = self._got, 0
        return vain

    def _close(self) -> None:
        self._answered.close()
        self._body = None

    def _asked(self) -> _Body | _Plain:
        if self._got and not self._whole.provable:
            raise _AnotherFile
        answer = self._answer()
        _refuse_foreign(answer)
        if not self._got:
            self._whole = _Whole(_announced_size(answer), answer.headers.get("etag", ""))
        elif not self._whole.is_continued_by(answer, self._got):
            raise _AnotherFile
        return self._body_of(answer, None if self._whole.size is None else self._whole.size - self._got)

    def _answer(self) -> httpx.Response:
        """One that is about the file: its beginning, its rest, or that there is no such rest."""
        site = self._site
        stream = site.client.stream(
            "GET",
            site.address,
            headers={"Range": f"bytes={self._got}-"} if self._got else {},
            timeout=httpx.Timeout(site.patience.silence_s, connect=site.connect_s),
        )
        with self._heard(whole_s=site.patience.silence_s):
            answer = self._answered.enter_context(stream)
            if answer.status_code == 416 and self._got:
                raise _AnotherFile
            if answer.status_code not in ((200, 206) if self._got else (200,)):
                said = b"".join(islice(answer.iter_raw(MAX_WORDS), 1))
                refusal = site.refusals.of(answer.status_code, said)
                if answer.status_code not in RETRIED:
                    raise refusal
                raise _SetbackError(refusal, asked_s=_asked_s(answer))
        return answer

    def _body_of(self, answer: httpx.Response, size: int | None) -> _Body | _Plain:
        self._pace = _Pace(self._site.patience)
        body = _Body(_kept_to(size, answer.iter_raw()))
        line = answer.extensions.get("network_stream")
        if line is None or size is None or line.get_extra_info("ssl_object"):
            return body
        return _Plain(body, size, line.get_extra_info("socket"), self._site.patience.silence_s)

    @contextmanager
    def _heard(self, *, whole_s: float = 0) -> Iterator[None]:
        """What breaks is a setback; `whole_s`: and so is what is not through by then, though a little comes."""
        with ExitStack() as within:
            late = within.enter_context(self._site.breaker.within(whole_s)) if whole_s else None
            try:
                yield
            except httpx.HTTPError as error:
                self._site.breaker.check()
                told = httpx.ReadTimeout("timed out") if late and late.is_set() else error
                raise _SetbackError(self._site.silence(told)) from error


@dataclass(slots=True)
class _Tries:
    """Counts attempts and waits between them."""

    site: Site
    attempts: int = 1
    """All of them."""
    failures: int = 0
    """In a row."""
    _reached: int = field(default=0)

    def after(self, setback: _SetbackError, got: int) -> None:
        """Returns when it is time for another attempt; raises the setback's error when there is none."""
        patience = self.site.patience
        if got - self._reached >= FRESH:
            self._reached, self.failures = got, 0
        self.failures += 1
        if self.failures > patience.retries or setback.asked_s > LONGEST_ASKED_S:
            raise self._given_up(setback) from setback.__cause__
        self.attempts += 1
        wait_s = min(LONGEST_WAIT_S, patience.wait_s * 2.0 ** min(self.failures - 1, 30))
        self.site.breaker.wait(max(wait_s, setback.asked_s))

    def _given_up(self, setback: _SetbackError) -> BackupError:
        error = setback.error
        asked = f" (it asks for {setback.asked_s:,.0f} s of rest)" if setback.asked_s > LONGEST_ASKED_S else ""
        tried = f" (given up after {self.attempts} attempts)" if self.attempts > 1 else ""
        return type(error)(f"{error}{asked}{tried}", hint=error.hint)


class _Pace:
    """Tells silence that is broken by a byte now and then from a slow line."""

    def __init__(self, patience: Patience, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience = patience
        self._clock = clock
        self._waited_s = 0.0
        self._came = 0

    def of(self, fill: Callable[[], int]) -> int:
        """What `fill` says. Only the time spent in it counts: a disk that does not keep up is no slow line."""
        began = self._clock()
        count = fill()
        self._waited_s += self._clock() - began
        self._came += count
        floor, window_s = self._patience.min_rate, self._patience.silence_s
        if count and self._waited_s >= window_s:
            if self._came < floor * self._waited_s:
                raise _SetbackError(_too_slow(self._came, self._waited_s))
            self._waited_s, self._came = 0.0, 0
        return count


def _too_slow(came: int, waited_s: float) -> QdrantError:
    problem = f"Qdrant sends the snapshot too slowly: {came:,} bytes in {waited_s:,.1f} s"
    return QdrantUnreachable(problem, hint="the settings min_rate and stall_timeout say what is too slow")


# -- what an answer says -------------------------------------------------------------------------


def _refuse_foreign(answer: httpx.Response) -> None:
    """Refuses what cannot be the snapshot's own bytes."""
    encoding = answer.headers.get("content-encoding", "identity").strip().lower()
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if encoding != "identity":
        raise QdrantError(f"the snapshot came compressed ({encoding}), though asked for as it is")
    if kind != "application/octet-stream":
        raise QdrantError(f"what came instead of the snapshot is of type {kind or '(none)'}")


def _announced_size(answer: httpx.Response) -> int | None:
    """Of this answer's body; None where the server does not say."""
    length = answer.headers.get("content-length", "")
    framed = "transfer-encoding" in answer.headers  # then that says where the body ends (RFC 9112, 6.3)
    return int(length) if re.fullmatch("[0-9]{1,18}", length) and not framed else None


def _asked_s(answer: httpx.Response) -> float:
    """Retry-After in seconds, whether it is a number or a time (by the server's own clock); 0 when there is none."""
    after = answer.headers.get("retry-after", "").strip()
    if re.fullmatch("[0-9]{1,9}", after):
        return float(after)
    with suppress(ValueError, TypeError):
        now = parsedate_to_datetime(answer.headers.get("date", ""))
        return max(0.0, (parsedate_to_datetime(after) - now).total_seconds())
    return 0.0


# -- bytes ---------------------------------------------------------------------------------------


def _kept_to(promised: int | None, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Never more than was promised, and not less."""
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if promised is not None and size > promised:
            raise QdrantError(f"Qdrant sent more than the {promised:,} bytes it announced")
        yield chunk
    if promised is not None and size != promised:
        raise _SetbackError(QdrantError(f"Qdrant sent {size:,} of the {promised:,} bytes it announced"))


class _Body:
    """The body of an answer as httpx gives it."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def fill(self, view: memoryview) -> int:
        """As receiving.Fill."""
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        count = min(len(view), len(self._rest))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    @property
    def waiting(self) -> bool:
        """Something arrived that was not asked for yet."""
        return bool(self._rest)


class _Plain:
    """The same from the socket into the caller's memory: through httpx each byte is copied three times.

    Only where it is announced how much comes, in one piece and as it is. What httpx read with the head of the answer
    is its first chunk; the connection is not used again, because httpx knows nothing of the rest.
    """

    def __init__(self, begun: _Body, size: int, line: socket.socket, silence_s: float) -> None:
        self._begun = begun
        self._size = size
        self._got = 0
        self._line = line
        self._line.settimeout(silence_s)

    def fill(self, view: memoryview) -> int:
        """As receiving.Fill."""
        left = self._size - self._got
        if not self._got or self._begun.waiting:
            count = self._begun.fill(view)
        else:
            count = self._read(view[:left]) if left else 0
        self._got += count
        return count

    def _read(self, view: memoryview) -> int:
        try:
            count = self._line.recv_into(view)
        except TimeoutError as error:
            raise httpx.ReadTimeout("timed out") from error
        except OSError as error:
            raise httpx.ReadError(str(error)) from error
        if not count:
            raise httpx.RemoteProtocolError(
                "peer closed connection without sending complete message body "
                f"(received {self._got} bytes, expected {self._size})"
            )
        return count
