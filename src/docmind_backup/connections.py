"""Hold one thread's connections to a Qdrant server: made when first needed, and ended from any thread at a stop."""

from __future__ import annotations

import math
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from threading import Event
from typing import TYPE_CHECKING, Any

import httpcore
import httpx

from docmind_backup import __version__
from docmind_backup.breaking import Breaker

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

READ_BYTES = 2**18
UNKNOWN_AUTHORITY = (18, 19, 20, 21)
"""Of OpenSSL's reasons against a certificate (x509_vfy.h), those that trusting one authority more does away with."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds."""

    connect: float
    request: float
    create: float
    stop: float
    """For each answer once the run is ending by a signal."""


class Connections:
    """Those of one server object, which one thread uses at a time; `stop` may come from any, or a signal handler."""

    def __init__(self, url: str, key: str, timeouts: Timeouts) -> None:
        self._url = url
        self._key = key
        self._timeouts = timeouts
        self._opened = ExitStack()
        self._clients: dict[tuple[float, Breaker], QdrantClient] = {}
        self._ending = False
        self._asked = Breaker()
        self.creating = Breaker()
        self.downloading = Breaker()

    def close(self) -> None:
        self._opened.close()

    def stop(self, *, at_once: bool) -> None:
        """As core/server.py says."""
        if at_once and not self._ending:  # once, and before anybody wakes up to clean up: that is not to be cut
            self._ending = True
            self._asked.cut()
        if at_once:
            self.creating.trip()
        self.downloading.trip()

    # -- asking ----------------------------------------------------------------------------------

    def short(self, seconds: float) -> float:
        """So long, or as long as there is once the run is ending."""
        return min(seconds, self._timeouts.stop) if self._ending else seconds

    @property
    def timeout(self) -> httpx.Timeout:
        """Of a question."""
        return httpx.Timeout(self.short(self._timeouts.request), connect=self.short(self._timeouts.connect))

    @contextmanager
    def question(self, *, patient: bool = False) -> Iterator[Event]:
        """One call that is under way; the event says that its time was over.

        Once the run is ending, the answer has to be whole in time, unless the call is `patient`: a server that sends
        a little now and then would keep it waiting otherwise.
        """
        self._asked.begin()
        if self._ending and not patient:
            with self._asked.within(self._timeouts.stop) as late:
                yield late
        else:
            yield Event()

    def check(self) -> None:
        """Raises Stopped when a stop ended the last question."""
        self._asked.check()

    # -- clients ---------------------------------------------------------------------------------

    @cached_property
    def asking(self) -> httpx.Client:
        return self._new_http(self._asked)

    @cached_property
    def bringing(self) -> httpx.Client:
        # httpcore would read 64 KiB at a time, which costs a download over loopback some processor time
        httpcore.HTTP11Connection.READ_NUM_BYTES = READ_BYTES  # pyright: ignore[reportAttributeAccessIssue]
        return self._new_http(self.downloading)

    def _new_http(self, breaker: Breaker) -> httpx.Client:
        own = {"Accept-Encoding": "identity", "User-Agent": f"docmind-backup/{__version__}"}
        client = httpx.Client(
            headers={**self._headers, **own},
            timeout=self.timeout,
            transport=_Known(breaker, verify=self._trusted),
            trust_env=False,
            follow_redirects=False,
        )
        return self._opened.enter_context(client)

    def qdrant(self, timeout_s: float, breaker: Breaker | None = None) -> QdrantClient:
        """The official client; its first import takes a second."""
        from qdrant_client import QdrantClient

        known = breaker or self._asked
        if (timeout_s, known) not in self._clients:
            client = QdrantClient(
                url=self._url,
                headers=self._headers,
                timeout=math.ceil(timeout_s),
                prefer_grpc=False,
                check_compatibility=False,
                verify=False,  # the transport does
                transport=_Known(known, verify=self._trusted),
                trust_env=False,
                follow_redirects=False,
            )
            self._opened.callback(client.close)
            self._clients[timeout_s, known] = client
        return self._clients[timeout_s, known]

    @cached_property
    def _trusted(self) -> ssl.SSLContext | bool:
        """The authorities of certifi, of this machine, and of SSL_CERT_FILE or SSL_CERT_DIR: a private one, too.

        Loading them takes 30 ms, which is saved where no TLS is spoken.
        """
        if not self._url.startswith("https:"):
            return False
        context = httpx.create_ssl_context(trust_env=False)
        context.load_default_certs()
        return context

    @property
    def _headers(self) -> dict[str, str]:
        """As `api_key=` qdrant-client would warn about http, on loopback too."""
        return {"api-key": self._key} if self._key else {}


def tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """What TLS did not accept, where a connection did not come about for that."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


class _Known(httpx.HTTPTransport):
    """The breaker knows each of its connections."""

    def __init__(self, breaker: Breaker, *, verify: ssl.SSLContext | bool) -> None:
        super().__init__(verify=verify, trust_env=False)
        self._breaker = breaker

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        trace: Any = self._breaker.trace
        request.extensions = {**request.extensions, "trace": trace}
        return super().handle_request(request)
