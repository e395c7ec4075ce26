"""Talk to one Qdrant server: its collections as facts, their snapshots as files. No redirect, proxy or retry.

qdrant-client makes, lists and deletes snapshots; httpx brings their bytes and answers a plan's questions, which
must not wait for qdrant-client's import nor lose what its models do not know. Foreign errors are translated here, once.
"""

from __future__ import annotations

import json
import math
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpcore
import httpx

from docmind_backup import __version__
from docmind_backup.core import qdrant_rest as rest
from docmind_backup.core.model import CollectionState, Placement
from docmind_backup.core.server import Downloaded, Point, ServerSnapshot
from docmind_backup.errors import BackupError, QdrantAbsent, QdrantError, QdrantUnclear, QdrantUnreachable
from docmind_backup.qdrant_restore import Restoring
from docmind_backup.receiving import receive

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.models import SnapshotDescription

T = TypeVar("T")

READ_BYTES = 2**18
ONE_BYTE = {"Range": "bytes=0-0"}
MAX_WORDS = 2**16
"""As much of an error's body is read."""
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
) -> QdrantServer:
    """A server that is first asked when one of its methods is called; close it, or use it in a `with`.

    `stall_timeout_s` is the longest silence while a snapshot is downloaded. Raises UsageError for an
    address or a key that cannot be used.
    """
    timeouts = _Timeouts(connect_timeout_s, request_timeout_s, create_timeout_s, stall_timeout_s)
    return QdrantServer(rest.base_url(url), rest.usable_key(api_key), timeouts)


def resolve(host: str) -> tuple[str, ...]:
    """All addresses of a name, for core/endpoint.py. Raises OSError when it has none."""
    return tuple({str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})


@dataclass(frozen=True, slots=True)
class _Timeouts:
    """Seconds."""

    connect: float
    request: float
    create: float
    stall: float


