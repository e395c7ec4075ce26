"""Decide whether DocMind's endpoint policy lets us talk to an address. No I/O: the caller resolves names."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

_ALLOW = "set DOCMIND_SECURITY__ALLOW_REMOTE_ENDPOINTS=true"
_LIST_OR_ALLOW = f"add it to DOCMIND_SECURITY__ENDPOINT_ALLOWLIST or {_ALLOW}"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def check_endpoint(
    url: str, *, allow_remote: bool, allowlist: Sequence[str], resolve: Callable[[str], Sequence[str]]
) -> str:
    """`''` when `url` may be used, else one sentence that says why not and what would allow it.

    This machine is always allowed. Anything else has to be on the allow-list (an entry without a port
    stands for every port, one without a scheme for both), and none of its addresses may lie in a
    private network: what a name resolves to is not for the one who wrote the list to decide.
    `resolve` gives all addresses of a name and may raise OSError.
    """
    endpoint = _endpoint(url)
    if endpoint is None:
        return f"{_shown(url)!r} is not an address of the form http://host:port or https://host:port"
    if allow_remote or _is_loopback(endpoint.host):
        return ""
    if not any(_covers(entry, endpoint) for entry in allowlist):
        return f"{endpoint.host} is neither this machine nor on the allow-list: {_LIST_OR_ALLOW}"
    return _refused_address(endpoint.host, resolve)


# -- reading an address --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Endpoint:
    scheme: str
    """Empty in an allow-list entry that names none."""
    host: str
    port: int | None


def _endpoint(url: str) -> _Endpoint | None:
    endpoint = _parsed(url)
    return endpoint if endpoint is not None and endpoint.scheme in ("http", "https") else None


def _parsed(text: str) -> _Endpoint | None:
    try:
        parts = urlsplit(text.strip())
        host, port = _host(parts), parts.port
    except ValueError:
        return None
    return _Endpoint(parts.scheme, host, port) if host else None


def _host(parts: SplitResult) -> str:
    return (parts.hostname or "").rstrip(".")


def _shown(url: str) -> str:
    """Without what may be a password (before `@`) or a key (after `?`)."""
    return url.rpartition("@")[2].partition("?")[0]


# -- the rules -----------------------------------------------------------------------------------


def _covers(entry: str, endpoint: _Endpoint) -> bool:
    allowed = _parsed(entry if "://" in entry else f"//{entry.strip()}")
    return (
        allowed is not None
        and allowed.host == endpoint.host
        and allowed.scheme in ("", endpoint.scheme)
        and allowed.port in (None, endpoint.port)
    )


def _refused_address(host: str, resolve: Callable[[str], Sequence[str]]) -> str:
    try:
        found = (host,) if _address(host) else resolve(host)
    except (OSError, UnicodeError) as error:
        return f"{host} cannot be resolved, so it is not used: {error}"
    if not found:
        return f"{host} cannot be resolved, so it is not used: it has no address"
    refused = [text for text in found if not _is_public(text)]
    if not refused:
        return ""
    named = refused[0] if refused[0] == host else f"{host} ({refused[0]})"
    return f"{named} lies in a private or reserved network, where the allow-list is not enough: {_ALLOW}"


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _is_public(text: str) -> bool:
    """Loopback counts as public here: a listed name that leads back to this machine harms nobody."""
    address = _address(text)
    if address is None:
        return False
    return address.is_loopback or not (
        address.is_private
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address.is_reserved
    )


def _address(text: str) -> Address | None:
    """None for a name. An IPv4 address dressed as IPv6 (`::ffff:10.0.0.1`) is judged as what it is."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
