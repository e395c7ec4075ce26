"""Files and collections come back together through the command line, or both stay as they were."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tests.conftest import Cli
from tests.restore_worlds import (
    ALIAS,
    Template,
    World,
    fill,
    in_memory,
    live_on,
    make_template,
    open_world,
    restored_server,
    wipe,
    with_chats_of,
)
from tests.returning_worlds import VECTORS, everything, points
from tests.standin import StandIn
from tests.sweep import STEP

from docmind_backup import restores, restoring, returning
from docmind_backup.errors import Interrupted
from docmind_backup.uploads import Patience

ALL = STEP == 1


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Template]:
    made: dict[str, Template] = {}

    def template(kind: str = "v2") -> Template:
        if kind not in made:
            made[kind] = make_template(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return template


@pytest.fixture
def standin() -> Iterator[StandIn]:
    with StandIn() as made:
        yield made


@pytest.fixture
def world(templates: Callable[..., Template], standin: StandIn) -> Iterator[World]:
    """It went on since its backup was made."""
    with in_memory() as folder:
        made = open_world(templates(), folder, standin)
        live_on(made)
        yield made


@pytest.fixture
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Qdrant's engine, which takes a process and a second each time; nobody waits for lost uploads."""
    monkeypatch.setattr(restores, "_prover", lambda _: None)
    monkeypatch.setattr(returning, "Patience", lambda: Patience(looks=2, pause_s=0))


def differences(now: Any, expected: Any) -> dict[str, Any]:
    return {key: (now.get(key), expected.get(key)) for key in {*now, *expected} if now.get(key) != expected.get(key)}


def forget_unanswered(world: World, before: dict[str, Any]) -> list[str]:
    """Snapshots of a call whose answer got lost: they may be another client's, so they stay, and are named."""
    known = {name for listed in before["files"].values() for name, _ in listed}
    files = world.standin.state.files.get(world.image, {})
    found = [name for name in files if name not in known and name.startswith(f"{world.image}-")]
    for name in found:
        del files[name]
    return found


# -- there and back ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "inside"), [("v2", False), ("v2", True), ("v1", False), ("v1", True)])
def test_a_wiped_environment_and_its_server_come_back(
    request: pytest.FixtureRequest,
    templates: Callable[[str], Template],
    tmp_path: Path,
    standin: StandIn,
    cli: Cli,
    kind: str,
    *,
    inside: bool,
) -> None:
    """Bytes, modes and times; points with payloads and vectors, payload indexes, metadata, aliases."""
    if (kind, inside) != ("v2", False):
        request.getfixturevalue("unproved")
    world = open_world(templates(kind), tmp_path, standin, inside=inside)
    wipe(world)
    _, before = world.see()

    done = cli("restore", "latest", *world.where, "--yes", "--json")

    assert done.code == 0, done.err
    tree, server = world.see()
    assert differences(tree, world.template.tree) == {}
    names = (world.text, world.image)
    assert server == restored_server(world, before, names)
    assert standin.count(world.text) > 0
    checks = {check["what"]: check for check in done.json()["checks"]}
    assert all(check["right"] for check in checks.values())
    for name in names:
        assert checks[f"collection {name}"]["found"].startswith(f"{standin.count(name)} points, counted; ")
    assert checks[f"alias {ALIAS}"]["found"] == f"leads to {world.text}"
    if kind == "v2":
        assert checks["files that image points name"]["found"] == "all 14 are there"
        assert checks["index snapshot and collections"]["found"].endswith("metadata and deployment id agree")


@pytest.mark.usefixtures("unproved")
def test_over_a_living_environment_and_back(world: World, cli: Cli) -> None:
    old = world.see()

    done = cli("restore", "latest", *world.where, "--yes")

    assert done.code == 0, done.err
    assert done.out.startswith("restored ")
    assert len(done.out.splitlines()) == 1
    assert f"collection {world.image}: 7 points, counted; " in done.err
    assert "is no longer in place; what was there is in" in done.err
    _, server = world.see()
    assert server == restored_server(world, old[1], (world.text, world.image))
    assert cli("restore", "--rollback", *world.where).code == 0
    tree, server = world.see()
    assert differences(tree, old[0]) == {}
    assert server == old[1]


