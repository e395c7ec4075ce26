"""A Qdrant of recorded answers: what the wire tests register and call."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from pytest_httpx import HTTPXMock

from docmind_backup.qdrant import QdrantServer

RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"
URL = "http://localhost:6333"
KEY = "s3cr3t-key"
OCTETS = {"content-type": "application/octet-stream"}


@cache
def recorded(file: str, label: str) -> dict[str, Any]:
    exchanges = json.loads((RECORDINGS / f"{file}.json").read_text())
    return next(each["response"] for each in exchanges if each["label"] == label)


class Answers:
    """Registers answers; `GET /` is answered as 1.18.3 does unless a test says otherwise."""

    def __init__(self, mock: HTTPXMock) -> None:
        self.mock = mock

    def greet(self) -> None:
        self.mock.add_response(url=f"{URL}/", json={"version": "1.18.3"}, is_optional=True, is_reusable=True)

    def replay(self, file: str, label: str, **matching: Any) -> None:
        answer = recorded(file, label)
        body = {key: answer[key] for key in ("json", "text") if answer.get(key) is not None}
        self.give(answer["status"], headers=_kept(answer["headers"], body), **body, **matching)

    def give(self, status: int = 200, **answer: Any) -> None:
        self.mock.add_response(status_code=status, **answer)

    def result(self, result: Any, **more: Any) -> None:
        self.give(json={"result": result, "status": "ok", "time": 0.1}, **more)

    def error(self, status: int, words: str, **more: Any) -> None:
        self.give(status, json={"status": {"error": words}, "time": 0.1}, **more)

    def asked(self) -> list[httpx.Request]:
        """Without the greetings."""
        return [request for request in self.mock.get_requests() if request.url.path != "/"]


def _kept(headers: list[list[str]], body: dict[str, Any]) -> dict[str, str]:
    """Without what a body made anew has of its own."""
    return {name: value for name, value in headers if name not in ("content-length", "transfer-encoding")}


def nothing(_size: int) -> None:
    """A progress bar nobody looks at."""


Call = Callable[[QdrantServer, Path], object]

READS: dict[str, Call] = {
    "peers": lambda server, _: server.peers(),
    "names": lambda server, _: server.names(),
    "aliases": lambda server, _: server.aliases(),
    "describe": lambda server, _: server.describe("docs"),
    "count": lambda server, _: server.count("docs"),
    "placement": lambda server, _: server.placement("docs"),
    "scroll": lambda server, _: list(server.scroll("docs", ["image_artifact_id"])),
    "whole points": lambda server, _: list(server.scroll("docs", None)),
    "sample": lambda server, _: server.sample("docs", 3),
    "snapshots": lambda server, _: server.snapshots("docs"),
    "download": lambda server, folder: server.download("docs", "a.snapshot", folder / "a", nothing),
}
WRITES: dict[str, Call] = {
    "create": lambda server, _: server.create_snapshot("docs"),
    "delete": lambda server, _: server.delete_snapshot("docs", "a.snapshot"),
}
CALLS = READS | WRITES


def told(error: BaseException) -> str:
    """All that a traceback prints, and the reprs, and the hint."""
    return "\n".join([*traceback.format_exception(error), repr(error), str(getattr(error, "hint", ""))])
