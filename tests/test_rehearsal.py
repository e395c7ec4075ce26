"""`verify --rehearse`: restored into scratch and checked; nothing live is touched, and nothing of it stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("qdrant_edge")

from tests.catalogs import flip, only_backup, record
from tests.conftest import Cli, Result
from tests.core import values
from tests.environments import DocMindV2
from tests.restored import look
from tests.returning_worlds import everything
from tests.standin import StandIn
from tests.test_face import in_terminal

from docmind_backup import deep, rehearsal, scratch_collections
from docmind_backup.bringing import Brought, bring
from docmind_backup.cli import main
from docmind_backup.compose import now
from docmind_backup.core import format as fmt
from docmind_backup.core.model import Backup, Part, ignore
from docmind_backup.core.server import RestoreTarget
from docmind_backup.core.verifier import Altered, Verification
from docmind_backup.errors import QdrantError, QdrantRefused, QdrantUnclear, QdrantUnreachable
from docmind_backup.qdrant import connect
from docmind_backup.sample import build_sample
from docmind_backup.verify import verify

PREFIX = "docmind-backup-scratch-"
BEFORE, AFTER = False, True


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


@pytest.fixture
def made(cli: Cli, env: DocMindV2) -> DocMindV2:
    assert cli("create", "-C", env.project).code == 0
    return env


def rehearse(cli: Cli, env: DocMindV2, *args: object) -> Result:
    return cli("verify", "latest", "--rehearse", "-C", env.project, "--json", *args)


def outcome(done: Result) -> dict[str, Any]:
    (found,) = done.json()
    return found


def state_of(env: DocMindV2) -> Path:
    return env.backups / ".state"


def notes(env: DocMindV2) -> list[Path]:
    return sorted((state_of(env) / "scratch").glob("*"))


def live(env: DocMindV2) -> dict[str, tuple[Any, ...]]:
    """Everything of the environment and its backups, but what is remembered of them; a `-shm` has no content."""
    ours = str(state_of(env))[len(str(env.project)) :]
    return {
        path: what
        for path, what in look(env.project).items()
        if not path.startswith(ours) and not path.endswith("-shm") and what[0] != "folder"
    }


# -- a backup that is right ----------------------------------------------------------------------


def test_all_of_it_comes_back_to_scratch_and_nothing_live_changes(
    cli: Cli, made: DocMindV2, server: StandIn, scratch: Path
) -> None:
    before, there = live(made), everything(server)

    done = rehearse(cli, made)

    assert done.code == 0, done.err
    found = outcome(done)
    checks = {each["what"]: each["found"] for each in found["rehearsed"]["checks"]}
    assert found["rehearsed"]["whole"] is True
    assert found["unproved"] == found["findings"] == []
    assert checks["data/chat.db"].startswith("opened, ")
    assert checks["cache/docmind.duckdb"].startswith("opened, ")
    assert checks["uploads (corpus hash)"] == "as the active index snapshot knows them"
    assert checks[made.text_collection].startswith("25 points, configured as recorded; ids and payloads of all")
    assert checks[made.image_collection].startswith("7 points, configured as recorded; ids and payloads of all")
    assert live(made) == before
    assert everything(server) == there
    assert notes(made) == []
    assert list(scratch.iterdir()) == []
    uploaded = {r.path.split("/")[2] for r in server.requests if r.method == "POST" and r.path.endswith("/upload")}
    assert len(uploaded) == 2
    assert all(name.startswith(PREFIX) for name in uploaded)


def test_the_env_file_stays_out_of_scratch(cli: Cli, env: DocMindV2) -> None:
    assert cli("create", "-C", env.project, "--include-env").code == 0
    said = rehearse(cli, env)
    assert said.code == 0, said.err
    assert outcome(said)["rehearsed"]["remarks"] == [".env was not copied to scratch: it holds secrets"]


def test_list_and_show_say_when_it_was_proven(cli: Cli, made: DocMindV2) -> None:
    assert "Proven" not in cli("list", "-C", made.project).out
    assert rehearse(cli, made).code == 0

    (listed,) = [one for one in cli("list", "-C", made.project, "--json").json() if one["kind"] == "backup"]
    assert listed["rehearsed_at"] == listed["verified_at"]
    assert "Proven" in cli("list", "-C", made.project).out
    seen = in_terminal(made.project, "list", columns=80)
    (heading,) = [line for line in seen.lines if "Verified" in line]
    assert "Proven" in heading
    assert len([line for line in seen.lines if "complete" in line]) == 1, "a line each"
    assert "restored to scratch" in cli("show", "latest", "-C", made.project).out


def test_the_date_outlives_a_verification_that_only_reads(cli: Cli, made: DocMindV2) -> None:
    assert rehearse(cli, made).code == 0
    (seal,) = (state_of(made) / "seals").glob("*.json")
    first = json.loads(seal.read_bytes())["rehearsed_at"]

    assert cli("verify", "-C", made.project).code == 0

    after = json.loads(seal.read_bytes())
    assert after["rehearsed_at"] == first
    assert after["verified_at"] > first


def test_a_seal_with_and_without_the_date_can_be_read() -> None:
    seal = fmt.read_seal(b'{"record_sha256": "ab", "verified_at": null, "level": "part", "intact": true}')
    assert seal.rehearsed_at is None
    dated = replace(seal, rehearsed_at=now() - timedelta(days=1))
    assert fmt.read_seal(fmt.seal_bytes(dated)) == dated


def test_max_age_asks_for_the_last_rehearsal(cli: Cli, made: DocMindV2) -> None:
    assert cli("verify", "-C", made.project).code == 0
    assert outcome(rehearse(cli, made, "--max-age", "30d"))["rehearsed"]["whole"] is True
    assert outcome(rehearse(cli, made, "--max-age", "30d"))["verdict"] == "not read"


@pytest.mark.parametrize("also", [("--quick",), ("--sample", "10%")])
def test_it_restores_whole_backups(cli: Cli, also: tuple[str, ...]) -> None:
    done = cli("verify", "--rehearse", *also)
    assert done.code == 2
    assert f"--rehearse restores whole backups: it contradicts {also[0]}" in done.err


# -- what cannot be tried ------------------------------------------------------------------------


def not_proven(cli: Cli, env: DocMindV2, done: Result, why: str) -> None:
    assert done.code == 5, done.err
    found = outcome(done)
    assert found["findings"] == []
    assert found["rehearsed"]["whole"] is False
    assert why in " ".join(each["why"] for each in found["unproved"])
    listed = cli("list", "-C", env.project, "--json").json()
    assert [one["rehearsed_at"] for one in listed] == [None]
    assert [one["verified"] for one in listed] == ["intact"], "what was read is remembered all the same"


def test_without_a_server_the_files_are_tried(cli: Cli, made: DocMindV2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCMIND_DATABASE__QDRANT_URL", "http://127.0.0.1:1")
    done = rehearse(cli, made)
    not_proven(cli, made, done, "not restored: ")
    assert "files" in {each["what"] for each in outcome(done)["rehearsed"]["checks"]}


def test_a_key_that_may_only_read_is_told_before_any_data_moves(cli: Cli, made: DocMindV2, server: StandIn) -> None:
    server.faults.refuse("PUT", PREFIX, 403, "Forbidden: Global manage access is required", times=None)
    server.faults.refuse("DELETE", PREFIX, 403, "Forbidden: Global manage access is required", times=None)
    not_proven(cli, made, rehearse(cli, made), "the API key is read-only")
    assert not [r for r in server.requests if r.path.endswith("/upload")]
    assert notes(made) == []
    assert [r.method for r in server.requests if r.path.startswith(f"/collections/{PREFIX}")] == ["PUT", "PUT"]


def test_what_the_server_cannot_take_is_no_damage(cli: Cli, made: DocMindV2, server: StandIn) -> None:
    there = everything(server)
    server.faults.refuse("POST", "/upload$", 500, "Service internal error: No space left on device", times=None)
    not_proven(cli, made, rehearse(cli, made), "disk of the Qdrant server")
    assert everything(server) == there
    assert notes(made) == []


def test_no_room_for_scratch_is_no_damage(cli: Cli, made: DocMindV2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docmind_backup.scratch.KEEP_FREE", 2**62)
    not_proven(cli, made, rehearse(cli, made), "of scratch space are needed")


def test_without_the_extra_a_sample_is_looked_at(cli: Cli, made: DocMindV2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep, "missing", lambda package: f"{package} is not installed")
    done = rehearse(cli, made)
    assert done.code == 0, done.err
    checks = {each["what"]: each["found"] for each in outcome(done)["rehearsed"]["checks"]}
    assert checks[made.text_collection].endswith("10 points looked at with payloads and vectors")
    assert any("was restored and not opened" in remark for remark in outcome(done)["rehearsed"]["remarks"])


def test_another_tools_backup_is_refused_in_words(cli: Cli, made: DocMindV2, tmp_path: Path) -> None:
    theirs = tmp_path / "backup_20260101_000000"
    theirs.mkdir()
    (theirs / "manifest.json").write_text(json.dumps({"created_at": "2026-01-01T00:00:00Z", "included": []}))
    done = cli("verify", theirs, "--rehearse", "-C", made.project, "--json")
    assert done.code in (4, 5)
    assert "restored" not in done.err


# -- damage --------------------------------------------------------------------------------------


def test_what_the_server_counts_otherwise_is_damage(cli: Cli, made: DocMindV2, server: StandIn) -> None:
    there = everything(server)
    body = json.dumps({"result": {"count": 24}, "status": "ok", "time": 0.0}).encode()
    server.faults.answer("POST", f"{PREFIX}.*/count$", 200, {"content-type": "application/json"}, body, times=1)

    done = rehearse(cli, made)

    assert done.code == 4
    (finding,) = outcome(done)["findings"]
    assert "restored, it has 24 points instead of 25" in finding["what"]
    (listed,) = cli("list", "-C", made.project, "--json").json()
    assert (listed["verified"], listed["rehearsed_at"]) == ("damaged", None)
    assert everything(server) == there


def test_other_payloads_on_the_server_are_damage(cli: Cli, made: DocMindV2, server: StandIn) -> None:
    there = everything(server)
    server.faults.after("POST", f"{PREFIX}.*/upload", lambda: alter(server))
    done = rehearse(cli, made)
    assert done.code == 4
    assert "its ids and payloads are not those" in outcome(done)["findings"][0]["what"]
    assert everything(server) == there


def alter(server: StandIn) -> None:
    """The server has lost the payload of one point."""
    (name,) = [name for name in server.state.collections if name.startswith(PREFIX)]
    collection = server.state.collections[name]
    first = collection.sorted_points()[0]
    collection.points[first["id"]] = {**first, "payload": {}}


def test_a_damaged_backup_is_not_restored(cli: Cli, made: DocMindV2, server: StandIn) -> None:
    (backup,) = made.backups.glob("backup_*")
    path = next((backup / "data/uploads").glob("*"))
    path.chmod(0o600)
    path.write_bytes(b"rot")
    asked = len(server.requests)
    done = rehearse(cli, made)
    assert done.code == 4
    assert outcome(done)["rehearsed"] is None
    assert not [r for r in server.requests[asked:] if r.path.endswith("/upload")]


# -- what came otherwise than it is recorded -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kept:
    """A backup of an embedded environment, read and found intact."""

    backup: Backup
    found: Verification

    def rehearsed(
        self, folder: Path, *parts: Part, server: RestoreTarget | None = None, **changes: Any
    ) -> Verification:
        """These parts of it, its record with these changes."""
        sources = tuple(source for source in self.backup.record.sources if source.part in parts)
        backup = replace(self.backup, record=replace(self.backup.record, sources=sources, **changes))
        return rehearsal.rehearse(self.found, backup, rehearsal.Stage(server, folder / "notes"), ignore)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    top = tmp_path_factory.mktemp("kept")
    build_sample(top / "docmind", documents=1)
    embedded = top / "docmind" / "data" / "qdrant-embedded"
    where = ["-C", str(top / "docmind"), "--dest", str(top / "root"), "--qdrant-path", str(embedded)]
    assert main(["create", *where, "--quiet"]) == 0
    directory = only_backup(top / "root")
    return Kept(Backup(directory, record(directory)), verify(directory))


def test_another_deployment_than_the_recorded_one_is_damage(kept: Kept, tmp_path: Path) -> None:
    done = kept.rehearsed(tmp_path, Part.IDENTITY, scope=replace(kept.backup.record.scope, deployment_id="another"))

    (finding,) = done.findings
    assert isinstance(finding, Altered)
    assert (finding.path, finding.what.partition(" is ")[0]) == ("data/.deployment-id", "restored, it")
    assert done.rehearsed
    assert not done.rehearsed.whole


def test_other_points_than_the_recorded_ones_are_damage(kept: Kept, tmp_path: Path) -> None:
    qdrant = kept.backup.record.qdrant
    assert qdrant
    first, *others = qdrant.collections
    more = replace(first, points_min=first.points_min + 1, points_max=first.points_max + 1)

    done = kept.rehearsed(tmp_path, Part.QDRANT, qdrant=replace(qdrant, collections=(more, *others)))

    (finding,) = done.findings
    assert isinstance(finding, Altered)
    assert finding.path == first.path
    assert finding.what.startswith(f"restored, it has {first.points_min} point")


def test_what_the_scratch_folder_returns_otherwise_is_not_proven(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backup is sound, and the disk of TMPDIR is not."""

    def rots(*args: Any) -> tuple[Brought, ...]:
        brought = bring(*args)
        (uploads,) = [one.piece for one in brought if one.piece.stored == "data/uploads"]
        flip(Path(uploads.staged(), "document-00.pdf"), at=100)
        return brought

    monkeypatch.setattr(rehearsal, "bring", rots)

    done = kept.rehearsed(tmp_path, Part.UPLOADS)

    assert done.findings == ()
    assert [one.what for one in done.unproved] == ["files"]
    assert "document-00.pdf: it is not what was restored (sha256)" in done.unproved[0].why
    assert done.rehearsed
    assert not done.rehearsed.whole