@pytest.mark.usefixtures("unproved")
@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_the_script_gives_what_restore_gives(templates: Callable[[str], Template], tmp_path: Path, cli: Cli) -> None:
    seen = []
    for way in ("script", "restore"):
        folder = tmp_path / way
        folder.mkdir()
        with StandIn() as standin:
            world = open_world(templates("v2"), folder, standin)
            wipe(world)
            if way == "restore":
                assert cli("restore", "latest", *world.where, "--yes").code == 0
            else:
                script = folder / "restore.sh"
                assert cli("restore-plan", "latest", *world.where, "--script", "--out", script).code == 0
                ran = subprocess.run(["sh", str(script), "--yes"], capture_output=True, text=True, check=False)
                assert ran.returncode == 0, ran.stderr
            tree, server = world.see()
            locks = {path for path in tree if path.endswith("/.lock") or path.startswith("data/before-restore-")}
            seen.append(({path: what for path, what in tree.items() if path not in locks}, server))

    assert differences(seen[0][0], seen[1][0]) == {}
    assert seen[0][1] == seen[1][1]
    assert seen[0][1]["collections"][world.text] == world.template.server["collections"][world.text]


# -- a failure at each call ----------------------------------------------------------------------------


def error(text: str) -> bytes:
    return json.dumps({"status": {"error": text}, "time": 0.0}).encode()


