"""The REST surface: which call does what. Shapes and texts are those of the recordings.

What no recording shows says so where it stands. Snapshots are in `snapshot_routes.py`. No sockets here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.standin import config as configs
from tests.standin import engine, snapshot_routes
from tests.standin.calls import Call, Outcome, Plain, Reply, dumps
from tests.standin.state import Collection, RefusedError, check_name


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str
    serve: Callable[[Call], Outcome]
    manage: bool = False
    """A read-only key is not enough."""
    text_errors: bool = False
    """Errors are text/plain instead of JSON."""
    text_forbidden: bool = False
    """Only the 403 is text/plain."""
    open_to_all: bool = False
    """No key needed."""
    free: bool = False
    """Takes the lock itself, because it may wait at a gate."""


def route(method: str, target: str) -> tuple[Route, dict[str, str]] | None:
    """The route for a raw request target, and what its {names} stand for."""
    parts = [unquote(part) for part in urlsplit(f"//x{target}").path.split("/")]
    for candidate in ROUTES:
        if candidate.method == method and (names := _match(candidate.path.split("/"), parts)) is not None:
            return candidate, names
    return None


def query(target: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(f"//x{target}").query, keep_blank_values=True))


def _match(pattern: list[str], parts: list[str]) -> dict[str, str] | None:
    if len(pattern) != len(parts):
        return None
    pairs = list(zip(pattern, parts, strict=True))
    if any(want != part for want, part in pairs if not want.startswith("{")):
        return None
    return {want.strip("{}"): part for want, part in pairs if want.startswith("{")}


# -- server


def version(call: Call) -> Outcome:
    body = {"title": "qdrant - vector search engine", "version": call.version}
    return Plain(dumps(body), "application/json")


def text(body: str) -> Callable[[Call], Outcome]:
    return lambda _: Plain(body.encode(), "text/plain; charset=utf-8")


def cluster(call: Call) -> Outcome:
    """Two nodes: recorded in two-nodes.json."""
    state = call.state
    if state.peers == 1:
        return Reply({"status": "disabled"})
    ids = [state.peer_id + number for number in range(state.peers)]
    return Reply(
        {
            "status": "enabled",
            "peer_id": state.peer_id,
            "peers": {str(peer): {"uri": f"http://127.0.0.1:{6335 + at}/"} for at, peer in enumerate(ids)},
            "raft_info": {
                "term": 1,
                "commit": 6,
                "pending_operations": 0,
                "leader": state.peer_id,
                "role": "Leader",
                "is_voter": True,
            },
            "consensus_thread_status": {
                "consensus_thread_status": "working",
                "last_update": f"{state.now():%Y-%m-%dT%H:%M:%S}.0Z",
            },
            "message_send_failures": {},
        }
    )


# -- collections and aliases


def collections(call: Call) -> Outcome:
    return Reply({"collections": [{"name": name} for name in sorted(call.state.collections)]})


def create(call: Call) -> Outcome:
    check_name(call.path["c"])
    call.state.create(call.path["c"], call.json())
    return Reply(True)


def delete(call: Call) -> Outcome:
    """Of an unknown collection, or of an alias: not recorded; false by the source."""
    return Reply(call.state.delete(call.path["c"]))


def exists(call: Call) -> Outcome:
    """Not recorded; qdrant-client's collection_exists needs it."""
    name = call.path["c"]
    return Reply({"exists": name in call.state.collections or name in call.state.aliases})


def describe(call: Call) -> Outcome:
    collection = call.state.find(call.path["c"])
    return Reply(
        {
            "status": "green",
            "optimizer_status": "ok",
            "indexed_vectors_count": _indexed(collection),
            "points_count": len(collection.points),
            "segments_count": 2,
            "config": configs.shown(collection.config),
            "payload_schema": {
                name: _schema(collection, name, schema) for name, schema in collection.payload_index.items()
            },
            "update_queue": {"length": 0},
        }
    )


def _indexed(collection: Collection) -> int:
    """Below the indexing threshold only sparse vectors count."""
    vectors = [point["vector"] for point in collection.points.values()]
    return sum(isinstance(part, dict) for named in vectors if isinstance(named, dict) for part in named.values())


def _schema(collection: Collection, name: str, schema: Any) -> dict[str, Any]:
    holders = sum(name in point["payload"] for point in collection.points.values())
    if isinstance(schema, str):
        return {"data_type": schema, "points": holders}
    return {"data_type": schema["type"], "params": schema, "points": holders}


def collection_cluster(call: Call) -> Outcome:
    collection = call.state.find(call.path["c"])
    local = {"shard_id": 0, "points_count": len(collection.points), "state": "Active"}
    return Reply(
        {
            "peer_id": call.state.peer_id,
            "shard_count": 1,
            "local_shards": [local],
            "remote_shards": [],
            "shard_transfers": [],
        }
    )


