"""DocMind's endpoint policy, row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docmind_backup.core.endpoint import check_endpoint

PUBLIC = "93.184.216.34"
LISTED = ("https://qdrant.example", "http://pinned.example:6333", "plain.example", "http://8.8.8.8", "")


def found(*addresses: str) -> Callable[[str], Sequence[str]]:
    return lambda host: addresses


def not_asked(host: str) -> Sequence[str]:
    raise AssertionError(f"{host} was resolved")


def unknown_name(host: str) -> Sequence[str]:
    raise OSError(-2, "Name or service not known")


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:6333",
        "https://localhost",
        "http://LocalHost.:6333/prefix",
        "http://127.0.0.1:6333",
        "http://127.8.9.10",
        "http://[::1]:6333",
        "http://[::ffff:127.0.0.1]:6333",
        " http://localhost:6333 ",
    ],
)
def test_this_machine_is_always_allowed_and_never_resolved(url: str) -> None:
    assert check_endpoint(url, allow_remote=False, allowlist=(), resolve=not_asked) == ""


@pytest.mark.parametrize("allow_remote", [False, True])
@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6333",
        "qdrant:6333",
        "ftp://localhost",
        "file:///etc/passwd",
        "http://",
        "http://:6333",
        "http://[::1",
        "http://localhost:70000",
        "http://localhost:port",
    ],
)
def test_what_is_no_http_address_is_refused_even_when_remote_is_allowed(url: str, allow_remote: bool) -> None:
    refusal = check_endpoint(url, allow_remote=allow_remote, allowlist=LISTED, resolve=not_asked)
    assert "http://host:port" in refusal


def test_an_unreadable_address_is_not_repeated_with_its_password_or_key() -> None:
    url = "ftp://user:hunter2@host/?api-key=hunter2"
    refusal = check_endpoint(url, allow_remote=True, allowlist=(), resolve=not_asked)
    assert "host" in refusal
    assert "hunter2" not in refusal


@pytest.mark.parametrize("url", ["http://10.0.0.5:6333", "http://qdrant:6333", "https://x.example"])
def test_allow_remote_allows_everything_else_unresolved(url: str) -> None:
    assert check_endpoint(url, allow_remote=True, allowlist=(), resolve=not_asked) == ""


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://qdrant.example", True),
        ("https://qdrant.example:6333/prefix", True),
        ("https://QDRANT.example.", True),
        ("http://qdrant.example", False),
        ("https://sub.qdrant.example", False),
        ("https://qdrant.example.evil.example", False),
        ("https://qdrant.example@evil.example", False),
        ("https://evil.example\\@qdrant.example.evil", False),
        ("http://pinned.example:6333", True),
        ("http://pinned.example:6334", False),
        ("http://pinned.example", False),
        ("http://plain.example:1", True),
        ("https://plain.example", True),
        ("http://8.8.8.8:6333", True),
        ("http://8.8.4.4:6333", False),
    ],
)
def test_anything_else_has_to_be_on_the_allow_list(url: str, allowed: bool) -> None:
    refusal = check_endpoint(url, allow_remote=False, allowlist=LISTED, resolve=found(PUBLIC))
    assert (refusal == "") is allowed
    if not allowed:
        assert "DOCMIND_SECURITY__ENDPOINT_ALLOWLIST" in refusal
        assert "DOCMIND_SECURITY__ALLOW_REMOTE_ENDPOINTS" in refusal


@pytest.mark.parametrize("host", ["127.1", "0x7f.0.0.1", "2130706433", "localhost.evil.example"])
def test_what_only_looks_like_this_machine_needs_the_list(host: str) -> None:
    refusal = check_endpoint(f"http://{host}", allow_remote=False, allowlist=(), resolve=not_asked)
    assert "allow-list" in refusal


@pytest.mark.parametrize(
    ("addresses", "allowed"),
    [
        ((PUBLIC,), True),
        (("127.0.0.1", "::1"), True),
        (("::ffff:127.0.0.1",), True),
        (("2606:4700:4700::1111", PUBLIC), True),
        (("10.1.2.3",), False),
        (("172.16.0.1",), False),
        (("192.168.1.1",), False),
        (("169.254.169.254",), False),
        (("224.0.0.1",), False),
        (("0.0.0.0",), False),
        (("240.0.0.1",), False),
        (("::",), False),
        (("fe80::1%eth0",), False),
        (("fd00::1",), False),
        (("ff02::1",), False),
        (("::ffff:10.0.0.1",), False),
        ((PUBLIC, "10.0.0.1"), False),
        (("127.0.0.1", "192.168.1.1"), False),
        (("nonsense",), False),
    ],
)
def test_every_address_of_a_listed_name_counts(addresses: tuple[str, ...], allowed: bool) -> None:
    refusal = check_endpoint("https://qdrant.example", allow_remote=False, allowlist=LISTED, resolve=found(*addresses))
    assert (refusal == "") is allowed
    if not allowed:
        assert "ALLOW_REMOTE_ENDPOINTS" in refusal


def test_a_listed_private_address_is_refused_without_asking_a_resolver() -> None:
    listed = ("http://192.168.1.9:6333",)
    refusal = check_endpoint(listed[0], allow_remote=False, allowlist=listed, resolve=not_asked)
    assert "192.168.1.9" in refusal
    assert "ALLOW_REMOTE_ENDPOINTS" in refusal


@pytest.mark.parametrize("resolve", [unknown_name, found()])
def test_a_name_that_cannot_be_resolved_is_refused_with_the_reason(
    resolve: Callable[[str], Sequence[str]],
) -> None:
    refusal = check_endpoint("https://qdrant.example", allow_remote=False, allowlist=LISTED, resolve=resolve)
    assert "qdrant.example cannot be resolved" in refusal
    assert "Name or service not known" in refusal or "no address" in refusal


@given(st.text(max_size=60), st.lists(st.text(max_size=30), max_size=3))
def test_no_text_is_too_odd_for_a_verdict(text: str, allowlist: list[str]) -> None:
    for url in (text, f"http://{text}"):
        verdict = check_endpoint(url, allow_remote=False, allowlist=allowlist, resolve=found(PUBLIC))
        assert isinstance(verdict, str)


@given(st.ip_addresses())
def test_without_a_list_only_loopback_passes(address: object) -> None:
    host = f"[{address}]" if ":" in str(address) else str(address)
    verdict = check_endpoint(f"http://{host}", allow_remote=False, allowlist=(), resolve=not_asked)
    loopback = str(address).startswith(("127.", "::ffff:127.", "::ffff:7f")) or str(address) == "::1"
    assert (verdict == "") is loopback