JSON = {"content-type": "application/json"}
COUNT = json.dumps({"result": {"count": 1}, "status": "ok", "time": 0.0}).encode()
FULL = error("Service internal error: No space left on device (os error 28)")
CHANGES = r"snapshots(/upload)?$|/aliases$|\.snapshot$|^/collections/[^/]+$"
Fault = Callable[[StandIn, int], None]
FAULTS: dict[str, Fault] = {
    "500 at any call": lambda s, at: s.faults.answer("*", "", 500, JSON, error("Service internal error: x"), skip=at),
    "the answer to a change is lost": lambda s, at: s.faults.hang_up(
        ("POST", "DELETE", "PUT")[at % 3], CHANGES, served=True, skip=at // 3
    ),
    "no answer to a change": lambda s, at: s.faults.hang_up(("POST", "DELETE", "PUT")[at % 3], CHANGES, skip=at // 3),
    "disk full at a change": lambda s, at: s.faults.answer("POST", CHANGES, 500, JSON, FULL, skip=at),
    "a wrong count": lambda s, at: s.faults.answer("POST", "points/count$", 200, JSON, COUNT, skip=at),
}


@pytest.mark.usefixtures("unproved")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_at_each_call_leaves_files_and_collections_as_they_were(world: World, cli: Cli, fault: str) -> None:
    """Or all is restored all the same; either way the next restore works, and nothing of ours stays on the server."""
    old = world.see()
    new = with_chats_of(world.template.tree, old[0]), restored_server(world, old[1], (world.image,))
    codes, unused = [], 0

    for at in range(0, 100, 4 if fault == "500 at any call" and not ALL else 1):
        FAULTS[fault](world.standin, at)
        done = cli("restore", "latest", *world.where, *world.small, "--yes")
        untouched = world.standin.faults.rules[0].times == 1
        world.standin.faults.rules.clear()
        codes.append(done.code)
        unused = unused + 1 if untouched else 0
        came = done.code == 0 or (done.code == 3 and "restored" in done.out)
        for unanswered in forget_unanswered(world, old[1]):
            assert unanswered in done.err or not came, (at, done.err)
        tree, server = world.see()
        assert differences(tree, (new if came else old)[0]) == {}, (at, done.err)
        assert server == (new if came else old)[1], (at, done.err)
        assert not world.journal().exists(), (at, done.err)
        if came:
            assert cli("restore", "--rollback", *world.where, "-q").code == 0, at
            assert world.see() == old, at
        if unused == 3:
            break
    else:
        pytest.fail("it makes more calls than were tried")

    assert 15 in codes
    assert set(codes) <= {0, 3, 15}, codes
    assert codes[-1] == 3 or codes[-1] == 0


@pytest.mark.usefixtures("unproved")
def test_a_server_that_makes_no_collection_leaves_nothing_unfinished(world: World, cli: Cli) -> None:
    """It refuses every time, also when it is asked to help in cleaning up."""
    world.standin.delete_collection(world.image)
    old = world.see()
    world.standin.faults.answer("PUT", "^/collections/[^/]+$", 500, JSON, FULL, times=None)

    done = cli("restore", "latest", *world.where, *world.small, "--yes")

    assert done.code == 15, done.err
    assert done.err.count("No space left on device") == 1
    assert "rollback" not in done.err
    assert not world.journal().exists()
    assert world.see() == old
    assert cli("create", *world.where, "-q", "--only", "chat").code == 0


@pytest.mark.usefixtures("unproved")
def test_what_a_full_server_keeps_is_told_once_and_cleared_when_there_is_room(world: World, cli: Cli) -> None:
    """The upload's file lies there, and no collection can be made by which it could be deleted."""
    world.standin.delete_collection(world.image)
    old = world.see()
    world.standin.faults.answer("POST", "/upload$", 500, JSON, FULL, times=None)
    world.standin.faults.answer("PUT", "^/collections/[^/]+$", 500, JSON, FULL, times=None, skip=1)

    done = cli("restore", "latest", *world.where, *world.small, "--yes")

    assert done.code == 15, done.err
    assert done.err.count("No space left on device") == 1
    assert "restore --rollback" in done.err
    world.standin.faults.rules.clear()
    assert cli("restore", "--rollback", *world.where).code == 0
    assert world.see() == old


# -- not everything ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unproved")
def test_a_name_that_is_an_alias_is_switched_and_switched_back(world: World, cli: Cli) -> None:
    world.standin.delete_collection(world.image)
    world.standin.create_collection("precious", points(4, "precious"), VECTORS)
    world.standin.create_alias(world.image, "precious")
    old = world.see()

    done = cli("restore", "latest", *world.where, *world.small, "--yes")

    assert done.code == 3, done.err
    _, server = world.see()
    fresh = server["aliases"][world.image]
    assert fresh.startswith(f"{world.image}-restored-")
    assert server["collections"][fresh] == world.template.server["collections"][world.image]
    assert server["collections"]["precious"] == old[1]["collections"]["precious"]
    assert f"precious, to which {world.image} led until now" in done.err
    assert cli("restore", "--rollback", *world.where).code == 0
    assert world.see() == old


@pytest.mark.usefixtures("unproved")
def test_only_a_collection_leaves_files_and_other_collections_alone(world: World, cli: Cli) -> None:
    old = world.see()

    done = cli("restore", "latest", *world.where, "--collection", world.image, "--yes", "--json")

    assert done.code == 3, done.err
    wrong = [check for check in done.json()["checks"] if not check["right"]]
    assert [check["what"] for check in wrong] == ["index snapshot and collections"]
    assert world.text in wrong[0]["found"]
    assert world.see() == (old[0], restored_server(world, old[1], (world.image,)))


@pytest.mark.usefixtures("unproved")
def test_only_collections_leave_files_alone(world: World, cli: Cli) -> None:
    old = world.see()

    done = cli("restore", "latest", *world.where, "--only", "qdrant", "--yes")

    assert done.code == 0, done.err
    assert world.see() == (old[0], restored_server(world, old[1], (world.text, world.image)))


def test_only_a_file_part_and_a_folder_beside_ask_the_server_for_nothing(
    world: World, cli: Cli, tmp_path: Path
) -> None:
    old = world.see()

    assert cli("restore", "latest", *world.where, "--only", "chat", "--yes").code == 0
    assert world.see() == (with_chats_of(world.template.tree, old[0]), old[1])
    assert cli("restore", "--rollback", *world.where).code == 0
    beside = cli("restore", "latest", *world.where, "--to", tmp_path / "look", "--yes")
    assert beside.code == 0, beside.err
    assert (tmp_path / "look" / "data" / "chat.db").is_file()
    assert world.see() == old


@pytest.fixture
def elsewhere() -> Iterator[StandIn]:
    """Another server, with collections of the same names and kinds."""
    with StandIn() as other:
        fill(other)
        yield other


@pytest.mark.usefixtures("unproved")
def test_a_rollback_never_touches_another_server(
    world: World, elsewhere: StandIn, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who restored to a scratch server and takes it back with the usual settings would lose the usual collections."""
    old, others = world.see(), everything(elsewhere)
    assert cli("restore", "latest", *world.where, "--only", "qdrant", "--yes").code == 0
    monkeypatch.setenv("DOCMIND_DATABASE__QDRANT_URL", elsewhere.url)

    done = cli("restore", "--rollback", *world.where)

    assert done.code == 15
    assert elsewhere.url in done.err
    assert f"DOCMIND_DATABASE__QDRANT_URL={world.standin.url} before `docmind-backup restore --rollback -C " in done.err
    assert everything(elsewhere) == others
    assert not world.journal().exists()
    monkeypatch.delenv("DOCMIND_DATABASE__QDRANT_URL")
    assert cli("restore", "--rollback", *world.where).code == 0
    assert world.see() == old


def _cut(*_: object) -> NoReturn:
    raise Interrupted(signal.SIGTERM)


@pytest.mark.usefixtures("unproved")
def test_an_interrupted_restore_does_not_go_on_with_another_server(
    world: World, elsewhere: StandIn, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = everything(elsewhere)
    with monkeypatch.context() as patch:
        patch.setattr(restoring.Restoration, "_check", _cut)
        patch.setattr(restoring.Restoration, "_give_up", lambda *_: None)
        assert cli("restore", "latest", *world.where, "--only", "qdrant", "--yes").code == 143
    assert world.journal().exists()
    monkeypatch.setenv("DOCMIND_DATABASE__QDRANT_URL", elsewhere.url)

    for way in ("--resume", "--rollback"):
        done = cli("restore", way, *world.where)
        assert done.code == 15
        assert f"DOCMIND_DATABASE__QDRANT_URL={world.standin.url} before `docmind-backup restore {way} -C " in done.err

    assert everything(elsewhere) == others


@pytest.mark.usefixtures("unproved")
def test_a_plan_of_collections_alone_is_carried_out(world: World, cli: Cli, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    assert cli("restore-plan", "latest", *world.where, "--collection", world.image, "--out", plan).code == 0
    old = world.see()

    done = cli("restore", "--plan", plan, *world.where, "--yes")

    assert done.code == 3, done.err
    assert world.see() == (old[0], restored_server(world, old[1], (world.image,)))


def written(world: World) -> None:
    world.standin.upsert(world.image, points(9, "meanwhile"))


def made_anew(world: World) -> None:
    """With as many points."""
    world.standin.delete_collection(world.image)
    world.standin.create_collection(world.image, points(2, "old"), VECTORS, None, {"docmind_owner": "another"})
    world.standin.create_alias("gallery", world.image)


def gone(world: World) -> None:
    world.standin.delete_collection(world.image)


def moved(world: World) -> None:
    world.standin.delete_alias(ALIAS)
    world.standin.create_alias(ALIAS, world.image)


@pytest.mark.parametrize("change", [written, made_anew, gone, moved])
def test_a_plan_is_17_once_a_collection_or_an_alias_is_another(
    world: World, cli: Cli, tmp_path: Path, change: Callable[[World], None]
) -> None:
    plan = tmp_path / "plan.json"
    assert cli("restore-plan", "latest", *world.where, "--out", plan).code == 0
    change(world)
    old = world.see()

    done = cli("restore", "--plan", plan, *world.where, "--yes")

    assert done.code == 17, done.err
    assert world.standin.url in done.err
    assert world.see() == old


@pytest.mark.usefixtures("unproved")
def test_a_file_that_image_points_name_and_nobody_has_is_named(world: World, cli: Cli) -> None:
    lost = next(path for path in sorted((world.project / "data" / "artifacts").iterdir()) if path.suffix == ".webp")
    lost.unlink()

    done = cli("restore", "latest", *world.where, "--only", "qdrant", "--yes", "-q")

    assert done.code == 3, done.err
    assert "files that image points name: 1 of 14 are not there: point " in done.err
    assert lost.name in done.err
