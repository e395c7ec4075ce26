"""Addresses and keys that Qdrant can be asked with."""

from __future__ import annotations

import pytest
from tests.qdrant.answers import (
    URL,
    told,
)

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
