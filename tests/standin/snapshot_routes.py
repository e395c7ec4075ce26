"""The snapshot part of the REST surface. Callers hold the state's lock, except for `create`."""

from __future__ import annotations

import contextlib
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.standin import engine, multipart
from tests.standin.calls import Accepted, Call, Download, Outcome, Plain, Reply
from tests.standin.faults import Faults
from tests.standin.state import RefusedError, SnapshotFile


def snapshots(call: Call) -> Outcome:
    files = call.state.snapshots(call.path["c"])
    return Reply([_description(call.faults, name, file) for name, file in files.items()])


def _description(faults: Faults, name: str, file: SnapshotFile) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name,
        "creation_time": f"{file.modified:%Y-%m-%dT%H:%M:%S}",
        "size": len(file.data),
    }
    checksum = faults.checksum or file.checksum
    return row | ({"checksum": checksum} if checksum and not faults.no_checksum else {})


def create(call: Call) -> Outcome:
    """A client that has gone away does not stop it."""
    name = call.path["c"]
    with call.state.lock:
        call.state.find(name)
    if not call.wait:
        call.later(lambda: _create(call, name))
        return Accepted()
    call.faults.hold(call.faults.create_gate)
    description = _create(call, name)
    call.faults.hold(call.faults.answer_gate)
    return Reply(description)


def _create(call: Call, name: str) -> dict[str, Any]:
    with call.state.lock:
        now = call.state.now()
        snapshot = call.state.create_snapshot(name, at=now)
        description = _description(call.faults, snapshot, call.state.snapshot(name, snapshot))
        if call.faults.spend("replace_after_create"):
            call.state.create_snapshot(name, by_another=True, at=now)
        return description


def download(call: Call) -> Outcome:
    name = call.path["s"]
    return Download(name, call.state.snapshot(call.path["c"], name))


def delete(call: Call) -> Outcome:
    """The failing one is not recorded: text by the source."""
    if call.faults.spend("delete_fails"):
        raise RefusedError(500, "Service internal error: failed to remove snapshot: Permission denied (os error 13)")
    call.state.delete_snapshot(call.path["c"], call.path["s"])
    return Reply(True)


def upload(call: Call) -> Outcome:
    _check_priority(call.query.get("priority", "snapshot"), "query parameters")
    checksum = call.query.get("checksum")
    if checksum is not None and len(checksum) != 64:
        raise RefusedError(422, _bad_checksum(checksum))
    part = multipart.find(call.headers.get("content-type", ""), call.body, "snapshot")
    if part is None:
        return Plain(b"Required field is missing: snapshot", "text/plain; charset=utf-8", 400)
    digest = engine.sha256(part.data)
    if checksum is not None and checksum != digest:
        raise RefusedError(400, f"Checksum mismatch: expected {digest}, actual {checksum}")
    if call.wait:
        _receive(call, part)
        return Reply(True)
    return _received_quietly(call, part)


def _receive(call: Call, part: multipart.Part) -> None:
    """The file stays, whatever comes of it, under the name it was sent to."""
    with call.state.lock:
        call.state.keep(call.path["c"], part.filename, part.data)
    gate, call.faults.unpack_gate = call.faults.unpack_gate, None
    call.faults.hold(gate)
    with call.state.lock:
        call.state.restore(call.path["c"], part.data)


def _received_quietly(call: Call, part: multipart.Part) -> Outcome:
    """A failure is only in the server's log."""
    with contextlib.suppress(RefusedError):
        _receive(call, part)
    return Accepted()


def _check_priority(priority: str, where: str) -> None:
    if priority not in ("no_sync", "snapshot", "replica"):
        raise RefusedError(
            400,
            f"Deserialize error in {where}: unknown variant `{priority}`, "
            "expected one of `no_sync`, `snapshot`, `replica`",
        )


def _bad_checksum(checksum: str) -> str:
    return (
        "Validation error in query parameters: [checksum: Validation error: invalid_sha256_hash "
        f'[{{"length": Number({len(checksum)}), "expected_length": Number(64), '
        f'"value": String("{checksum}")}}]]'
    )


def recover(call: Call) -> Outcome:
    """Only the files in the server's own snapshots folder; the server's `/etc` is all else there is."""
    body = call.json()
    location = urlsplit(body["location"])
    if location.scheme != "file":
        raise RefusedError(
            500,
            f"Service internal error: Http request error: error sending request for url ({body['location']})",
        )
    call.state.restore(call.path["c"], _server_file(call, unquote(location.path), body.get("checksum")))
    return Reply(True)


def _server_file(call: Call, path: str, checksum: str | None) -> bytes:
    if path.startswith("/etc/"):
        raise RefusedError(
            403, 'Forbidden: Snapshot file path must be inside the snapshots directory "/qdrant/snapshots"'
        )
    folder, _, name = path.removeprefix("/qdrant/snapshots/").partition("/")
    file = call.state.files.get(folder, {}).get(name)
    if file is None:
        raise RefusedError(400, f'Bad request: Snapshot file "{path}" does not exist')
    digest = engine.sha256(file.data)
    if checksum is not None and checksum != digest:
        raise RefusedError(400, f"Wrong input: Snapshot checksum mismatch: expected {checksum}, got {digest}")
    return file.data
