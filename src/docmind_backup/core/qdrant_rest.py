"""Say what Qdrant's answers mean, and which addresses, keys and names it can be asked with. No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from math import inf
from typing import Any
from urllib.parse import quote, urlsplit

from docmind_backup.core.model import CollectionState, Placement
from docmind_backup.core.server import Point
from docmind_backup.errors import QdrantError, QdrantRefused, QdrantUnclear, QdrantUnreachable, UsageError

DEFAULT_PORT = 6333
"""What qdrant-client, and so DocMind, takes for an address without a port, https too."""
KEY_SETTING = "DOCMIND_DATABASE__QDRANT_API_KEY"
URL_SETTING = "DOCMIND_DATABASE__QDRANT_URL"
UNREACHABLE_HINT = f"start it, or correct {URL_SETTING}"
DISTRUST_HINT = "add the authority that signed it to this machine's, or name its file in SSL_CERT_FILE"
INVALID_HINT = f"renew the certificate on the server, or correct {URL_SETTING}"
NO_TLS_HINT = f"correct {URL_SETTING}: it may be http:// there, or another port"

_URL_HINT = f"set {URL_SETTING}, for example to http://localhost:6333"


class NotFoundError(QdrantError):
    """Qdrant itself says that there is no such collection or snapshot; a foreign server's 404 is another."""


# -- what it can be asked with -------------------------------------------------------------------


def base_url(url: str) -> str:
    """scheme://host:port[/prefix]. Raises UsageError, in words that leave out what may be a secret."""
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise UsageError("the address of Qdrant cannot be read", hint=_URL_HINT) from None
    if "@" in parts.netloc:
        problem = "the address of Qdrant holds a user name or password, which is not used"
        raise UsageError(problem, hint=f"leave it out and set {KEY_SETTING} instead")
    plain = re.fullmatch(r"[\w.:%-]+", host) and re.fullmatch(r"[\w./%~-]*", parts.path)
    if parts.scheme not in ("http", "https") or not plain or parts.query or parts.fragment:
        raise UsageError("the address of Qdrant is not of the form http://host:port", hint=_URL_HINT)
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}:{port or DEFAULT_PORT}{parts.path.rstrip('/')}"


def usable_key(key: str) -> str:
    """Checked here because the HTTP library's own complaint would print it. Raises UsageError."""
    if re.fullmatch(r"[\x21-\x7e]*", key):
        return key
    problem = "the API key of Qdrant holds a space, a line break or a character that no header can carry"
    raise UsageError(problem, hint=f"correct {KEY_SETTING}")


def collection_name(name: str) -> str:
    """`name`, unless it would change the path it is put into, quoted or not."""
    if not _is_plain(name):
        raise QdrantError(f"{name!r} cannot be the name of a collection")
    return name


def file_name(snapshot: str) -> str:
    """`snapshot`, unless it is not a plain file name."""
    if not _is_plain(snapshot):
        raise QdrantError(f"Qdrant names a snapshot {snapshot!r}, which is not a plain file name")
    return snapshot