def test_what_one_node_cannot_take_is_not_uploaded(kept: Kept, tmp_path: Path, server: StandIn) -> None:
    custom = values.qdrant(values.captured("docs", sharding="custom"))

    with connect(server.url) as target:
        done = kept.rehearsed(tmp_path, server=target, qdrant=custom)

    assert done.findings == ()
    assert ["docs has custom sharding" in one.why for one in done.unproved] == [True]
    assert not [request for request in server.requests if request.method in ("PUT", "POST")]


# -- notes -----------------------------------------------------------------------------------------


@pytest.fixture
def target(server: StandIn) -> Iterator[RestoreTarget]:
    with connect(server.url) as connected:
        yield connected


def left_over(folder: Path, server: RestoreTarget, *, url: str = "") -> scratch_collections.Note:
    """The note of a run that was killed, and its collection, which is there."""
    token = "0123456789abcdef"
    note = scratch_collections.Note(
        url or server.url, f"{PREFIX}b-{token}", f"docmind-backup-{token}.snapshot", server.now().isoformat()
    )
    folder.mkdir()
    (folder / f"{token}.json").write_text(json.dumps(asdict(note)) + "\n")
    server.create_collection(note.name)
    return note


def test_what_was_noted_of_another_server_is_left_to_that_one(target: RestoreTarget, tmp_path: Path) -> None:
    note = left_over(tmp_path / "notes", target, url="http://another:6333")

    assert scratch_collections.clean(tmp_path / "notes", target) == ()

    assert note.name in target.names()
    assert len(list((tmp_path / "notes").iterdir())) == 1


