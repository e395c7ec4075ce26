"""Talk to one Qdrant server: its collections as facts, their snapshots as files. No redirect, no proxy.

qdrant-client makes, lists and deletes snapshots; httpx brings their bytes (downloading.py, the only thing that is
retried) and answers a plan's questions, which must not wait
for qdrant-client's import nor lose what its models do not know. Foreign errors are translated here, once.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx

from docmind_backup.breaking import Breaker
from docmind_backup.connections import UNKNOWN_AUTHORITY, Connections, Timeouts, tls_error
from docmind_backup.core import qdrant_rest as rest
from docmind_backup.core.model import CollectionState, Placement
from docmind_backup.core.server import Downloaded, Point, ServerSnapshot
from docmind_backup.downloading import Patience, Site, fetch
from docmind_backup.errors import QdrantAbsent, QdrantError, QdrantUnclear, QdrantUnreachable
from docmind_backup.qdrant_restore import Restoring

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.models import SnapshotDescription

T = TypeVar("T")

ONE_BYTE = {"Range": "bytes=0-0"}
MAX_PAGE = 2**25
"""Bytes of a page of points: of a thousand, with short payloads."""


def connect(
    url: str,
    *,
    api_key: str = "",
    connect_timeout_s: float = 10,
    request_timeout_s: float = 60,
    create_timeout_s: float = 3600,
    stall_timeout_s: float = 60,
    min_rate: float = 1024,
    download_retries: int = 5,
    retry_wait_s: float = 1,
    stop_timeout_s: float = 5,
) -> QdrantServer:
    """A server that is first asked when one of its methods is called; close it, or use it in a `with`.

    `stall_timeout_s` is the longest silence while a snapshot is downloaded; less than `min_rate` bytes a second on
    average over as long is silence too. `stop_timeout_s` is there for each answer once the run is ending by a signal.
    Raises UsageError for an address or a key that cannot be used.
    """
    timeouts = Timeouts(connect_timeout_s, request_timeout_s, create_timeout_s, stop_timeout_s)
    patience = Patience(stall_timeout_s, min_rate, download_retries, retry_wait_s)
    return QdrantServer(rest.base_url(url), rest.usable_key(api_key), timeouts, patience)


def resolve(host: str) -> tuple[str, ...]:
    """All addresses of a name, for core/endpoint.py. Raises OSError when it has none."""
    return tuple({str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})


class QdrantServer(Restoring):
    """core/server.py's CollectionServer and RestoreTarget over REST; but for `stop`, for one thread at a time."""

    def __init__(self, url: str, key: str, timeouts: Timeouts, patience: Patience) -> None:
        self._url = url
        self._key = key
        self._timeouts = timeouts
        self._patience = patience
        self._refusals = rest.Refusals(url, key)
        self._lines = Connections(url, key, timeouts)
        self._others: tuple[QdrantServer, ...] = ()

    def __repr__(self) -> str:
        return f"QdrantServer({self._url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for server in (*self._others, self):
            server._lines.close()

    def another(self) -> QdrantServer:
        other = QdrantServer(self._url, self._key, self._timeouts, self._patience)
        self._others = (*self._others, other)
        return other

    def stop(self, *, at_once: bool) -> None:
        for server in (self, *self._others):
            server._lines.stop(at_once=at_once)

    # -- the server ------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return self._url

    def version(self) -> str:
        return self._version

    @cached_property
    def _version(self) -> str:
        said = self._json(self._greeting())
        version = said.get("version") if isinstance(said, dict) else None
        if not isinstance(version, str):
            raise self._refusals.unknown_answer()
        return version

    def now(self) -> datetime:
        date = self._greeting().headers.get("date", "")
        try:
            return parsedate_to_datetime(date).astimezone(UTC)
        except ValueError as error:
            raise QdrantError(f"Qdrant at {self._url} does not say what time it is") from error

    def peers(self) -> int:
        cluster = self._result("/cluster")
        peers = cluster.get("peers") if isinstance(cluster, dict) else None
        return max(1, len(peers)) if isinstance(peers, dict) else 1

    def names(self) -> tuple[str, ...]:
        return self._read("/collections", rest.names)

    def aliases(self) -> dict[str, str]:
        return self._read("/aliases", rest.aliases)

    # -- a collection ----------------------------------------------------------------------------

    def describe(self, name: str) -> CollectionState:
        try:
            found = self._result(rest.collection_path(name))
            return rest.state(name, found, points=self.count(name), aliases=self._aliases(name))
        except rest.NotFoundError:
            return CollectionState(name, role="", exists=False)

    def count(self, name: str) -> int:
        return self._read(f"{rest.collection_path(name)}/points/count", rest.count, body=rest.EXACTLY)

    def placement(self, name: str) -> Placement:
        return self._read(f"{rest.collection_path(name)}/cluster", rest.placement)

    def scroll(self, name: str, keys: Sequence[str] | None) -> Iterator[tuple[Point, ...]]:
        offset = None
        while True:
            page = self._page(name, rest.page_body(keys, offset), offset)
            yield page.points
            if page.next is None:
                return
            offset = page.next

    def sample(self, name: str, number: int) -> tuple[Point, ...]:
        return self._page(name, rest.sample_body(number), None).points

    def _page(self, name: str, body: Mapping[str, Any], offset: int | str | None) -> rest.Page:
        """Read up to a limit: what a server sends is not to decide about our memory."""
        path = f"{rest.collection_path(name)}/points/scroll"
        with self._heard(), self._stream("POST", self._url + path, json=body) as answer:
            said = _no_more_than(MAX_PAGE, answer.iter_bytes())
        if answer.status_code != 200:
            raise self._refusals.of(answer.status_code, said)
        try:
            return rest.page(json.loads(said)["result"], offset)
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise self._refusals.unknown_answer() from self._refusals.cause(error, said)

    def _aliases(self, name: str) -> tuple[str, ...]:
        return tuple(sorted(self._read(f"{rest.collection_path(name)}/aliases", rest.aliases)))

    # -- its snapshots ---------------------------------------------------------------------------

    def snapshots(self, name: str) -> tuple[ServerSnapshot, ...]:
        collection = rest.collection_name(name)
        try:
            listed = self._ask(lambda client: client.list_snapshots(collection))
        except rest.NotFoundError:
            return ()
        return tuple(map(_described, listed))

    def create_snapshot(self, name: str) -> ServerSnapshot:
        collection = rest.collection_name(name)
        made = self._ask(
            lambda client: client.create_snapshot(collection, wait=True),
            timeout_s=self._timeouts.create,
            changes="creating a snapshot",
            breaker=self._lines.creating,
        )
        if made is None:
            raise QdrantUnclear(f"Qdrant accepted to make a snapshot of {name} but did not name it")
        return _described(made)

    def identity(self, name: str, snapshot: str) -> str:
        """The ETag: inode, size and time to the nanosecond (HEAD is not known to Qdrant; a byte is asked for)."""
        address = self._url + rest.snapshot_path(name, snapshot)
        with self._heard(), self._stream("GET", address, headers=ONE_BYTE) as answer:
            return answer.headers.get("etag", "") if answer.status_code == 206 else ""

    def delete_snapshot(self, name: str, snapshot: str) -> None:
        file, collection = rest.file_name(snapshot), rest.collection_name(name)
        try:
            self._ask(
                lambda client: client.delete_snapshot(collection, file, wait=True),
                changes="deleting a snapshot",
            )
        except rest.NotFoundError:
            return

    def download(self, name: str, snapshot: str, target: Path, on_bytes: Callable[[int], None]) -> Downloaded:
        site = Site(
            address=self._url + rest.snapshot_path(name, snapshot),
            client=self._lines.bringing,
            connect_s=self._timeouts.connect,
            patience=self._patience,
            refusals=self._refusals,
            silence=lambda error: self._silence(error, self._patience.silence_s),
            breaker=self._lines.downloading,
        )
        return fetch(site, target, on_bytes)

    # -- changing it (qdrant_restore.py) ---------------------------------------------------------

    def change(self, method: str, path: str, *, slow: bool = False, **content: Any) -> httpx.Response:
        timeout = self._lines.timeout
        if slow:
            timeout = httpx.Timeout(self._timeouts.create, connect=timeout.connect, write=self._patience.silence_s)
        with self._heard(self._timeouts.create if slow else 0):
            return self._lines.asking.request(method, self._url + path, timeout=timeout, **content)

    def refusals(self) -> rest.Refusals:
        return self._refusals

    # -- asking ----------------------------------------------------------------------------------

    def _ask(
        self,
        call: Callable[[QdrantClient], T],
        *,
        timeout_s: float | None = None,
        changes: str = "",
        breaker: Breaker | None = None,
    ) -> T:
        self.version()  # the server has answered once: importing its client takes a second, beside the copying
        waited_s = timeout_s or self._lines.short(self._timeouts.request)
        client = self._lines.qdrant(waited_s, breaker)
        from qdrant_client.common.client_exceptions import QdrantException
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

        if breaker:
            breaker.check()
        late = Event()
        try:
            with self._lines.question(patient=breaker is not None) as late:
                return call(client)
        except UnexpectedResponse as error:
            refusal = self._refusals.of(error.status_code or 0, error.content, changes=changes)
            raise refusal from self._refusals.cause(error, error.content)
        except ResponseHandlingException as error:
            silence = self._silence(_late_or(error.source, late), waited_s)
            (breaker or self._lines).check()
            raise silence from self._refusals.cause(error, str(error).encode())
        except QdrantException as error:  # 429 with a Retry-After
            said = str(error).encode()
            raise self._refusals.of(429, said) from self._refusals.cause(error, said)
        except (AssertionError, AttributeError, TypeError, ValueError) as error:  # no JSON, or no result in it
            raise self._refusals.unknown_answer() from self._refusals.cause(error, str(error).encode())

    def _greeting(self) -> httpx.Response:
        """`GET /`, which Qdrant answers without a key too."""
        return self._get("/")

    def _read(self, path: str, meaning: Callable[[Any], T], *, body: object = None) -> T:
        """What the result of `path` means; posts `body` where there is one."""
        found = self._result(path, body)
        try:
            return meaning(found)
        except (LookupError, TypeError, ValueError) as error:
            raise self._refusals.unknown_answer() from self._refusals.cause(error, str(error).encode())

    def _result(self, path: str, body: object = None) -> Any:
        envelope = self._json(self._get(path, body))
        if not isinstance(envelope, dict) or "result" not in envelope:
            raise self._refusals.unknown_answer()
        return envelope["result"]

    def _get(self, path: str, body: object = None) -> httpx.Response:
        method, timeout = "GET" if body is None else "POST", self._lines.timeout
        with self._heard():
            answer = self._lines.asking.request(method, self._url + path, json=body, timeout=timeout)
        if answer.status_code != 200:
            raise self._refusals.of(answer.status_code, answer.content)
        return answer

    def _json(self, answer: httpx.Response) -> Any:
        try:
            return answer.json()
        except (ValueError, RecursionError) as error:
            raise self._refusals.unknown_answer() from self._refusals.cause(error, answer.content)

    def _stream(self, method: str, address: str, **content: Any) -> AbstractContextManager[httpx.Response]:
        return self._lines.asking.stream(method, address, timeout=self._lines.timeout, **content)

    @contextmanager
    def _heard(self, patient_s: float = 0) -> Iterator[None]:
        """A question; `patient_s`: one that may take so long, whatever happens meanwhile."""
        waited_s = patient_s or self._lines.short(self._timeouts.request)
        with self._lines.question(patient=patient_s > 0) as late:
            try:
                yield
            except httpx.HTTPError as error:
                self._lines.check()
                raise self._silence(_late_or(error, late), waited_s) from error

    def _silence(self, error: Exception, waited_s: float) -> QdrantError:
        """No answer, or none that could be read."""
        match error:
            case httpx.ConnectTimeout():
                problem = f"nothing answers at {self._url} within {self._timeouts.connect:g} s"
                return QdrantAbsent(problem, hint=rest.UNREACHABLE_HINT)
            case httpx.ConnectError():
                return self._not_connected(error)
            case httpx.TimeoutException():
                problem = f"Qdrant at {self._url} fell silent: nothing came for {waited_s:g} s"
            case httpx.TransportError():
                problem = f"the connection to Qdrant at {self._url} broke: {_reason(error)}"
            case _:
                return self._refusals.unknown_answer()
        return QdrantUnreachable(problem, hint=rest.UNREACHABLE_HINT)

    def _not_connected(self, error: httpx.ConnectError) -> QdrantAbsent:
        match tls_error(error):
            case ssl.SSLCertVerificationError() as refused:
                problem = f"the certificate of {self._url} is refused: {refused.verify_message.rstrip('.')}"
                unknown = refused.verify_code in UNKNOWN_AUTHORITY
                return QdrantAbsent(problem, hint=rest.DISTRUST_HINT if unknown else rest.INVALID_HINT)
            case ssl.SSLError() as refused:
                problem = f"what answers at {self._url} does not speak TLS as it should: {refused.reason or refused}"
                return QdrantAbsent(problem, hint=rest.NO_TLS_HINT)
            case _:
                problem = f"nothing answers at {self._url}: {_reason(error)}"
                return QdrantAbsent(problem, hint=rest.UNREACHABLE_HINT)


def _late_or(error: Exception, late: Event) -> Exception:
    """What is told when a connection was ended because its time was over."""
    return httpx.ReadTimeout("timed out") if late.is_set() and isinstance(error, httpx.HTTPError) else error


def _reason(error: Exception) -> str:
    """`[Errno 111] Connection refused` without the number, as part of a sentence."""
    text = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
    return text[0].lower() + text[1:]


def _described(snapshot: SnapshotDescription) -> ServerSnapshot:
    return ServerSnapshot(
        rest.file_name(snapshot.name),
        snapshot.size,
        checksum=(snapshot.checksum or "").lower(),
        created=snapshot.creation_time or "",
    )


def _no_more_than(limit: int, chunks: Iterable[bytes]) -> bytes:
    """All of a small answer. Raises QdrantError when it is none."""
    said = bytearray()
    for chunk in chunks:
        said += chunk
        if len(said) > limit:
            raise QdrantError(f"Qdrant sent more than {limit:,} bytes where a page of points was asked for")
    return bytes(said)
