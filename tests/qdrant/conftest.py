"""A server object that talks to answers instead of a socket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_httpx import HTTPXMock
from tests.qdrant.answers import KEY, URL, Answers

from docmind_backup.qdrant import QdrantServer, connect


@pytest.fixture
def qdrant(httpx_mock: HTTPXMock) -> Answers:
    answers = Answers(httpx_mock)
    answers.greet()
    return answers


@pytest.fixture
def server() -> Iterator[QdrantServer]:
    with connect(URL, api_key=KEY, download_retries=0) as server:
        yield server


@pytest.fixture
def keyless() -> Iterator[QdrantServer]:
    with connect(URL, download_retries=0) as server:
        yield server
