"""What `restore-plan` promises: the truth about this target as it is now, and nothing on it changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.catalogs import backups, clone, contents, flip, only_backup, overwrite, record
from tests.conftest import Cli
from tests.environments import DocMindV2, build_v1, build_v2, crash, live, snapshot_of_sources
from tests.standin import StandIn

from docmind_backup.core.model import Omission, Part, Placement, Reason
from docmind_backup.sample import build_sample


@pytest.fixture
def backup(cli: Cli, env: DocMindV2) -> Path:
    """A complete backup of the environment, which is also the target."""
    assert cli("create", "-C", env.project, "--include-env", "--quiet").code == 0
    return only_backup(env.backups)


Plan = Callable[..., tuple[int, Any]]


@pytest.fixture
def plan(cli: Cli, env: DocMindV2, backup: Path) -> Plan:
    """Exit code and document of `restore-plan --json`."""

    def run(*options: object) -> tuple[int, Any]:
        result = cli("restore-plan", "-C", env.project, "--json", *options)
        assert "Traceback" not in result.err
        return result.code, json.loads(result.out or result.err)

    return run


def only_step(document: Any, action: str, what: str) -> Any:
    (found,) = [s for s in document["steps"] if (s["action"], s["what"]) == (action, what)]
    return found


# -- the plan ------------------------------------------------------------------------------------


def test_a_restore_over_the_same_environment_is_planned_whole(plan: Plan, env: DocMindV2, backup: Path) -> None:
    code, document = plan()

    assert (code, document["blockers"]) == (0, [])
    assert (document["backup"], document["directory"]) == (record(backup).id, str(backup))
    order = list(dict.fromkeys(step["action"] for step in document["steps"]))
    assert order == ["check", "stop", "move aside", "copy", "merge by hand", "upload", "start"]
    targets = {s["what"]: s["target"] for s in document["steps"] if s["action"] == "copy"}
    assert targets["data/chat.db"] == str(env.chat_db)
    assert targets["cache/docmind.duckdb"] == str(env.cache_db)
    assert targets["data/uploads"] == str(env.uploads)
    assert document["bytes"] == sum(step["bytes"] for step in document["steps"])
    for space in document["space"]:
        assert space["free"] > space["needed"] > 0
    checks = {check["what"]: check["expected"] for check in document["checks"]}
    assert checks["data/storage/CURRENT"] == env.index_snapshot
    assert checks["data/.deployment-id"] == env.deployment_id
    assert checks[f"points in {env.text_collection}"] == "25"
    assert checks[f"points in {env.image_collection}"] == "7"


def test_collections_that_exist_are_named_as_overwritten_with_what_they_hold_now(
    plan: Plan, env: DocMindV2, server: StandIn
) -> None:
    server.delete_collection(env.image_collection)
    server.delete_points(env.text_collection, [server.points(env.text_collection)[0]["id"]])
    saved = record(only_backup(env.backups)).qdrant
    assert saved
    path = {c.name: c.path for c in saved.collections}

    code, document = plan()

    assert code == 0
    assert "24 points" in only_step(document, "upload", path[env.text_collection])["overwrites"]
    assert only_step(document, "upload", path[env.image_collection])["overwrites"] == ""


def test_people_read_the_same_as_programs(cli: Cli, env: DocMindV2, backup: Path) -> None:
    told = cli("restore-plan", "-C", env.project)

    assert told.code == 0
    assert "overwrites the collection of that name, 25 points" in told.out
    assert str(env.chat_db) in told.out
    assert "BLOCKED" not in told.out
    assert "next: " in told.err


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_planning_changes_nothing_anywhere(
    cli: Cli, env: DocMindV2, backup: Path, server: StandIn, options: tuple[str, ...]
) -> None:
    sources, root, asked = snapshot_of_sources(env), contents(env.backups), len(server.requests)

    assert cli("restore-plan", "-C", env.project, *options).code == 0

    assert snapshot_of_sources(env) == sources
    assert contents(env.backups) == root
    assert {(r.method, r.path.endswith("/points/count")) for r in server.requests[asked:]} <= {
        ("GET", False),
        ("POST", True),
    }


def test_an_empty_target_has_nothing_to_move_aside(
    cli: Cli, tmp_path: Path, env: DocMindV2, backup: Path, server: StandIn
) -> None:
    for name in list(server.collections()):
        server.delete_collection(name)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    shutil.copy(env.env_file, fresh / ".env")

    result = cli("restore-plan", backup, "-C", fresh, "--json")

    document = result.json()
    assert (result.code, document["blockers"]) == (0, [])
    assert {s["action"] for s in document["steps"]} == {"check", "stop", "copy", "merge by hand", "upload", "start"}
    assert {s["overwrites"] for s in document["steps"] if s["action"] == "upload"} == {""}
    assert all(s["target"].startswith(str(fresh)) for s in document["steps"] if s["action"] == "copy")
    assert sorted(path.name for path in fresh.iterdir()) == [".env"]


def test_a_v1_backup_says_that_times_must_be_kept(cli: Cli, tmp_path: Path, server: StandIn) -> None:
    env = build_v1(tmp_path / "v1", server)
    assert cli("create", "-C", env.project, "--include-uploads", "--quiet").code == 0

    result = cli("restore-plan", "-C", env.project, "--json")

    assert result.code == 0
    assert any("nanosecond" in note for note in only_step(result.json(), "copy", "data/uploads")["notes"])


def test_a_v1_backup_for_a_v2_target_is_warned_of(cli: Cli, tmp_path: Path, env: DocMindV2, server: StandIn) -> None:
    old = build_v1(tmp_path / "v1", server)
    assert cli("create", "-C", old.project, "--quiet").code == 0

    result = cli("restore-plan", only_backup(old.backups), "-C", env.project, "--json")

    assert any("v1" in warning and "v2" in warning for warning in result.json()["warnings"])


def test_a_backup_of_an_embedded_qdrant_needs_no_server(cli: Cli, tmp_path: Path) -> None:
    sample = build_sample(tmp_path / "sample", embedded=True)
    assert sample.qdrant_path
    where = ("-C", sample.project, "--qdrant-path", sample.qdrant_path)
    assert cli("create", *where, "--quiet").code == 0

    result = cli("restore-plan", *where, "--json")

    document = result.json()
    assert (result.code, document["blockers"]) == (0, [])
    assert only_step(document, "copy", "qdrant-embedded")["target"] == str(sample.qdrant_path)
    assert any("pickle" in warning for warning in document["warnings"])


# -- the application is there --------------------------------------------------------------------


def test_the_sidecars_of_a_live_application_are_named_and_leave_with_their_database(plan: Plan, env: DocMindV2) -> None:
    with live(env):
        _, document = plan()

    step = only_step(document, "move aside", "data/chat.db")
    assert step["notes"] == ["with chat.db-wal", "with chat.db-shm"]


def test_the_sidecars_that_a_crash_left_are_named(plan: Plan, env: DocMindV2) -> None:
    crash(env)

    _, document = plan()

    assert only_step(document, "move aside", "data/chat.db")["notes"] == ["with chat.db-wal", "with chat.db-shm"]
    assert only_step(document, "move aside", "cache/docmind.duckdb")["notes"] == ["with docmind.duckdb.wal"]


def test_a_stale_sidecar_without_its_database_has_to_go_too(plan: Plan, env: DocMindV2) -> None:
    env.chat_db.unlink()
    env.chat_db.with_name("chat.db-wal").write_bytes(b"stale")

    _, document = plan()

    assert only_step(document, "move aside", "data/chat.db")["notes"] == ["with chat.db-wal"]


def test_the_application_is_to_be_stopped_before_anything_moves(plan: Plan) -> None:
    _, document = plan()

    actions = [step["action"] for step in document["steps"]]
    assert actions.index("stop") < min(actions.index(a) for a in ("move aside", "copy", "upload"))


# -- what stands in the way ----------------------------------------------------------------------


def test_an_alias_with_a_collections_name_is_switched_and_what_it_points_to_stays(
    plan: Plan, env: DocMindV2, server: StandIn
) -> None:
    server.delete_collection(env.image_collection)
    server.create_collection("precious")
    server.create_alias(env.image_collection, "precious")

    code, document = plan()

    assert code == 0
    (upload,) = [s for s in document["steps"] if s["action"] == "upload" and env.image_collection in s["target"]]
    assert not upload["overwrites"]
    (note,) = upload["notes"]
    assert f"{env.image_collection} is an alias of precious" in note
    assert "precious stays" in note


def test_a_collection_with_the_name_of_a_saved_alias_blocks(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    server.create_alias("docs", env.text_collection)
    assert cli("create", "-C", env.project, "--quiet").code == 0
    server.delete_alias("docs")
    server.create_collection("docs")

    result = cli("restore-plan", "-C", env.project, "--json")

    assert result.code == 3
    (blocker,) = result.json()["blockers"]
    assert f"docs is an alias of {env.text_collection} in the backup and a collection on the target" in blocker


def test_an_alias_that_points_elsewhere_now_is_a_warning(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    server.create_alias("docs", env.text_collection)
    assert cli("create", "-C", env.project, "--quiet").code == 0
    server.create_alias("docs", env.image_collection)

    result = cli("restore-plan", "-C", env.project, "--json")

    assert result.code == 0
    assert any("docs points to" in warning for warning in result.json()["warnings"])
    assert only_step(result.json(), "set alias", "docs")["target"] == env.text_collection


@pytest.mark.parametrize(("version", "code"), [("1.18.2", 3), ("1.17.0", 3), ("1.19.0", 0), ("1.20.0", 3)])
def test_a_server_of_another_version_blocks_unless_it_is_the_next_minor(
    plan: Plan, server: StandIn, version: str, code: int
) -> None:
    server.version = version

    found, document = plan()

    assert found == code
    assert any(version in blocker and "1.18.3" in blocker for blocker in document["blockers"]) is bool(code)


def test_a_server_that_does_not_answer_blocks_and_the_rest_is_planned(
    plan: Plan, cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    server.close()

    code, document = plan()

    assert code == 3
    (blocker,) = document["blockers"]
    assert server.url in blocker
    assert only_step(document, "copy", "data/chat.db")
    told = cli("restore-plan", "-C", env.project)
    assert told.code == 3
    assert told.out.startswith("BLOCKED: ")
    assert "next: " in told.err


def test_a_target_without_qdrant_blocks_where_collections_are_to_come_back(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMIND_BACKUP_QDRANT", "off")

    code, document = plan()

    assert code == 3
    assert any("none is configured" in blocker for blocker in document["blockers"])


def test_a_backup_that_was_found_damaged_blocks(plan: Plan, cli: Cli, env: DocMindV2, backup: Path) -> None:
    flip(backup / "data" / "chat.db", 100)
    assert cli("verify", backup, "-C", env.project).code == 4

    code, document = plan(backup)

    assert code == 3
    assert any("damage" in blocker for blocker in document["blockers"])


def test_something_else_in_a_sources_place_blocks(plan: Plan, env: DocMindV2) -> None:
    env.chat_db.unlink()
    env.chat_db.mkdir()

    code, document = plan()

    assert code == 3
    assert any(str(env.chat_db) in blocker for blocker in document["blockers"])


def test_a_snapshot_that_lacks_a_shard_of_another_node_blocks(plan: Plan, backup: Path) -> None:
    saved = record(backup).qdrant
    assert saved
    assert [c.state.placement for c in saved.collections] == [Placement((0,))] * 2
    lacking = replace(saved.collections[0].state, placement=Placement((1,), (0,)))
    of_two = replace(saved, collections=(replace(saved.collections[0], state=lacking), saved.collections[1]))

    code, document = plan(clone(backup, 9, qdrant=of_two))

    assert code == 3
    (blocker,) = document["blockers"]
    assert blocker.startswith(f"{lacking.name}: shard 0 was on another node of a cluster")
    assert "missing data at shard" in blocker


# -- keys and counts -----------------------------------------------------------------------------


def key_of(document: Any, what: str) -> str:
    (note,) = [check["note"] for check in document["checks"] if check["what"] == what]
    return str(note)


def test_the_same_secret_on_the_target_is_said_and_is_no_warning(plan: Plan) -> None:
    _, document = plan()

    assert key_of(document, "HMAC secret") == "the target has the same"
    assert not any("HMAC" in warning for warning in document["warnings"])


@pytest.mark.parametrize(
    ("secret", "note", "words"),
    [
        ("another-secret-of-more-than-32-bytes", "another one", "is not the backup's"),
        ("", "none", "has no HMAC secret"),
    ],
)
def test_another_secret_or_none_is_a_warning_that_shows_neither(
    plan: Plan, env: DocMindV2, secret: str, note: str, words: str
) -> None:
    lines = env.env_file.read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("DOCMIND_HASHING__HMAC_SECRET=")]
    original = line.partition("=")[2]
    others = [line for line in lines if original not in line]
    env.env_file.write_text("\n".join([*others, *([f"DOCMIND_HASHING__HMAC_SECRET={secret}"] if secret else []), ""]))

    code, document = plan()

    assert (code, document["blockers"]) == (0, [])
    assert key_of(document, "HMAC secret") == f"the target has {note}"
    (warning,) = [warning for warning in document["warnings"] if "HMAC" in warning]
    assert words in warning
    assert "the backup's .env may hold it" in warning
    assert original not in json.dumps(document)
    assert not secret or secret not in json.dumps(document)


def test_a_target_without_the_image_key_is_warned_of(cli: Cli, env: DocMindV2, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as keyed:
        keyed.setenv("DOCMIND_IMG_AES_KEY_BASE64", "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTMyYiE=")
        assert cli("create", "-C", env.project, "--quiet").code == 0

    document = cli("restore-plan", "-C", env.project, "--json").json()

    assert key_of(document, "image key") == "the target has none"
    assert any("the target has no image key" in warning for warning in document["warnings"])


def test_a_count_that_is_a_range_is_said_to_be_one(plan: Plan, cli: Cli, env: DocMindV2, backup: Path) -> None:
    saved = record(backup).qdrant
    assert saved
    moving = replace(saved, collections=tuple(replace(c, points_min=c.points_max - 1) for c in saved.collections))
    ranged = clone(backup, 9, qdrant=moving)

    _, document = plan(ranged)

    (check,) = [c for c in document["checks"] if c["what"] == f"points in {env.text_collection}"]
    assert check["expected"] == "24 to 25"
    assert "each count between these is right" in check["note"]
    assert f"24 to 25 ({check['note']})" in cli("restore-plan", ranged, "-C", env.project).out


# -- which backup --------------------------------------------------------------------------------


def test_latest_is_the_newest_that_counts_and_an_incomplete_one_names_its_lacks(
    plan: Plan, env: DocMindV2, backup: Path
) -> None:
    lack = Omission(Part.CHAT, "data/chat.db", Reason.DAMAGED)
    lacking = clone(backup, 9, omissions=(lack,))

    assert plan()[1]["backup"] == record(backup).id
    code, document = plan(record(lacking).id)
    assert (code, document["backup"]) == (0, record(lacking).id)
    assert any("lacks chat: data/chat.db (damaged)" in warning for warning in document["warnings"])


def test_a_backup_in_any_folder_can_be_planned(plan: Plan, tmp_path: Path, backup: Path) -> None:
    moved = backup.rename(tmp_path / "my backup")

    code, document = plan(moved)

    assert (code, document["directory"]) == (0, str(moved))


def test_one_nobody_verified_is_said_to_be_so_until_it_is(plan: Plan, cli: Cli, env: DocMindV2) -> None:
    assert any("never verified" in warning for warning in plan()[1]["warnings"])
    assert cli("verify", "-C", env.project, "--quiet").code == 0

    assert not any("never verified" in warning for warning in plan()[1]["warnings"])


def test_what_cannot_be_planned_has_its_own_exit_code_and_words(plan: Plan, backup: Path) -> None:
    newer, broken, foreign = clone(backup, 7), clone(backup, 8), clone(backup, 9)
    overwrite(newer / "backup.json", b'{"format": 2}')
    overwrite(broken / "backup.json", b"{")
    (foreign / "backup.json").unlink()

    for what, expected in ((newer, 16), (broken, 4), (foreign, 10), ("19990101", 10), ("/nowhere", 10)):
        code, document = plan(what)
        assert (code, document["exit_code"]) == (expected, expected), what
        assert document["error"]


def test_without_any_backup_there_is_nothing_to_plan(cli: Cli, env: DocMindV2) -> None:
    assert cli("restore-plan", "-C", env.project).code == 10
    assert not env.backups.exists()


def test_the_plan_of_a_forged_record_stays_a_plan(plan: Plan, backup: Path, env: DocMindV2) -> None:
    """Whatever a record says of where a source was: it goes where the target's own settings say."""
    stated = record(backup)
    forged = tuple(replace(source, origin="/etc/cron.d/x") for source in stated.sources)
    hostile = clone(backup, 9, sources=forged)

    _, document = plan(hostile)

    assert not any("/etc" in step["target"] for step in document["steps"])
    assert len(backups(env.backups)) == 2


def test_a_target_elsewhere_is_looked_at_and_not_the_source(cli: Cli, tmp_path: Path, backup: Path) -> None:
    other = build_v2(tmp_path / "other")
    (other.uploads / "one more.pdf").write_bytes(b"new")

    result = cli("restore-plan", backup, "-C", other.project, "--json")

    step = only_step(result.json(), "move aside", "data/uploads")
    assert step["target"] == str(other.uploads)
    assert step["overwrites"].startswith("8 files")