def aliases(call: Call) -> Outcome:
    """Of one collection, or of all."""
    wanted = call.path.get("c")
    rows = [
        {"alias_name": alias, "collection_name": target}
        for alias, target in sorted(call.state.aliases.items())
        if wanted in (None, target)
    ]
    return Reply({"aliases": rows})


def change_aliases(call: Call) -> Outcome:
    for action in call.json()["actions"]:
        call.state.change_alias(action)
    return Reply(True)


# -- points


def create_index(call: Call) -> Outcome:
    body = call.json()
    return _done(call.state.create_index(call.path["c"], body["field_name"], body["field_schema"]))


def upsert(call: Call) -> Outcome:
    return _done(call.state.upsert(call.path["c"], _only(call.json(), "points")))


def delete_points(call: Call) -> Outcome:
    return _done(call.state.delete_points(call.path["c"], _only(call.json(), "points")))


def _only(body: dict[str, Any], key: str) -> Any:
    """Filters and batches are beyond the stand-in: better refused than done wrong."""
    if key not in body:
        raise RefusedError(400, f"stand-in: only `{key}` is supported here")
    return body[key]


def _done(operation: int) -> Outcome:
    return Reply({"operation_id": operation, "status": "completed"})


def count(call: Call) -> Outcome:
    body = call.json()
    collection = call.state.find(call.path["c"])
    _no_filter(body)
    return Reply({"count": len(collection.points)})


def scroll(call: Call) -> Outcome:
    body = call.json()
    _no_filter(body)
    name = call.path["c"]
    points = call.state.settle(name) if body.get("with_vector") else call.state.find(name).sorted_points()
    ids = [point["id"] for point in points]
    start = _position(points, body.get("offset"))
    end = start + (body.get("limit") or 10)
    page = [_record(point, body) for point in points[start:end]]
    return Reply({"points": page, "next_page_offset": ids[end] if end < len(ids) else None})


def _position(points: list[engine.Point], offset: int | str | None) -> int:
    """Of the first point that is not before `offset`, which may be gone by now."""
    if offset is None:
        return 0
    order = [(isinstance(point["id"], str), point["id"]) for point in points]
    return sum(place < (isinstance(offset, str), offset) for place in order)


def _no_filter(body: dict[str, Any]) -> None:
    if body.get("filter"):
        raise RefusedError(400, "stand-in: filters are not supported")


def _record(point: engine.Point, body: dict[str, Any]) -> dict[str, Any]:
    record = {"id": point["id"]}
    if keys := body.get("with_payload", True):
        record["payload"] = _selected(point["payload"], keys)
    if body.get("with_vector"):
        record["vector"] = point["vector"]
    return record


def _selected(payload: dict[str, Any], keys: Any) -> dict[str, Any]:
    """All of it, or a list of keys, or `{"include": [...]}`: by the API's description, not recorded."""
    if keys is True:
        return payload
    wanted = keys["include"] if isinstance(keys, dict) else keys
    return {key: value for key, value in payload.items() if key in wanted}


ROUTES = (
    Route("GET", "/", version, open_to_all=True),
    Route("GET", "/healthz", text("healthz check passed"), open_to_all=True),
    Route("GET", "/livez", text("healthz check passed"), open_to_all=True),
    Route("GET", "/readyz", text("all shards are ready"), open_to_all=True),
    Route("GET", "/cluster", cluster),
    Route("GET", "/collections", collections),
    Route("GET", "/aliases", aliases),
    Route("POST", "/collections/aliases", change_aliases, manage=True),
    Route("GET", "/collections/{c}", describe),
    Route("PUT", "/collections/{c}", create, manage=True),
    Route("DELETE", "/collections/{c}", delete, manage=True),
    Route("GET", "/collections/{c}/exists", exists),
    Route("GET", "/collections/{c}/aliases", aliases),
    Route("GET", "/collections/{c}/cluster", collection_cluster),
    Route("PUT", "/collections/{c}/index", create_index, manage=True),
    Route("PUT", "/collections/{c}/points", upsert, manage=True),
    Route("POST", "/collections/{c}/points/count", count),
    Route("POST", "/collections/{c}/points/scroll", scroll),
    Route("POST", "/collections/{c}/points/delete", delete_points, manage=True),
    Route("GET", "/collections/{c}/snapshots", snapshot_routes.snapshots),
    Route("POST", "/collections/{c}/snapshots", snapshot_routes.create, manage=True, free=True),
    Route(
        "POST", "/collections/{c}/snapshots/upload", snapshot_routes.upload, manage=True, text_forbidden=True, free=True
    ),
    Route("PUT", "/collections/{c}/snapshots/recover", snapshot_routes.recover, manage=True),
    Route("GET", "/collections/{c}/snapshots/{s}", snapshot_routes.download, text_errors=True),
    Route("DELETE", "/collections/{c}/snapshots/{s}", snapshot_routes.delete, manage=True),
)
