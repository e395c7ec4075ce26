"""Addresses and keys that Qdrant can be asked with."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from tests.qdrant.answers import (
    URL,
    told,
)

from docmind_backup.core import qdrant_rest as rest
from docmind_backup.errors import UsageError
from docmind_backup.qdrant import connect


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("http://localhost:6333", "http://localhost:6333"),
        ("http://localhost:6333/", "http://localhost:6333"),
        (" http://localhost ", "http://localhost:6333"),
        ("https://Qdrant.example", "https://qdrant.example:6333"),
        ("https://qdrant.example:443/q/", "https://qdrant.example:443/q"),
        ("http://[::1]:6333", "http://[::1]:6333"),
    ],
)
def test_an_address_is_read_as_qdrant_client_reads_it(given: str, base: str) -> None:
    server = connect(given)
    assert server.url == base
    assert repr(server) == f"QdrantServer({base!r})"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6333",
        "ftp://h",
        "http://",
        "http://h:port",
        "http://h:99999",
        "http://[::1",
        "http://h/?k=v",
        "http://h/#x",
        "http://a b",
        "http://h/a b",
    ],
)
def test_an_address_that_cannot_be_meant_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        connect(url)
    assert "DOCMIND_DATABASE__QDRANT_URL" in caught.value.hint


@pytest.mark.parametrize("url", ["http://user:hunter2@localhost:6333", "http://hunter2@localhost"])
def test_credentials_in_an_address_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        connect(url)
    assert "hunter2" not in told(caught.value)
    assert "DOCMIND_DATABASE__QDRANT_API_KEY" in caught.value.hint


@pytest.mark.parametrize("key", ["hunter2\n", "hun ter2", "hunter2é", "hunter2\x7f", "hunter2\0"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(UsageError) as caught:
        connect(URL, api_key=key)
    assert "unter2" not in told(caught.value)


# -- whose and when ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://localhost:6333", "http://127.0.0.1:6333", True),
        ("http://localhost:6333", "http://[::1]:6333", True),
        ("http://127.0.0.1:6333", "http://127.8.9.1:6333", True),
        ("http://LOCALHOST:6333/", "http://localhost:6333", True),
        ("https://q.example:6333/a", "http://q.example:6333/a/", True),
        ("http://localhost:6333", "http://localhost:6334", False),
        ("http://localhost:6333", "http://localhost:6333/a", False),
        ("http://localhost:6333", "http://localhost.example:6333", False),
        ("http://localhost:6333", "http://1127.0.0.1:6333", False),
        ("http://q.example:6333", "http://r.example:6333", False),
        ("http://localhost:6333", "http://localhost:63330", False),
        ("http://localhost:6333", "http://localhost:633300", False),
        ("http://localhost:6333", "http://[::1:6333", False),
    ],
)
def test_two_addresses_of_one_server(one: str, other: str, same: bool) -> None:
    assert rest.same_address(one, other) is same
    assert rest.same_address(other, one) is same


@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("docs-2841235159689269-2026-11-21-01-52-32.snapshot", datetime(2026, 11, 21, 1, 52, 32)),
        ("a-2020-01-01-00-00-00.snapshot-1-2026-11-21-01-52-32.snapshot", datetime(2026, 11, 21, 1, 52, 32)),
        ("docs-1-2026-13-21-01-52-32.snapshot", None),
        ("docs-1-2026-11-21-01-52-32.snapshot.tmp", None),
        ("docs-1-2026-11-21-01-52-32.snapshot\n", None),
        ("docs-1-\u0662026-11-21-01-52-32.snapshot", None),
        ("up.snapshot", None),
        ("", None),
    ],
)
def test_the_second_in_a_snapshots_name(name: str, second: datetime | None) -> None:
    assert rest.named_at(name) == second


ERROR = b'{"status": {"error": "no"}, "time": 0}'


@pytest.mark.parametrize(
    ("status", "body", "may_be_done"),
    [
        *((status, body, False) for status in (307, 400, 401, 403, 404, 409, 422, 429) for body in (ERROR, b"no")),
        *((status, ERROR, False) for status in (500, 503, 507)),
        *((status, body, True) for status in (408, 502, 504) for body in (ERROR, b"<h1>no</h1>")),
        *((status, body, True) for status in (500, 503, 520) for body in (b"", b"<h1>no</h1>", b"[1]", b"[" * 100_000)),
    ],
)
def test_only_a_refusal_of_qdrants_own_says_that_nothing_was_done(status: int, body: bytes, may_be_done: bool) -> None:
    assert rest.Refusals("http://localhost:6333", "").of(status, body).may_be_done is may_be_done


@pytest.mark.parametrize("key", ["k", "e", "t", "No space", "Not found: Collection"])
@pytest.mark.parametrize(
    ("status", "said", "understood"),
    [
        (400, "Checksum mismatch: expected 1, actual 2", "is not the snapshot that was sent"),
        (500, "Service internal error: No space left on device (os error 28)", "the disk of the Qdrant server"),
        (500, "Service internal error: no such segment", "could not restore the snapshot"),
    ],
)
def test_a_key_that_is_a_part_of_the_servers_words_does_not_change_what_they_mean(
    key: str, status: int, said: str, understood: str
) -> None:
    body = json.dumps({"status": {"error": said}, "time": 0.0}).encode()

    assert understood in str(rest.Refusals("http://localhost:6333", key).of_upload(status, body))


@pytest.mark.parametrize("key", ["", "o", "Not found"])
def test_what_is_not_there_is_not_there_whatever_the_key_is(key: str) -> None:
    body = json.dumps({"status": {"error": "Not found: Collection `docs` doesn't exist!"}, "time": 0.0}).encode()

    assert isinstance(rest.Refusals("http://localhost:6333", key).of(404, body), rest.NotFoundError)