class QdrantServer(Restoring):
    """core/server.py's CollectionServer and RestoreTarget over REST; for one thread at a time."""

    def __init__(self, url: str, key: str, timeouts: _Timeouts) -> None:
        self._url = url
        self._key = key
        self._timeouts = timeouts
        self._refusals = rest.Refusals(url, key)
        self._clients: dict[float, QdrantClient] = {}
        self._opened = ExitStack()

    def __repr__(self) -> str:
        return f"QdrantServer({self._url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._opened.close()

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

    def scroll(self, name: str, keys: Sequence[str]) -> Iterator[tuple[Point, ...]]:
        path, offset = f"{rest.collection_path(name)}/points/scroll", None
        while True:
            page = self._page(path, keys, offset)
            yield page.points
            if page.next is None:
                return
            offset = page.next

    def _page(self, path: str, keys: Sequence[str], offset: int | str | None) -> rest.Page:
        """Read up to a limit: what a server sends is not to decide about our memory."""
        body = rest.page_body(keys, offset)
        with self._heard(self._timeouts.request), self._http.stream("POST", self._url + path, json=body) as answer:
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
        )
        if made is None:
            raise QdrantUnclear(f"Qdrant accepted to make a snapshot of {name} but did not name it")
        return _described(made)

    def identity(self, name: str, snapshot: str) -> str:
        """The ETag: inode, size and time to the nanosecond (HEAD is not known to Qdrant; a byte is asked for)."""
        address = self._url + rest.snapshot_path(name, snapshot)
        with self._heard(self._timeouts.request), self._http.stream("GET", address, headers=ONE_BYTE) as answer:
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
        address = self._url + rest.snapshot_path(name, snapshot)
        timeout = httpx.Timeout(self._timeouts.stall, connect=self._timeouts.connect)
        with (
            self._heard(self._timeouts.stall),
            self._http.stream("GET", address, timeout=timeout) as answer,
        ):
            if answer.status_code != 200:
                raise self._refusals.of(answer.status_code, b"".join(islice(answer.iter_raw(MAX_WORDS), 1)))
            promised = _promised_size(answer)
            body = _Body(_kept_to(promised, answer.iter_raw()))
            line = answer.extensions.get("network_stream")
            if line is None or promised is None or self._speaks_tls:
                return receive(body.fill, target, on_bytes)
            plain = _Plain(body, promised, line.get_extra_info("socket"), self._timeouts.stall)
            return receive(plain.fill, target, on_bytes)

    # -- changing it (qdrant_restore.py) ---------------------------------------------------------

    def change(self, method: str, path: str, *, slow: bool = False, **content: Any) -> httpx.Response:
        waited_s = self._timeouts.create if slow else self._timeouts.request
        timeout = httpx.Timeout(waited_s, connect=self._timeouts.connect, write=self._timeouts.stall)
        with self._heard(waited_s):
            return self._http.request(method, self._url + path, timeout=timeout, **content)

    def refusals(self) -> rest.Refusals:
        return self._refusals

    # -- asking ----------------------------------------------------------------------------------

    @cached_property
    def _http(self) -> httpx.Client:
        # httpcore would read 64 KiB at a time, which costs a download over loopback some processor time
        httpcore.HTTP11Connection.READ_NUM_BYTES = READ_BYTES  # pyright: ignore[reportAttributeAccessIssue]
        own = {"Accept-Encoding": "identity", "User-Agent": f"docmind-backup/{__version__}"}
        client = httpx.Client(
            headers={**self._headers, **own},
            timeout=httpx.Timeout(self._timeouts.request, connect=self._timeouts.connect),
            verify=self._speaks_tls,
            trust_env=False,
            follow_redirects=False,
        )
        return self._opened.enter_context(client)

    def _client(self, timeout_s: float) -> QdrantClient:
        """Made when first needed and the server has answered once: importing it takes a second, beside the copying."""
        if timeout_s not in self._clients:
            self.version()
            from qdrant_client import QdrantClient

            client = QdrantClient(
                url=self._url,
                headers=self._headers,
                timeout=math.ceil(timeout_s),
                prefer_grpc=False,
                check_compatibility=False,
                verify=self._speaks_tls,
                trust_env=False,
                follow_redirects=False,
            )
            self._opened.callback(client.close)
            self._clients[timeout_s] = client
        return self._clients[timeout_s]

    @property
    def _speaks_tls(self) -> bool:
        """Where it does not, loading the certificates (30 ms a client) is saved."""
        return self._url.startswith("https:")

    @property
    def _headers(self) -> dict[str, str]:
        """As `api_key=` qdrant-client would warn about http, on loopback too."""
        return {"api-key": self._key} if self._key else {}

    def _ask(self, call: Callable[[QdrantClient], T], *, timeout_s: float | None = None, changes: str = "") -> T:
        waited_s = timeout_s or self._timeouts.request
        client = self._client(waited_s)
        from qdrant_client.common.client_exceptions import QdrantException
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

        try:
            return call(client)
        except UnexpectedResponse as error:
            refusal = self._refusals.of(error.status_code or 0, error.content, changes=changes)
            raise refusal from self._refusals.cause(error, error.content)
        except ResponseHandlingException as error:
            silence = self._silence(error.source, waited_s)
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
        with self._heard(self._timeouts.request):
            answer = self._http.request("GET" if body is None else "POST", self._url + path, json=body)
        if answer.status_code != 200:
            raise self._refusals.of(answer.status_code, answer.content)
        return answer

    def _json(self, answer: httpx.Response) -> Any:
        try:
            return answer.json()
        except (ValueError, RecursionError) as error:
            raise self._refusals.unknown_answer() from self._refusals.cause(error, answer.content)

    @contextmanager
    def _heard(self, waited_s: float) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise self._silence(error, waited_s) from error

    def _silence(self, error: Exception, waited_s: float) -> BackupError:
        """No answer, or none that could be read."""
        match error:
            case BackupError():  # from a signal handler: qdrant-client wraps whatever is raised meanwhile
                return error
            case httpx.ConnectTimeout():
                problem = f"nothing answers at {self._url} within {self._timeouts.connect:g} s"
                return QdrantAbsent(problem, hint=rest.UNREACHABLE_HINT)
            case httpx.ConnectError():
                problem = f"nothing answers at {self._url}: {_reason(error)}"
                return QdrantAbsent(problem, hint=rest.UNREACHABLE_HINT)
            case httpx.TimeoutException():
                problem = f"Qdrant at {self._url} fell silent: nothing came for {waited_s:g} s"
            case httpx.TransportError():
                problem = f"the connection to Qdrant at {self._url} broke: {_reason(error)}"
            case _:
                return self._refusals.unknown_answer()
        return QdrantUnreachable(problem, hint=rest.UNREACHABLE_HINT)


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


# -- bytes ---------------------------------------------------------------------------------------


def _promised_size(answer: httpx.Response) -> int | None:
    """None where the server does not say (S3). Refuses what cannot be the snapshot's own bytes."""
    encoding = answer.headers.get("content-encoding", "identity").strip().lower()
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if encoding != "identity":
        raise QdrantError(f"the snapshot came compressed ({encoding}), though asked for as it is")
    if kind != "application/octet-stream":
        raise QdrantError(f"what came instead of the snapshot is of type {kind or '(none)'}")
    length = answer.headers.get("content-length", "")
    framed = "transfer-encoding" in answer.headers  # then that says where the body ends (RFC 9112, 6.3)
    return int(length) if length.isdecimal() and not framed else None


def _no_more_than(limit: int, chunks: Iterable[bytes]) -> bytes:
    """All of a small answer. Raises QdrantError when it is none."""
    said = bytearray()
    for chunk in chunks:
        said += chunk
        if len(said) > limit:
            raise QdrantError(f"Qdrant sent more than {limit:,} bytes where a page of points was asked for")
    return bytes(said)


def _kept_to(promised: int | None, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Never more than was promised, and not less."""
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if promised is not None and size > promised:
            raise QdrantError(f"Qdrant sent more than the {promised:,} bytes it announced")
        yield chunk
    if promised is not None and size != promised:
        raise QdrantError(f"Qdrant sent {size:,} of the {promised:,} bytes it announced")


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
