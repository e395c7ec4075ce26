"""The consistency set as `create` proves it: image points against the artifacts that really came into the backup."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.catalogs import backups
from tests.conftest import Cli, Result
from tests.environments import IMAGE_POINTS, DocMindV2, build_v1
from tests.standin import StandIn

from docmind_backup.sample import IMAGE_VECTORS, write_artifact

Json = dict[str, Any]
SCROLL = "/points/scroll$"


def create(cli: Cli, env: DocMindV2, *options: object) -> Result:
    return cli("create", "-C", env.project, "--json", *options)


def proof(made: Result) -> Json | None:
    document: Json = json.loads(Path(made.json()["directory"], "backup.json").read_bytes())
    found: Json | None = document.get("artifact_proof")
    return found


def lacks(made: Result) -> list[tuple[str, str]]:
    return [(omission["source"], omission["reason"]) for omission in made.json()["omissions"]]


def detail(made: Result) -> str:
    (omission,) = made.json()["omissions"]
    return str(omission["detail"])


def scrolls(server: StandIn) -> int:
    return sum(request.path.endswith("/points/scroll") for request in server.requests)


def image_point(number: int, artifact: str, suffix: Any = ".webp") -> Json:
    size = IMAGE_VECTORS["siglip"]["size"]
    payload = {"image_artifact_id": artifact, "image_artifact_suffix": suffix}
    return {"id": number, "payload": payload, "vector": {"siglip": [1.0] * size}}


def pictures(env: DocMindV2) -> list[Path]:
    return sorted(env.artifacts.glob("*.webp"))


# -- all there -----------------------------------------------------------------------------------


def test_every_file_that_image_points_name_is_looked_for_in_the_backup(
    cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    made = create(cli, env)

    assert made.code == 0, made.err
    assert made.json()["docmind_eligible"]
    found = proof(made)
    assert found
    assert (found["index_snapshot"], found["collection"]) == (env.index_snapshot, env.image_collection)
    assert (found["points"], found["references"], found["broken"]) == (IMAGE_POINTS, 2 * IMAGE_POINTS, 0)
    assert found["proved_by"] == made.json()["id"]


def test_points_are_asked_for_by_the_page_without_vectors_and_only_for_names(
    cli: Cli, env: DocMindV2, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("docmind_backup.core.qdrant_rest.PAGE_POINTS", 3)

    made = create(cli, env)

    assert scrolls(server) == 3
    found = proof(made)
    assert found
    assert found["references"] == 2 * IMAGE_POINTS
    assert all(env.image_collection in r.path for r in server.requests if r.path.endswith("/points/scroll"))


def test_points_are_not_asked_for_again_while_nothing_changed(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    first = create(cli, env)
    asked = scrolls(server)

    second, third = create(cli, env), create(cli, env, "--no-share")

    assert asked == scrolls(server) == 1
    assert proof(second) == proof(third) == proof(first)
    assert second.code == third.code == 0


def test_points_are_asked_for_again_when_one_came_or_went(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    create(cli, env)
    server.upsert(env.image_collection, [image_point(99, pictures(env)[0].stem)])
    more = create(cli, env)
    server.delete_points(env.image_collection, [99])
    fewer = create(cli, env)

    assert scrolls(server) == 3
    found = [proof(made) for made in (more, fewer)]
    assert [one and one["points"] for one in found] == [IMAGE_POINTS + 1, IMAGE_POINTS]
    assert [one and one["proved_by"] for one in found] == [more.json()["id"], fewer.json()["id"]]


def test_a_new_artifact_is_reason_enough_to_look_again(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    create(cli, env)
    write_artifact(env.artifacts, b"new")

    assert create(cli, env).code == 0
    assert scrolls(server) == 2


# -- not there -----------------------------------------------------------------------------------


def test_an_artifact_deleted_since_is_noticed_though_no_point_changed(
    cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    create(cli, env)
    gone = pictures(env)[0]
    gone.unlink()

    made = create(cli, env)

    assert made.code == 3
    assert lacks(made) == [("data/artifacts", "damaged")]
    assert f"1 of {2 * IMAGE_POINTS} files that image points name is not there: point " in detail(made)
    assert gone.name in detail(made)
    assert not made.json()["counts"]
    assert len(backups(env.backups)) == 2


def test_what_is_broken_stays_named_without_asking_again(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    pictures(env)[0].unlink()
    first = create(cli, env)
    second = create(cli, env)

    assert scrolls(server) == 1
    assert (first.code, second.code) == (3, 3)
    assert detail(second) == detail(first)


def test_of_many_broken_pairs_the_first_are_named_and_how_many_more(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    server.upsert(env.image_collection, [image_point(n, f"{n:064x}") for n in range(100, 2500)])

    made = create(cli, env)

    assert detail(made).count("names") == 3
    assert "and 2,397 more" in detail(made)
    assert scrolls(server) == 3


def test_what_is_meant_to_be_gone_is_accepted_once_and_for_all(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    first, second, *_ = pictures(env)
    first.unlink()

    accepted = create(cli, env, "--accept-shrink")
    after = create(cli, env)
    server.upsert(env.image_collection, [image_point(99, second.stem)])
    indexed = create(cli, env)
    second.unlink()
    again = create(cli, env)

    assert [made.code for made in (accepted, after, indexed, again)] == [0, 0, 0, 3]
    assert any(first.name in note and "accepted" in note for note in after.json()["notes"])
    assert (proof(after) or {})["accepted"]
    assert not (proof(again) or {})["accepted"]


def test_a_name_that_leads_out_of_the_folder_is_broken_whatever_lies_there(
    cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    (env.data_dir / "secret.webp").write_bytes(b"not an artifact")
    names = ("../secret", "../../.env", "/etc/hostname", "", "a\x1b[31mb")
    server.upsert(env.image_collection, [image_point(100 + n, name) for n, name in enumerate(names)])
    server.upsert(env.image_collection, [image_point(200, "../chat.db", ""), image_point(201, "x", {"y": 1})])

    made = create(cli, env)

    assert made.code == 3
    assert f"7 of {2 * IMAGE_POINTS + 7} files" in detail(made)
    assert "\x1b" not in detail(made) + made.err


def test_without_any_artifact_every_name_is_broken(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    for path in pictures(env):
        path.unlink()
    env.artifacts.rmdir()

    made = create(cli, env)

    assert lacks(made) == [("data/artifacts", "damaged")]
    assert f"{2 * IMAGE_POINTS} of {2 * IMAGE_POINTS} files" in detail(made)


def test_artifacts_that_are_gone_are_named_once(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    create(cli, env)
    for path in pictures(env):
        path.unlink()

    made = create(cli, env)

    assert made.code == 14
    assert lacks(made) == [("data/artifacts", "emptied")]


# -- while it runs -------------------------------------------------------------------------------


def test_a_picture_that_comes_while_the_backup_is_made_is_fetched_by_a_second_try(
    cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    late = pictures(env)[0]
    content = late.read_bytes()
    late.unlink()
    server.faults.before("POST", SCROLL, lambda: late.write_bytes(content))

    made = create(cli, env)

    assert made.code == 0, made.err
    assert (Path(made.json()["directory"]) / "data/artifacts" / late.name).read_bytes() == content
    assert len(backups(env.backups)) == 1
    assert not server.snapshots(env.image_collection)


def test_pictures_that_come_each_time_are_a_named_lack(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    names = count(100)

    def ingest() -> None:
        number = next(names)
        server.upsert(env.image_collection, [image_point(number, write_artifact(env.artifacts, b"%d" % number))])

    server.faults.before("POST", SCROLL, ingest, times=None)
    made = create(cli, env)

    assert made.code == 3
    assert lacks(made) == [("data/artifacts", "moved")]
    assert next(names) == 102
    assert proof(made) is None


def test_points_that_go_while_they_are_asked_for_are_no_proof(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    server.faults.before("POST", SCROLL, lambda: server.delete_points(env.image_collection, [0]))

    made = create(cli, env)

    assert made.code == 0
    assert proof(made) is None
    assert create(cli, env).code == 0
    assert scrolls(server) == 2


def test_an_index_activated_while_points_are_asked_for_makes_it_start_again(
    cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    older = next(p.name for p in env.storage.iterdir() if p.is_dir() and p.name != env.index_snapshot)
    meta = json.loads((env.storage / older / "manifest.meta.json").read_bytes())
    for role in ("text", "image"):
        server.create_collection(
            meta["collections"][role], vectors=IMAGE_VECTORS, metadata=meta["collection_metadata"][role]
        )

    def activate() -> None:
        (env.storage / "CURRENT").write_text(f"{older}\n")
        server.delete_collection(env.image_collection)

    server.faults.before("POST", SCROLL, activate)
    made = create(cli, env)

    assert made.code == 0, made.err
    found = proof(made)
    assert found
    assert (found["index_snapshot"], found["points"]) == (older, 0)


def test_a_collection_made_anew_while_the_backup_is_made_is_captured_again(
    cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    def make_anew() -> None:
        server.delete_collection(env.image_collection)
        server.create_collection(env.image_collection, vectors=IMAGE_VECTORS, metadata={"docmind_owner": "nobody"})

    server.faults.before("POST", f"{env.text_collection}/snapshots$", make_anew)
    made = create(cli, env)

    assert made.code == 0, made.err
    record = json.loads(Path(made.json()["directory"], "backup.json").read_bytes())
    (image,) = [c for c in record["qdrant"]["collections"] if c["role"] == "image"]
    assert (image["metadata"], image["points"]["max"]) == ({"docmind_owner": "nobody"}, 0)
    assert any("metadata" in note and env.image_collection in note for note in made.json()["notes"])
    assert len(backups(env.backups)) == 1


def test_a_collection_that_gets_another_alias_each_time_is_a_named_lack(
    cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    names = count()
    taken = f"{env.text_collection}/snapshots$"
    server.faults.before(
        "POST", taken, lambda: server.create_alias(f"live {next(names)}", env.text_collection), times=None
    )

    made = create(cli, env)

    assert made.code == 3
    assert lacks(made) == [(env.text_collection, "moved")]
    assert next(names) == 2


def test_a_collection_deleted_after_it_was_captured_is_kept_and_said_to_be_gone(
    cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    delete = f"{env.image_collection}/snapshots/"
    server.faults.before("DELETE", delete, lambda: server.delete_collection(env.image_collection))

    made = create(cli, env)

    assert made.code == 3
    assert (env.image_collection, "moved") in lacks(made)
    record = json.loads(Path(made.json()["directory"], "backup.json").read_bytes())
    assert env.image_collection in [c["name"] for c in record["qdrant"]["collections"]]


# -- what cannot be asked ------------------------------------------------------------------------


def test_a_server_that_pages_in_a_circle_costs_a_note_and_no_endless_run(
    cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    circle = b'{"result": {"points": [{"id": 5}], "next_page_offset": 5}}'
    server.faults.answer("POST", SCROLL, 200, {"content-type": "application/json"}, circle, times=None)

    made = create(cli, env)

    assert made.code == 0, made.err
    assert any("could not be held against each other" in note for note in made.json()["notes"])
    assert proof(made) is None
    assert scrolls(server) == 1


def test_a_page_without_end_is_not_read_into_memory(
    cli: Cli, env: DocMindV2, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("docmind_backup.qdrant.MAX_PAGE", 1000)

    made = create(cli, env)

    assert made.code == 0
    assert any("more than 1,000 bytes" in note for note in made.json()["notes"])


def test_a_server_that_falls_silent_afterwards_costs_a_note(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    server.faults.refuse("POST", SCROLL, 500, "Service internal error: out of file handles")

    made = create(cli, env)

    assert made.code == 0
    assert any("out of file handles" in note for note in made.json()["notes"])
    assert create(cli, env).code == 0
    assert scrolls(server) == 2


@pytest.mark.parametrize("options", [("--only", "qdrant"), ("--no-qdrant-snapshot",), ("--only", "artifacts")])
def test_where_one_side_was_left_out_no_point_is_asked_for(
    cli: Cli, env: DocMindV2, server: StandIn, options: tuple[str, ...]
) -> None:
    assert create(cli, env, *options).code == 0
    assert scrolls(server) == 0


def test_a_v1_environment_has_no_artifacts_to_look_for(cli: Cli, tmp_path: Path, server: StandIn) -> None:
    env = build_v1(tmp_path / "v1", server)

    assert cli("create", "-C", env.project, "--json").code == 0
    assert scrolls(server) == 0


# -- dry run, index snapshot ---------------------------------------------------------------------


def test_a_dry_run_says_what_is_known_and_asks_for_no_point(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    fresh = create(cli, env, "--dry-run").json()["artifact_check"]
    told = cli("create", "-C", env.project, "--dry-run").err
    pictures(env)[0].unlink()
    create(cli, env)
    asked = scrolls(server)
    known = create(cli, env, "--dry-run").json()["artifact_check"]

    assert (fresh["collection"], fresh["points"], fresh["earlier"]) == (env.image_collection, IMAGE_POINTS, None)
    assert f"the files named by {IMAGE_POINTS} image points will be looked for" in told
    assert known["earlier"]["broken"] == 1
    assert "1 of 14 files that image points name is not there" in cli("create", "-C", env.project, "--dry-run").err
    assert scrolls(server) == asked == 1


def test_an_index_snapshot_of_another_deployment_is_a_note_and_no_recovery_point(
    cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    other = "00000000-0000-4000-8000-000000000000"
    (env.data_dir / ".deployment-id").write_text(f"{other}\n")

    made = create(cli, env)

    assert made.code == 0
    notes = [note for note in made.json()["notes"] if other in note]
    assert len(notes) == 2
    assert all("DocMind refuses it" in note for note in notes)
    assert any("deployment" in reason for reason in made.json()["docmind_ineligible_because"])