def _is_plain(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def collection_path(name: str) -> str:
    return f"/collections/{quote(collection_name(name), safe='')}"


def snapshot_path(name: str, snapshot: str) -> str:
    return f"{collection_path(name)}/snapshots/{quote(file_name(snapshot), safe='')}"


def upload_path(name: str) -> str:
    return f"{collection_path(name)}/snapshots/upload"


EMPTY: Mapping[str, Any] = {"vectors": {"size": 1, "distance": "Dot"}}
"""The body that makes a collection which is there only for what lies under its name."""


def alias_actions(now: Mapping[str, str], wanted: Mapping[str, str | None]) -> list[dict[str, Any]]:
    """What turns `now` into `wanted` in one request (alias -> collection, None: gone); empty when it is so already."""
    actions: list[dict[str, Any]] = []
    for alias, collection in sorted(wanted.items()):
        if now.get(alias) == collection:
            continue
        if alias in now:
            actions.append({"delete_alias": {"alias_name": alias}})
        if collection is not None:
            actions.append({"create_alias": {"collection_name": collection, "alias_name": alias}})
    return actions


def key_line(key: str) -> str:
    """What gives curl's `-H @-` the key in the variable `key`: by its standard input it is in no process list."""
    return f"printf 'api-key: %s\\n' \"${key}\" |"


def delete_command(url: str, name: str, snapshot: str = "") -> str:
    """Of a snapshot, or of the collection, for a person and a shell; the key goes to no proxy."""
    path = snapshot_path(name, snapshot) if snapshot else collection_path(name)
    return f"{key_line(KEY_SETTING)} curl -X DELETE '{url}{path}' -H @- -fsS --noproxy '*'"


def same_address(one: str, other: str) -> bool:
    """Whether two base URLs lead to the same server as far as their spelling tells; what is no URL leads to none."""
    try:
        return _reached(one) == _reached(other)
    except ValueError:
        return False


def _reached(url: str) -> tuple[str, int, str]:
    parts = urlsplit(url)
    host = parts.hostname or ""
    here = host in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", host)
    return "localhost" if here else host, parts.port or DEFAULT_PORT, parts.path.rstrip("/")


DATE_LAG = timedelta(seconds=1)
"""How far the second in an answer's `Date` may lie behind the one in the name of a snapshot made then: it is renewed
each half second (Qdrant 1.18 answered 01:56:17 with a name of 01-56-18)."""


def named_at(snapshot: str) -> datetime | None:
    """The second, naive UTC, that the server put into a snapshot's name when it began with it."""
    found = re.search(r"-(\d{4}(?:-\d\d){5})\.snapshot\Z", snapshot, re.ASCII)
    try:
        return datetime.strptime(found[1], "%Y-%m-%d-%H-%M-%S") if found else None
    except ValueError:
        return None


EXACTLY = {"exact": True}
"""The body of a question for a count; without it Qdrant estimates."""
PAGE_POINTS = 1000


WHOLE_POINTS = 100
"""The same where points come with all of their payloads."""


def page_body(keys: Sequence[str] | None, offset: int | str | None) -> dict[str, Any]:
    """The body of a question for one page of points; `offset`: the id that it begins with, None: the first."""
    start = {} if offset is None else {"offset": offset}
    if keys is None:
        return {"limit": WHOLE_POINTS, "with_payload": True, "with_vector": False, **start}
    return {"limit": PAGE_POINTS, "with_payload": {"include": list(keys)}, "with_vector": False, **start}


def sample_body(number: int) -> dict[str, Any]:
    """The body of a question for the first points with all that they have."""
    return {"limit": number, "with_payload": True, "with_vector": True}


# -- what it answers; LookupError, TypeError or ValueError where it is of another shape ----------


def names(result: Any) -> tuple[str, ...]:
    return tuple(sorted(_text(each["name"]) for each in result["collections"]))


def aliases(result: Any) -> dict[str, str]:
    """alias -> collection."""
    return {_text(each["alias_name"]): _text(each["collection_name"]) for each in result["aliases"]}


def count(result: Any) -> int:
    points = result["count"]
    if not isinstance(points, int) or isinstance(points, bool) or points < 0:
        raise ValueError("a count is a number")
    return points


@dataclass(frozen=True, slots=True)
class Page:
    """Some points in the order of their ids."""

    points: tuple[Point, ...]
    next: int | str | None
    """Id that the next page begins with; None: this was the last."""


def page(result: Any, offset: int | str | None) -> Page:
    """A page that was asked for from `offset` on. It has to lead on: else there would be no end to it."""
    points = tuple(
        Point(_point_id(each["id"]), _object(each.get("payload") or {}), _vector_names(each.get("vector")))
        for each in result["points"]
    )
    following = result.get("next_page_offset")
    after = None if following is None else _point_id(following)
    places = [_place(point.id) for point in points]
    if any(here >= there for here, there in pairwise(places)):
        raise ValueError("points are not in the order of their ids")
    if places and offset is not None and places[0] < _place(offset):
        raise ValueError("a page begins before where it was asked to")
    if after is not None and (not places or _place(after) <= places[-1]):
        raise ValueError("the next page does not lead on")
    return Page(points, after)


def _vector_names(value: Any) -> tuple[str, ...]:
    """By name, or a bare list of numbers."""
    return tuple(sorted(value)) if isinstance(value, dict) else ("",) if value else ()


def _place(one: int | str) -> tuple[float, str]:
    """What ids are ordered by: numbers before UUIDs."""
    return (inf, one) if isinstance(one, str) else (one, "")


def _point_id(value: Any) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError("the id of a point is a number or a text")
    return value


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("a payload is an object")
    return value


def placement(result: Any) -> Placement:
    """Of `GET /collections/{c}/cluster`."""
    local, remote = result["local_shards"], result["remote_shards"]
    keys = {str(shard["shard_key"]) for shard in (*local, *remote) if shard.get("shard_key") is not None}
    return Placement(_shards(local), _shards(remote), tuple(sorted(keys)))


def _shards(rows: Any) -> tuple[int, ...]:
    numbers = {row["shard_id"] for row in rows}
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("a shard is a number")
    return tuple(sorted(numbers))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a name is a text")
    return value


def state(name: str, found: Any, *, points: int, aliases: tuple[str, ...]) -> CollectionState:
    """A description as the server gave it, whole: a restore may need what this version does not know."""
    try:
        config = found["config"]
        params = config["params"]
        return CollectionState(
            name,
            role="",
            points=points,
            vectors=params.get("vectors") or {},
            sparse_vectors=params.get("sparse_vectors") or {},
            payload_schema=found.get("payload_schema") or {},
            metadata=config.get("metadata") or {},
            aliases=aliases,
            shards=params.get("shard_number") or 1,
            sharding=params.get("sharding_method") or "auto",
            config=config,
        )
    except (LookupError, TypeError, AttributeError) as error:
        raise QdrantError(f"Qdrant's description of {name!r} is not one that this tool knows") from error


_WORKSPACE = re.compile(r"[^`'\s]*/col-[^/`']*-recovery-\w+/")
"""Where the server unpacks; says nothing to whoever reads about it here."""


@dataclass(frozen=True, slots=True, repr=False)
class Refusals:
    """Turns answers that are not 200 into errors that say what to do."""

    url: str
    key: str

    def of(self, status: int, body: bytes, *, changes: str = "") -> QdrantError:
        """`changes`: what the call would have altered on the server (`creating a snapshot`), if anything."""
        said = _said(body)
        words = self._shown(said)
        match status:
            case 401 if not self.key:
                return QdrantRefused("Qdrant wants an API key and none is set", hint=f"set {KEY_SETTING}")
            case 401:
                return QdrantRefused("the API key is wrong", hint=f"correct {KEY_SETTING}")
            case 403 if changes:
                problem = f"the API key is read-only: {changes} needs a key with manage access"
                return QdrantRefused(problem, hint=f"set {KEY_SETTING} to such a key")
            case 403:
                return QdrantRefused(f"the API key does not allow this: {words}", hint=f"change {KEY_SETTING}")
            case 404 if said.startswith("Not found"):
                return NotFoundError(f"Qdrant at {self.url} says: {words}")
            case _ if 300 <= status < 400:
                problem = f"{self.url} answers with a redirect ({status}), which is not followed"
                return QdrantError(problem, hint=f"set {URL_SETTING} to the address of Qdrant itself")
            case _ if status == 507 or "No space left on device" in said:
                problem = f"the disk of the Qdrant server (not that of the backups) is full: {words}"
                return QdrantError(problem, hint="free space where Qdrant keeps its storage and snapshots")
            case 502 | 504:
                problem = f"what stands before Qdrant at {self.url} answered {status}: {words}"
                return QdrantUnreachable(problem, hint=UNREACHABLE_HINT)
            case _ if status == 408 or (status >= 500 and not _is_qdrants(body)):
                return QdrantUnclear(f"Qdrant at {self.url} answered {status}: {words}")
        return QdrantError(f"Qdrant at {self.url} answered {status}: {words}")

    def of_upload(self, status: int, body: bytes) -> QdrantError:
        """As `of`. Qdrant 1.18 tells a wrong checksum (400) from what it cannot unpack (500, with paths of its own)."""
        said = _said(body)
        if status == 400 and said.startswith("Checksum mismatch"):
            problem = f"what arrived at Qdrant ({self.url}) is not the snapshot that was sent"
            return QdrantError(problem, hint="something on the way alters it; try again, or nearer to the server")
        refusal = self.of(status, body, changes="restoring a collection")
        if status != 500 or "No space left" in said:
            return refusal
        return QdrantError(
            f"Qdrant at {self.url} could not restore the snapshot: {self._shown(_WORKSPACE.sub('', said))}"
        )

    def unknown_answer(self) -> QdrantError:
        problem = f"an answer of {self.url} is not one that this tool knows"
        return QdrantUnclear(problem, hint=f"check that {URL_SETTING} is the address of a Qdrant server")

    def cause(self, error: Exception, said: bytes) -> Exception | None:
        """`error`, to be raised from; None when a traceback would print the key with what was said."""
        return None if self.key and self.key.encode() in said else error

    def _shown(self, text: str) -> str:
        """For a person: one line, 300 characters, without the key should the server repeat it."""
        line = " ".join((text.replace(self.key, "<key>") if self.key else text).split())
        return "".join(char if char.isprintable() else "?" for char in line[:300]) or "(nothing more)"


def _said(body: bytes) -> str:
    """The server's own words. What they mean is asked of these: a short key may be a part of any word."""
    text = body.decode("utf-8", "replace")
    with suppress(ValueError, LookupError, TypeError, RecursionError):
        text = str(json.loads(text)["status"]["error"])
    return text.strip()


def _is_qdrants(body: bytes) -> bool:
    """Whether an error is in Qdrant's own envelope: that of a proxy says nothing about what Qdrant does."""
    try:
        return isinstance(json.loads(body)["status"]["error"], str)
    except (ValueError, LookupError, TypeError, RecursionError):
        return False