def test_an_upload_without_an_answer_is_noted_for_a_day(
    target: RestoreTarget, tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may still bring its collection forth."""
    note = left_over(tmp_path / "notes", target)

    assert scratch_collections.clean(tmp_path / "notes", target) == (note.name,)
    assert len(list((tmp_path / "notes").iterdir())) == 1
    target.create_collection(note.name)
    monkeypatch.setattr(scratch_collections, "LATE", timedelta(seconds=-1))
    assert scratch_collections.clean(tmp_path / "notes", target) == (note.name,)
    assert list((tmp_path / "notes").iterdir()) == []
    assert server.state.collections == {}


@pytest.mark.parametrize(
    ("error", "noted"),
    [(QdrantUnreachable("fell silent"), 1), (QdrantUnclear("answered 520"), 1), (QdrantRefused("read-only"), 0)],
)
def test_an_upload_that_may_come_later_stays_noted(
    target: RestoreTarget, tmp_path: Path, error: QdrantError, noted: int
) -> None:
    def upload() -> None:
        with scratch_collections.scratch_collection(tmp_path / "notes", target, "b"):
            raise error

    with pytest.raises(type(error)):
        upload()

    assert len(list((tmp_path / "notes").iterdir())) == noted


# -- ended at any moment -------------------------------------------------------------------------


class Run:
    """`docmind-backup verify --rehearse` as users run it."""

    def __init__(self, env: DocMindV2) -> None:
        command = [sys.executable, "-m", "docmind_backup", "verify", "latest", "--rehearse", "-C", str(env.project)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def end(self) -> tuple[int, str]:
        out, err = self._process.communicate()
        return self._process.returncode, out + err


MOMENTS: dict[str, tuple[str, str, bool]] = {
    "noted": ("PUT", PREFIX, BEFORE),
    "probed": ("DELETE", f"{PREFIX}[^/]*$", BEFORE),
    "before the upload": ("POST", f"{PREFIX}.*/upload", BEFORE),
    "uploaded": ("POST", f"{PREFIX}.*/upload", AFTER),
    "before the file is deleted": ("DELETE", f"{PREFIX}.*/snapshots/", BEFORE),
    "the file is deleted": ("DELETE", f"{PREFIX}.*/snapshots/", AFTER),
    "before the points are read": ("POST", f"{PREFIX}.*/scroll", BEFORE),
}


def at(server: StandIn, moment: str, act: Callable[[], object]) -> None:
    method, pattern, after = MOMENTS[moment]
    (server.faults.after if after else server.faults.before)(method, pattern, act)


@pytest.mark.parametrize(
    ("moment", "next_one"), [(moment, ("create", "rehearse")[at % 2]) for at, moment in enumerate(MOMENTS)]
)
def test_what_a_killed_rehearsal_left_the_next_run_removes(
    cli: Cli, made: DocMindV2, server: StandIn, scratch: Path, moment: str, next_one: str
) -> None:
    there, before = everything(server), live(made)
    runs: list[Run] = []
    at(server, moment, lambda: runs[0].signal(signal.SIGKILL))
    server.faults.hang_up(*MOMENTS[moment][:2], served=MOMENTS[moment][2])

    runs.append(Run(made))
    assert runs[0].end()[0] == -signal.SIGKILL
    server.faults.rules.clear()
    assert len(notes(made)) == 1
    assert live(made) == before

    if next_one == "create":
        assert cli("create", "-C", made.project).code == 0
    else:
        assert rehearse(cli, made).code == 0
        assert list(scratch.iterdir()) == []

    after = everything(server)
    assert [name for name in (*after["collections"], *after["files"]) if name.startswith(PREFIX)] == []
    assert after["collections"] == there["collections"]
    assert after["files"] == there["files"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["uploaded", "before the points are read"])
def test_a_signal_cleans_up_at_once(
    made: DocMindV2, server: StandIn, scratch: Path, number: signal.Signals, moment: str
) -> None:
    there, before = everything(server), live(made)
    runs: list[Run] = []
    at(server, moment, lambda: runs[0].signal(number))

    runs.append(Run(made))
    code, said = runs[0].end()

    assert code == 128 + number, said
    assert "Traceback" not in said
    assert everything(server) == there
    assert live(made) == before
    assert list(scratch.iterdir()) == []


def test_a_rehearsal_that_goes_on_keeps_its_collections(cli: Cli, made: DocMindV2, server: StandIn) -> None:
    """A backup is made meanwhile: what is noted and in use is not left over."""
    codes: list[int] = []

    def meanwhile() -> None:
        command = [sys.executable, "-m", "docmind_backup", "create", "-C", str(made.project)]
        codes.append(subprocess.run(command, capture_output=True, check=False).returncode)

    server.faults.before("POST", f"{PREFIX}.*/scroll", meanwhile)
    done = rehearse(cli, made)
    assert codes == [0]
    assert done.code == 0, done.out


def test_a_note_of_something_else_deletes_nothing(cli: Cli, made: DocMindV2, server: StandIn) -> None:
    there = everything(server)
    folder = state_of(made) / "scratch"
    folder.mkdir()
    note = {"url": server.url, "file": f"docmind-backup-{'0' * 16}.snapshot", "asked_at": "2026-01-01T00:00:00+00:00"}
    for number, name in enumerate((made.text_collection, f"{PREFIX}../{made.text_collection}")):
        (folder / f"{number}.json").write_text(json.dumps({**note, "name": name}) + "\n")
    (folder / "empty.json").write_text("")
    assert cli("create", "-C", made.project, "--only", "uploads", "--only", "qdrant").code == 0
    assert everything(server) == there
    assert sorted(path.name for path in folder.iterdir()) == ["0.json", "1.json"]
