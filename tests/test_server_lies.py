"""After each lie a server can tell: nothing of others is gone there, and nothing that provably is ours is left.

What of an unanswered call may be ours is named with its command. Each row is asked of one collection that another
client makes snapshots of as well; what the lie itself comes to is the other tests' matter.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from tests.conftest import Cli, Result
from tests.environments import DocMindV2
from tests.returning_worlds import everything
from tests.snapshots import joined, made, pieces, recorded
from tests.standin import (
    ChunkedCut,
    CloseDelimited,
    Drip,
    Drop,
    Flip,
    ForcedGzip,
    HtmlPage,
    Stall,
    StandIn,
    WrongLength,
)

THEIRS = "theirs.snapshot"
CANDIDATE, NOTHING = True, False
"""What of ours a lie may leave: one snapshot that only might be ours, or none."""

Lie = Callable[[StandIn, str], None]


def download(fault: Any) -> Lie:
    def tell(server: StandIn, _name: str) -> None:
        server.faults.every_download = fault

    return tell


def knob(name: str, value: Any) -> Lie:
    return lambda server, _name: setattr(server.faults, name, value)


def refused(method: str, path: str, status: int, **more: Any) -> Lie:
    return lambda server, name: server.faults.refuse(method, path.format(name), status, "no", **more)


def cut_off(method: str, path: str, **more: Any) -> Lie:
    return lambda server, name: server.faults.hang_up(method, path.format(name), **more)


def elsewhere(method: str, path: str) -> Lie:
    return lambda server, name: server.faults.redirect(method, path.format(name), "http://127.0.0.1:9/", times=None)


def moved_alias(server: StandIn, name: str) -> None:
    server.faults.before("POST", "/snapshots$", lambda: server.create_alias("moved", name))


LIES: dict[str, tuple[Lie, bool]] = {
    "E1 shorter than announced": (download(WrongLength(5)), NOTHING),
    "E1 chunks that end too soon": (download(ChunkedCut(12_000, clean=True)), NOTHING),
    "E1 closed too soon": (download(CloseDelimited(12_000)), NOTHING),
    "E2 another checksum": (knob("checksum", "0" * 64), NOTHING),
    "E2 no checksum": (knob("no_checksum", True), NOTHING),
    "E2 a bit flipped": (download(Flip(12_000)), NOTHING),
    "E3 reset": (download(Drop(12_000, reset=True)), NOTHING),
    "E3 busy": (refused("GET", "/{}/snapshots/.+", 503, times=None), NOTHING),
    "E4 silent": (download(Stall(12_000, Event())), NOTHING),
    "E4 a byte now and then": (download(Drip(12_000, Event())), NOTHING),
    "E5 made, and its answer lost": (cut_off("POST", "/{}/snapshots$", served=True), CANDIDATE),
    "E6 not deleted": (knob("delete_fails", 1), NOTHING),
    "E7 sent elsewhere": (elsewhere("GET", "/{}/snapshots/"), NOTHING),
    "E8 compressed": (download(ForcedGzip()), NOTHING),
    "E8 a page": (download(HtmlPage()), NOTHING),
    "E10 an alias set": (moved_alias, NOTHING),
}


@pytest.mark.parametrize(("lie", "leaves"), LIES.values(), ids=LIES)
def test_after_each_lie_nothing_of_others_is_gone_and_nothing_of_ours_is_left(
    lie: Lie, leaves: bool, cli: Cli, env: DocMindV2, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"DOWNLOAD_RETRIES": "1", "RETRY_WAIT": "0", "STALL_TIMEOUT": "0.2", "MIN_RATE": "1e6"}.items():
        monkeypatch.setenv(f"DOCMIND_BACKUP_{name}", value)
    text = env.text_collection
    server.put_snapshot(text, THEIRS, b"theirs", age_s=60)
    before = everything(server)
    lie(server, text)

    told = create(cli, env)

    assert told.code in (0, 3), told.err
    assert json.loads((env.backups / "events.jsonl").read_text().splitlines()[-1])["event"] == "backup_created"
    tell_the_truth(server)
    after = create(cli, env)
    assert after.code in (0, 3), after.err
    assert cli("verify", "--all", "-C", env.project, "--quick").code == 0
    candidates = {one["snapshot"]: one["command"] for one in after.json()["left_on_server"]}
    assert len(candidates) == leaves
    assert all(f"/snapshots/{name}'" in command for name, command in candidates.items())
    now = everything(server)
    assert server.snapshots(text)[THEIRS] == b"theirs"
    assert {name for name in server.snapshots(text) if name not in candidates} == {THEIRS}
    assert now["collections"] == before["collections"]
    assert {key: now["aliases"][key] for key in before["aliases"]} == before["aliases"]


def test_a_snapshot_that_leads_out_is_kept_as_it_came_found_by_verify_and_never_unpacked(
    cli: Cli, env: DocMindV2, server: StandIn, tmp_path: Path
) -> None:
    """E9. The server made it, its checksum is right: only its members tell."""
    text = env.text_collection
    parts = pieces(recorded("text"))
    parts["../../../escaped"] = made("../../../escaped", b"x") + made("link", type=tarfile.SYMTYPE, linkname="/")
    hostile, name = joined(parts), f"{text}-1-2027-01-01-00-00-00.snapshot"
    server.put_snapshot(text, THEIRS, b"theirs", age_s=60)
    server.faults.before("POST", f"/{text}/snapshots$", lambda: server.put_snapshot(text, name, hostile))
    described = {"name": name, "creation_time": None, "size": len(hostile), "checksum": sha256(hostile).hexdigest()}
    answer = json.dumps({"result": described, "status": "ok", "time": 0.1}).encode()
    server.faults.answer("POST", f"/{text}/snapshots$", 200, {"content-type": "application/json"}, answer)
    there = everything(server)["collections"]

    told = create(cli, env)
    verified = cli("verify", "latest", "-C", env.project, "--json")
    restored = cli("restore", "latest", "-C", env.project, "--only", "qdrant", "--yes")

    assert told.code == 0, told.err
    (stored,) = Path(told.json()["directory"]).rglob(name)
    assert stored.read_bytes() == hostile
    assert verified.code == 4
    assert "leads out" in verified.json()[0]["findings"][0]["what"]
    assert restored.code == 4, restored.err
    assert everything(server)["collections"] == there
    assert not list(tmp_path.rglob("escaped"))


def tell_the_truth(server: StandIn) -> None:
    faults = server.faults
    faults.rules.clear()
    faults.every_download, faults.checksum, faults.no_checksum, faults.delete_fails = None, None, False, 0


def create(cli: Cli, env: DocMindV2) -> Result:
    return cli("create", "-C", env.project, "--only", "qdrant", "--collection", env.text_collection, "--json")
