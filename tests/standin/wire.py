"""The HTTP side: keys, envelopes, ranges, compression, and the faults that happen on the wire.

Seen on a real 1.18.3: lower-case header names; 401 as bare text without a content-type, before all else,
except on `/` and the health checks; download errors as text/plain; HEAD and unknown routes are an empty 404;
If-Range is ignored; `bytes=0-` is 200; an unsatisfiable or senseless range is 416 without a body; whatever
carries a valid Range is `content-encoding: identity`; anything else is compressed when gzip is offered (and
then has no length).
"""

from __future__ import annotations

import gzip
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

from tests.standin import routes
from tests.standin.calls import Accepted, Call, Download, Outcome, Plain, Reply, dumps
from tests.standin.faults import (
    After,
    Canned,
    ChunkedCut,
    CloseDelimited,
    DownloadFault,
    Drip,
    Drop,
    Faults,
    Flip,
    ForcedGzip,
    HangUp,
    HtmlPage,
    Stall,
    WrongLength,
)
from tests.standin.state import RefusedError, SnapshotFile, State

if TYPE_CHECKING:
    from tests.standin.server import Request

VARY = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


class Site(Protocol):
    """What the wire needs of the stand-in."""

    state: State
    faults: Faults
    version: str
    api_key: str
    read_only_key: str

    def note(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Request: ...
    def run_later(self, work: Callable[[], object]) -> None: ...
    def bug(self, error: BaseException) -> None: ...


@dataclass(slots=True)
class Answer:
    """Status, headers and body before compression."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    fault: DownloadFault | None = None


def handler_for(site: Site) -> type[BaseHTTPRequestHandler]:
    """The request handler class of one stand-in."""
    return type("Bound", (Wire,), {"site": site})


class Wire(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: else 40 ms an answer
    site: Site

    def serve(self) -> None:
        started = time.perf_counter()
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self._read_body(headers)
        request = self.site.note(self.command, self.path, headers, body)
        later: list[After | HangUp] = []
        for act in self.site.faults.rules_for(self.command, request.path):
            match act:
                case HangUp(served=False):
                    self.close_connection = True
                    return
                case Canned():
                    request.status = act.status
                    self._send_canned(act)
                    return
                case After() | HangUp():
                    later.append(act)
                case _:
                    act()
        answer = self._answer(headers, body, started)
        for act in later:
            if isinstance(act, HangUp):
                self.close_connection = True
                return
            act.act()
        request.status = answer.status
        self._send(answer, offers_gzip=_offers_gzip(headers))

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = do_OPTIONS = serve  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet: `StandIn.requests` is the log."""

    # -- in

    def _read_body(self, headers: dict[str, str]) -> bytes:
        if "chunked" in headers.get("transfer-encoding", ""):
            return b"".join(self._chunks())
        return self.rfile.read(int(headers.get("content-length") or 0))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    # -- between

    def _answer(self, headers: dict[str, str], body: bytes, started: float) -> Answer:
        found = routes.route(self.command, self.path)
        key = _key(headers)
        if (refusal := self._unknown_key(key)) and not (found and found[0].open_to_all):
            return Answer(401, {}, refusal.encode())
        if found is None:
            return Answer(404, {})
        route, names = found
        call = self._call(names, headers, body)
        try:
            if route.manage and self._reads_only(key):
                raise RefusedError(403, "Forbidden: Global manage access is required")
            return self._answered(_run(route, call), headers, started)
        except RefusedError as refused:
            as_text = route.text_errors or (route.text_forbidden and refused.status == 403)
            return _refusal(refused, started, as_text=as_text)
        except Exception as error:
            self.site.bug(error)
            return _refusal(RefusedError(500, f"stand-in bug: {error!r}"), started, as_text=False)

    def _call(self, names: dict[str, str], headers: dict[str, str], body: bytes) -> Call:
        site = self.site
        return Call(
            state=site.state,
            faults=site.faults,
            version=site.version,
            path=names,
            query=routes.query(self.path),
            headers=headers,
            body=body,
            later=site.run_later,
        )

    def _unknown_key(self, key: str) -> str:
        known = {self.site.api_key, self.site.read_only_key} - {""}
        if not known or key in known:
            return ""
        return "Invalid API key or JWT" if key else "Must provide an API key or an Authorization bearer token"

    def _reads_only(self, key: str) -> bool:
        return bool(key) and key == self.site.read_only_key

    def _answered(self, outcome: Outcome, headers: dict[str, str], started: float) -> Answer:
        match outcome:
            case Reply(result):
                return _envelope(200, {"result": result, "status": "ok"}, started)
            case Accepted():
                return _envelope(202, {"status": "accepted"}, started)
            case Plain(body, content_type, status):
                return Answer(status, {"content-type": content_type}, body)
            case Download(name, file):
                answer = _download(name, file, headers)
                if headers.get("range") == "bytes=0-0":  # a look, no download that could go wrong
                    return answer
                return _faulty(answer, self.site.faults.next_download())

    # -- out

    def _send(self, answer: Answer, *, offers_gzip: bool) -> None:
        headers, body = dict(answer.headers), answer.body
        vary = VARY
        chunked = isinstance(answer.fault, ChunkedCut)
        packed = offers_gzip and bool(body) and "content-encoding" not in headers
        if packed or isinstance(answer.fault, ForcedGzip):
            body, chunked, vary = gzip.compress(body, mtime=0), True, f"accept-encoding, {VARY}"
            headers["content-encoding"] = "gzip"
        length = {"transfer-encoding": "chunked"} if chunked else {"content-length": str(len(body))}
        if answer.status == 304 or isinstance(answer.fault, CloseDelimited):
            length = {}
        elif isinstance(answer.fault, WrongLength):
            length = {"content-length": str(len(body) + answer.fault.by)}
        self._head(answer.status, length | headers | {"vary": vary})
        self._body(body, answer.fault, chunked=chunked)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        date = _http_date(self.site.state.now() - timedelta(seconds=self.site.faults.date_lag_s))
        for name, value in (headers | {"date": date}).items():
            self.send_header(name, value.encode().decode("latin-1"))
        self.end_headers()

    def _body(self, body: bytes, fault: DownloadFault | None, *, chunked: bool) -> None:
        match fault:
            case Stall(at, gate):
                self.wfile.write(body[:at])
                self.site.faults.hold(gate)
                self.wfile.write(body[at:])
            case Drip(at, gate, every_s):
                self.wfile.write(body[:at])
                while at < len(body) and not self.site.faults.hold_on(gate, every_s):
                    self.wfile.write(body[at : at + 1])
                    at += 1
                self.wfile.write(body[at:])
            case Drop(at, reset):
                self.wfile.write(body[:at])
                self._hang_up(reset=reset)
            case CloseDelimited(at):
                self.wfile.write(body[:at])
                self._hang_up()
            case ChunkedCut(at, clean):
                self.wfile.write(_chunk(body[:at]) + (b"0\r\n\r\n" if clean else b""))
                self._hang_up()
            case WrongLength():
                self.wfile.write(body)
                self._hang_up()
            case _ if self.command != "HEAD":
                self.wfile.write(_chunk(body) + b"0\r\n\r\n" if chunked else body)

    def _send_canned(self, canned: Canned) -> None:
        self._head(canned.status, {"content-length": str(len(canned.body))} | dict(canned.headers))
        self.wfile.write(canned.body)
        if canned.headers.get("content-length", str(len(canned.body))) != str(len(canned.body)):
            self._hang_up()

    def _hang_up(self, *, reset: bool = False) -> None:
        self.close_connection = True
        if reset:  # see shutdown_request in server.py
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _run(route: routes.Route, call: Call) -> Outcome:
    if route.free:
        return route.serve(call)
    with call.state.lock:
        return route.serve(call)


def _key(headers: dict[str, str]) -> str:
    return headers.get("api-key") or headers.get("authorization", "").removeprefix("Bearer ")


def _envelope(status: int, body: dict[str, object], started: float) -> Answer:
    body["time"] = round(time.perf_counter() - started, 9)
    return Answer(status, {"content-type": JSON}, dumps(body))


def _refusal(refused: RefusedError, started: float, *, as_text: bool) -> Answer:
    if as_text:
        return Answer(refused.status, {"content-type": TEXT}, refused.text.encode())
    return _envelope(refused.status, {"status": {"error": refused.text}}, started)


def _offers_gzip(headers: dict[str, str]) -> bool:
    """The real server would choose br or zstd before gzip; here there is only gzip."""
    offers = [part.replace(" ", "") for part in headers.get("accept-encoding", "").split(",")]
    return any(part.split(";")[0] == "gzip" and not part.endswith(";q=0") for part in offers)


# -- downloads


def _download(name: str, file: SnapshotFile, headers: dict[str, str]) -> Answer:
    total = len(file.data)
    head = {
        "etag": file.etag,
        "content-type": "application/octet-stream",
        "content-disposition": _disposition(name),
        "last-modified": _http_date(file.modified),
        "accept-ranges": "bytes",
    }
    if headers.get("if-none-match") in (file.etag, "*"):
        return Answer(304, head)
    if "range" not in headers:
        return Answer(200, head, file.data)
    asked = _range(headers["range"], total)
    if asked is None:
        return Answer(416, head | {"content-range": f"bytes */{total}"})
    start, end = asked
    head |= {"content-encoding": "identity", "content-range": f"bytes {start}-{end - 1}/{total}"}
    return Answer(200 if end - start == total else 206, head, file.data[start:end])


def _range(header: str, total: int) -> tuple[int, int] | None:
    """Start and end of the first range, or None when there is nothing to send."""
    unit, _, ranges = header.partition("=")
    first, dash, last = ranges.split(",")[0].strip().partition("-")
    if unit != "bytes" or not dash or not (first + last).isdigit():
        return None
    if not first:
        return max(total - int(last), 0), total
    start, end = int(first), min(int(last) + 1, total) if last else total
    return (start, end) if start < end else None


def _disposition(name: str) -> str:
    """Non-ASCII names: not recorded; by actix-files."""
    extended = "" if name.isascii() else f"; filename*=UTF-8''{quote(name)}"
    return f'attachment; filename="{name}"{extended}'


def _http_date(moment: datetime) -> str:
    return format_datetime(moment, usegmt=True)


def _faulty(answer: Answer, fault: DownloadFault | None) -> Answer:
    """Only whole and partial bodies can go wrong."""
    if fault is None or not answer.body:
        return answer
    answer.fault = fault
    match fault:
        case Flip(at):
            changed = bytearray(answer.body)
            changed[at] ^= 1
            answer.body = bytes(changed)
        case HtmlPage(body):
            return Answer(200, {"content-type": "text/html; charset=utf-8"}, body)
        case ForcedGzip():
            answer.headers.pop("content-encoding", None)
    return answer


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n" if data else b""
