"""The stand-in as tests see it: start it, fill it, break it, look at what came in."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from pathlib import Path
from socket import SHUT_RDWR, SO_LINGER, SOL_SOCKET, socket
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Self

from tests.standin import engine
from tests.standin.engine import Point
from tests.standin.faults import Faults
from tests.standin.state import PEER_ID, SnapshotFile, State
from tests.standin.wire import handler_for

TEXT_DENSE: Mapping[str, Any] = {"text-dense": {"size": 8, "distance": "Cosine"}}


@dataclass(slots=True)
class Request:
    """One request that came in; in `StandIn.requests` from the moment its body was read."""

    method: str
    path: str
    """Raw (percent-encoded), without the query."""
    query: str
    headers: dict[str, str]
    """Lower-case names."""
    body_size: int
    status: int = 0
    """0 until the answer begins, and for good when the connection was cut without one."""


class StandIn:
    """A Qdrant on 127.0.0.1 for the length of a `with` block.

    Everything may be called while requests are being served. Leaving the block opens all gates, ends all
    connections and raises if a request hit a bug in the stand-in itself.
    """

    def __init__(
        self,
        api_key: str = "",
        read_only_key: str = "",
        version: str = "1.18.3",
        peers: int = 1,
        *,
        clock: Callable[[], datetime] | None = None,
        peer_id: int = PEER_ID,
        certificate: Path | None = None,
    ) -> None:
        """`certificate`: with its key, to speak https."""
        self.api_key, self.read_only_key, self.version = api_key, read_only_key, version
        self.state = State(peers=peers, peer_id=peer_id)
        if clock is not None:
            self.state.clock = clock
        self.faults = Faults()
        self.requests: list[Request] = []
        self.bugs: list[BaseException] = []
        self._workers: list[Thread] = []
        self._http = _Loopback(("127.0.0.1", 0), handler_for(self), self.bug)
        if certificate:
            self._http.speak_tls(certificate)
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self._http.server_address[1]}"
        self._thread = Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if self.bugs and error is None:
            raise AssertionError(f"the stand-in failed: {self.bugs}") from self.bugs[0]

    def close(self) -> None:
        """Nothing is served any more and all begun work is finished. May be called early, and twice."""
        self._http.shutdown()
        self._thread.join()
        self.faults.open_all()
        for worker in self._workers:
            worker.join()
        self._http.end_connections()
        self._http.server_close()

    # -- filling it

    def set_clock(self, clock: Callable[[], datetime] | datetime) -> None:
        """The server's clock (snapshot names, `date`): a function, or the time at which it stands still."""
        self.state.clock = (lambda: clock) if isinstance(clock, datetime) else clock

    def create_collection(
        self,
        name: str,
        points: Iterable[Point] = (),
        vectors: Mapping[str, Any] | None = TEXT_DENSE,
        sparse_vectors: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        payload_indexes: Mapping[str, Any] | Iterable[str] | None = None,
    ) -> None:
        """`payload_indexes`: field to schema ("keyword", ...), or only fields, which are keywords then."""
        body = {"vectors": vectors, "sparse_vectors": sparse_vectors, "metadata": metadata}
        with self.state.lock:
            self.state.create(name, {key: dict(value) for key, value in body.items() if value})
            for field, schema in _schemas(payload_indexes).items():
                self.state.create_index(name, field, schema)
            self.state.upsert(name, points)

    def load_snapshot(self, name: str, data: bytes) -> None:
        """A new collection out of a genuine snapshot; until it changes, its snapshots are that very file."""
        with self.state.lock:
            self.state.restore(name, data).genuine = data

    def set_snapshot_bytes(self, name: str, data: bytes) -> None:
        """Until the collection changes, its snapshots are that very file (which must hold its points)."""
        with self.state.lock:
            self.state.find(name).genuine = data

    def upsert(self, name: str, points: Iterable[Point]) -> None:
        with self.state.lock:
            self.state.upsert(name, points)

    def delete_points(self, name: str, ids: Iterable[int | str]) -> None:
        with self.state.lock:
            self.state.delete_points(name, ids)

    def create_alias(self, alias: str, collection: str) -> None:
        with self.state.lock:
            action = {"create_alias": {"collection_name": collection, "alias_name": alias}}
            self.state.change_alias(action)

    def delete_alias(self, alias: str) -> None:
        with self.state.lock:
            self.state.change_alias({"delete_alias": {"alias_name": alias}})

    def delete_collection(self, name: str) -> None:
        """Its snapshot files stay, as on the real server."""
        with self.state.lock:
            self.state.delete(name)

    def create_snapshot(self, name: str) -> str:
        """Somebody else's, made the regular way; its name."""
        with self.state.lock:
            return self.state.create_snapshot(name)

    def put_snapshot(
        self, name: str, snapshot_name: str, data: bytes, *, checksum: bool = True, age_s: int = 0
    ) -> None:
        """Somebody else's file in the collection's folder. Without `checksum` as if put there by hand."""
        with self.state.lock:
            modified = datetime.fromtimestamp(self.state.now().timestamp() - age_s, UTC)
            digest = engine.sha256(data) if checksum else ""
            self.state.folder(name)[snapshot_name] = SnapshotFile(data, digest, modified)

    # -- looking at it

    def collections(self) -> list[str]:
        with self.state.lock:
            return sorted(self.state.collections)

    def count(self, name: str) -> int:
        with self.state.lock:
            return len(self.state.find(name).points)

    def points(self, name: str) -> list[Point]:
        with self.state.lock:
            return self.state.settle(name)

    def snapshots(self, name: str) -> dict[str, bytes]:
        """What lies in the folder of that name, reachable or not."""
        with self.state.lock:
            return {snapshot: file.data for snapshot, file in self.state.files.get(name, {}).items()}

    # -- for the wire

    def note(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Request:
        path, _, query = target.partition("?")
        request = Request(method, path, query, headers, len(body))
        self.requests.append(request)
        return request

    def run_later(self, work: Callable[[], object]) -> None:
        gate = self.faults.create_gate
        if gate is None:
            work()
            return

        def run() -> None:
            self.faults.hold(gate)
            try:
                work()
            except Exception as error:
                self.bug(error)

        worker = Thread(target=run)
        self._workers.append(worker)
        worker.start()

    def bug(self, error: BaseException) -> None:
        self.bugs.append(error)


def _schemas(given: Mapping[str, Any] | Iterable[str] | None) -> dict[str, Any]:
    return dict(given) if isinstance(given, Mapping) else dict.fromkeys(given or (), "keyword")


class _Loopback(ThreadingHTTPServer):
    daemon_threads = False  # joined by server_close, so that no thread outlives its test
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: Any, bug: Callable[[BaseException], None]) -> None:
        super().__init__(address, handler)
        self._bug = bug
        self._open: set[socket] = set()
        self._lock = Lock()

    def speak_tls(self, certificate: Path) -> None:
        """Each connection shakes hands in its own thread, with the first byte it reads."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """No FIN where a lingering close is to become a RST."""
        with self._lock:
            self._open.discard(request)
        if request.getsockopt(SOL_SOCKET, SO_LINGER):
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def end_connections(self) -> None:
        with self._lock:
            for connection in self._open:
                try:
                    connection.shutdown(SHUT_RDWR)
                except OSError:  # gone already
                    continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may go away when they like; anything else is ours."""
        error = sys.exception()
        if error is not None and not isinstance(error, ConnectionError | TimeoutError | ssl.SSLError):
            self._bug(error)
