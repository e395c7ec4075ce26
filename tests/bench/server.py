"""Serve one large snapshot as Qdrant does, by sendfile, in a process of its own: the server is not what is measured.

`python -m tests.bench.server FOLDER` prints its address and serves until its input ends. It knows the calls that
`create --only qdrant --collection bench` makes and no others; what is a hole in the file is sent from memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from tests.bench.measure import plain_environment
from tests.bench.work import ROOT

COLLECTION = "bench"
POINTS = 1000
ZEROS = memoryview(bytes(4 * 2**20))
CONFIG = {"params": {"vectors": {"size": 8, "distance": "Cosine"}, "shard_number": 1}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.body = folder / "body"
        self.described = json.loads((folder / "snapshot.json").read_bytes())
        self.names: list[str] = []
        """Snapshots that were made and not deleted; `always` is there for curl."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def _bench(self) -> _Server:
        assert isinstance(self.server, _Server)
        return self.server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        """Nothing is said."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        match path.strip("/").split("/"):
            case [""]:
                self._say({"title": "qdrant - vector search engine", "version": "1.18.3"})
            case ["cluster"]:
                self._result({"status": "disabled"})
            case ["collections"]:
                self._result({"collections": [{"name": COLLECTION}]})
            case ["aliases"] | ["collections", _, "aliases"]:
                self._result({"aliases": []})
            case ["collections", _]:
                self._result({"status": "green", "points_count": POINTS, "config": CONFIG, "payload_schema": {}})
            case ["collections", _, "snapshots"]:
                self._result([self._description(name) for name in self._bench.names])
            case ["collections", _, "snapshots", _]:
                self._download()
            case _:
                self._say({"status": {"error": f"the bench server does not know {path}"}}, status=404)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path.partition("?")[0].endswith("/points/count"):
            return self._result({"count": POINTS})
        name = f"{COLLECTION}-1-{datetime.now(UTC):%Y-%m-%d-%H-%M-%S}.snapshot"
        self._bench.names.append(name)
        return self._result(self._description(name))

    def do_DELETE(self) -> None:
        name = self.path.partition("?")[0].rpartition("/")[2]
        if name in self._bench.names:
            self._bench.names.remove(name)
        self._result(True)

    def _description(self, name: str) -> dict[str, Any]:
        made_at = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}"
        said = self._bench.described
        return {"name": name, "creation_time": made_at, "size": said["size"], "checksum": said["sha256"]}

    def _result(self, result: object) -> None:
        self._say({"result": result, "status": "ok", "time": 0.0})

    def _say(self, answer: object, *, status: int = 200) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _download(self) -> None:
        size, data = self._bench.described["size"], self._bench.described["data"]
        self.send_response(200)
        self.send_header("content-type", "application/octet-stream")
        self.send_header("content-length", str(size))
        self.end_headers()
        self.wfile.flush()
        with self._bench.body.open("rb") as file:
            at = 0
            while at < data:
                at += os.sendfile(self.connection.fileno(), file.fileno(), at, min(data - at, 2**24))
        for start in range(0, size - data, len(ZEROS)):
            self.connection.sendall(ZEROS[: size - data - start])


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a server, in another process, of the snapshot in `folder`."""
    command = [sys.executable, "-m", "tests.bench.server", str(folder)]
    with subprocess.Popen(
        command, cwd=ROOT, env=plain_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def main() -> None:
    server = _Server(Path(sys.argv[1]))
    Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
