"""What a restore says and refuses beyond the main road: engines afterwards, choices repeated, places not touched."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import duckdb
import pytest
from tests.catalogs import flip, held_by_another, only_backup
from tests.conftest import Cli, Result
from tests.environments import build_v2
from tests.killing import Tree, look

from docmind_backup import deep, restored, restoring, scan
from docmind_backup.cli import main
from docmind_backup.sample import build_sample

CONTAINERS = ("data", "cache", "cache/ingestion", "data/analytics", "logs")
Restore = Callable[..., Result]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`docmind`, a v2 environment, and `backups`; made once, without a server."""
    top = tmp_path_factory.mktemp("template")
    env = build_v2(top / "docmind")
    with duckdb.connect(str(env.cache_db)) as database:
        database.execute("INSERT INTO keyvalue VALUES ('late', 'c', '1')")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("DOCMIND_", "QDRANT_"))]:
            patch.delenv(name)
        create = ["create", "-C", str(env.project), "--dest", str(top / "backups"), "--no-qdrant-snapshot", "-q"]
        assert main(create) == 0
    return top


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    for name in ("docmind", "backups"):
        shutil.copytree(template / name, tmp_path / name, symlinks=True)
    return tmp_path / "docmind"


@pytest.fixture
def run(project: Path, tmp_path: Path, cli: Cli) -> Restore:
    return lambda *words: cli(*words, "-C", project, "--dest", tmp_path / "backups")


def found(done: Result) -> dict[str, tuple[str, bool]]:
    return {check["what"]: (check["found"], check["right"]) for check in done.json()["checks"]}


CACHE = "cache/docmind.duckdb (DuckDB)"


# -- engines, afterwards -------------------------------------------------------------------------


def test_the_cache_is_read_by_duckdb_where_it_lies_and_nothing_of_it_changes(
    run: Restore, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, seen = project / "cache" / "ingestion", list[tuple[Tree, Tree]]()
    really = restored.opened

    def watched(*args: object) -> object:
        before = look(folder)
        answer = really(*args)  # type: ignore[arg-type]
        seen.append((before, look(folder)))
        return answer

    monkeypatch.setattr(restored, "opened", watched)

    done = run("restore", "latest", "--only", "cache", "--yes", "--json")

    assert (done.code, found(done)[CACHE]) == (0, ("opened, 13 rows in 1 table", True)), done.err
    assert [list(before) for before, _ in seen] == [["docmind.duckdb"]]
    assert [before == after for before, after in seen] == [True]


def test_a_log_beside_the_cache_is_read_too_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "docmind.duckdb"
    with duckdb.connect(str(path)) as database:
        database.execute("PRAGMA disable_checkpoint_on_shutdown")
        database.execute("CREATE TABLE t AS SELECT range FROM range(7)")
    before = look(tmp_path)
    assert set(before) == {"docmind.duckdb", "docmind.duckdb.wal"}

    rows = deep.read_duckdb(path).rows

    assert rows == {"t": 7}
    assert look(tmp_path) == before


def test_where_duckdb_is_not_installed_the_checks_say_so(run: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep, "missing", lambda package: f"{package} is not installed")

    done = run("restore", "latest", "--only", "cache", "--yes", "--json")

    assert (done.code, found(done)[CACHE]) == (0, ("held to its sha256, not opened: duckdb is not installed", True))


def test_a_cache_that_duckdb_cannot_read_is_named(cli: Cli, tmp_path: Path) -> None:
    """It was so when it was saved: no sum says anything of it."""
    env = build_v2(tmp_path / "docmind")
    env.cache_db.write_bytes(env.cache_db.read_bytes()[:8192] + bytes(40_000))
    where = ("-C", env.project, "--dest", tmp_path / "backups")
    assert cli("create", *where, "--no-qdrant-snapshot", "-q").code in (0, 3)

    done = cli("restore", "latest", *where, "--only", "cache", "--yes", "--json")

    words, right = found(done)[CACHE]
    assert "the engine cannot read it" in words or "crashed" in words
    assert (done.code == 3) == (not right)
    assert right == ("it was so when the backup was made" in words)


def test_points_of_an_embedded_qdrant_are_counted(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = build_sample(tmp_path / "docmind", documents=3)
    where = ("-C", sample.project, "--dest", tmp_path / "backups", "--qdrant-path", sample.qdrant_path)
    assert cli("create", *where, "-q").code == 0
    restore = ("restore", "latest", *where, "--only", "qdrant", "--yes", "--json")

    done = cli(*restore)

    counts = [check for what, check in found(done).items() if what.startswith("points in ")]
    assert done.code == 0, done.err
    assert len(counts) == 2
    assert all(right and words.isdigit() for words, right in counts)

    def lose_one(*args: object) -> object:
        store = next((sample.qdrant_path or Path()).glob("collection/docmind_docs*/storage.sqlite"))
        with closing(sqlite3.connect(store)) as database, database:
            database.execute("DELETE FROM points WHERE rowid = (SELECT min(rowid) FROM points)")
        return really(*args)  # type: ignore[arg-type]

    really = restoring.check_rows
    monkeypatch.setattr(restoring, "check_rows", lose_one)

    done = cli(*restore)

    assert done.code == 3
    assert [right for what, (_, right) in found(done).items() if what.startswith("points in ")].count(False) == 1


# -- what to do next -----------------------------------------------------------------------------

CHOICES = [
    ("--only", "uploads,chat"),
    ("--only", "cache", "--skip-damaged", "--no-read-back"),
    ("--include-env", "--force"),
    ("--to", "/tmp/docmind-backup-beside it"),
    ("--qdrant-path", "/nowhere/embedded"),
]


@pytest.mark.parametrize("words", CHOICES, ids=" ".join)
@pytest.mark.parametrize("command", [("restore-plan", "latest"), ("restore", "latest", "-n")], ids=" ".join)
def test_the_command_to_give_now_chooses_what_was_shown(
    run: Restore, project: Path, words: tuple[str, ...], command: tuple[str, ...]
) -> None:
    done = run(*command, *words)

    (line,) = [line for line in done.err.splitlines() if line.startswith("next: ")]
    proposed = shlex.split(line.removeprefix("next: "), comments=True)
    assert done.code == 0, done.err
    assert proposed[:2] == ["docmind-backup", "restore"]
    assert {"-C", str(project), "--dest"} < set(proposed)
    for word in words:
        assert set(word.split(",")) & {part for one in proposed for part in one.split(",")}, (word, proposed)


def next_command(done: Result) -> list[str]:
    """The words of the last `next:` that is a command of ours."""
    (line,) = [line for line in done.err.splitlines() if line.startswith("next: docmind-backup ")]
    return shlex.split(line.removeprefix("next: docmind-backup "), comments=True)


@pytest.fixture
def elsewhere(project: Path, tmp_path: Path) -> Path:
    """A backup on another disk, in no catalog that the settings name."""
    shutil.move(tmp_path / "backups", tmp_path / "other disk")
    (backup,) = (tmp_path / "other disk").glob("backup_*")
    return backup


@pytest.mark.parametrize("command", [("restore-plan",), ("restore", "-n")], ids=" ".join)
def test_a_backup_that_was_given_by_its_path_is_proposed_by_it(
    cli: Cli, project: Path, elsewhere: Path, command: tuple[str, ...]
) -> None:
    proposed = next_command(cli(*command, elsewhere, "-C", project))
    by_id = next_command(cli(*command, elsewhere, "-C", project, "--dest", elsewhere.parent))

    assert proposed[:2] == ["restore", str(elsewhere)]
    assert by_id[1] == elsewhere.name.removeprefix("backup_")
    done = cli(*proposed, "--yes")
    assert done.code == 0, done.err


@pytest.mark.parametrize("command", ["show", "verify"])
def test_other_commands_propose_its_path_too(cli: Cli, project: Path, elsewhere: Path, command: str) -> None:
    proposed = next_command(cli(command, elsewhere, "-C", project))

    assert proposed[:2] == ["restore-plan", str(elsewhere)]
    assert cli(*proposed).code == 0
    by_id = next_command(cli(command, elsewhere, "-C", project, "--dest", elsewhere.parent))
    assert by_id[1] == elsewhere.name.removeprefix("backup_")


def test_the_next_try_after_a_rollback_finds_the_backup_and_the_place(
    cli: Cli, project: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    beside = tmp_path / "beside it"
    interrupted(monkeypatch, lambda: cli("restore", elsewhere, "-C", project, "--to", beside, "--yes"))

    done = cli("restore", "--rollback", "-C", project, "--to", beside)

    assert done.code == 0, done.err
    assert next_command(done) == ["restore", str(elsewhere), "--to", str(beside), "-C", str(project)]


def test_a_backup_that_is_gone_is_not_proposed_again(
    run: Restore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(monkeypatch, lambda: run("restore", "latest", "--yes"))
    shutil.rmtree(next((tmp_path / "backups").glob("backup_*")))

    gone = run("restore", "--resume")

    assert gone.code == 10
    assert "--resume" not in gone.err
    assert "put it back there" in gone.err
    assert "`docmind-backup restore --rollback -C" in gone.err
    assert next_command(run("restore", "--rollback"))[0] == "list"


def interrupted(monkeypatch: pytest.MonkeyPatch, restore: Callable[[], Result]) -> None:
    """As after a power cut between the swap and its end."""

    def cut(*_: object) -> None:
        raise OSError(5, "the power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(restoring, "check_files", cut)
        patch.setattr(restoring.Restoration, "_give_up", lambda *_: None)
        assert restore().code == 1


def hinted(text: str) -> list[list[str]]:
    """The commands between backticks, each as words."""
    return [shlex.split(words.removeprefix("docmind-backup ")) for words in text.split("`")[1::2]]


@pytest.mark.parametrize("beside", [False, True], ids=["in place", "beside"])
def test_a_hint_looks_where_the_command_did(
    run: Restore, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, beside: bool
) -> None:
    to = ("--to", str(tmp_path / "be side")) if beside else ()
    interrupted(monkeypatch, lambda: run("restore", "latest", "--yes", *to))

    told = run("restore", "latest", "--yes", *to)
    as_json = run("restore", "latest", "--yes", "--json", *to)

    assert told.code == as_json.code == 11
    commands = hinted(told.err[told.err.rindex("hint: ") :])
    assert commands == hinted(json.loads(as_json.err.splitlines()[-1])["hint"])
    assert [words[:2] for words in commands] == [["restore", "--resume"], ["restore", "--rollback"]]
    assert all(words.count("-C") == words.count("--dest") == 1 for words in commands)
    monkeypatch.chdir("/")
    done = cli(*commands[1])
    assert done.code == 0, done.err


def test_other_commands_hint_in_the_same_way_and_the_next_one_knows_nothing_of_it(
    run: Restore, cli: Cli, project: Path, tmp_path: Path
) -> None:
    where = f"-C {project} --dest {tmp_path}/backups"

    assert f"hint: `docmind-backup list {where}` shows them all" in run("show", "20010101").err
    assert f"hint: `docmind-backup list {where}` shows them all" in run("hold", "20010101").err
    assert "hint: `docmind-backup restore latest`\n" in cli("restore").err


def test_what_accepts_a_restore_is_said_with_where_it_is(run: Restore, project: Path, tmp_path: Path) -> None:
    done = run("restore", "latest", "--yes")

    assert f"`docmind-backup restore --discard-rollback -C {project} --dest {tmp_path}/backups` then" in done.err


def test_nothing_is_proposed_that_would_be_refused(cli: Cli, tmp_path: Path) -> None:
    sample = build_sample(tmp_path / "docmind", documents=3)
    shutil.move(sample.qdrant_path or "", tmp_path / "embedded")
    where = ("-C", sample.project, "--dest", tmp_path / "backups")
    assert cli("create", *where, "-q", "--qdrant-path", tmp_path / "embedded").code == 0

    tried, really = cli("restore", "latest", "-n", *where), cli("restore", "latest", "--yes", *where)

    assert (tried.code, really.code) == (2, 2)
    assert "have no place for qdrant-embedded" in tried.err
    assert "next: " not in tried.err
    planned = cli("restore-plan", "latest", *where)
    assert "would refuse this: the settings of this environment have no place" in planned.err
    assert "next: give --qdrant-path" in planned.err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("answer", ["n\n", ""], ids=["no", "end of input"])
def test_a_no_says_that_nothing_was_changed(
    run: Restore, project: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    before = look(project, containers=CONTAINERS)
    monkeypatch.setattr("sys.stdin", Terminal(answer))

    done = run("restore", "latest")

    assert done.code == 130
    assert "error: nothing was changed\n" in done.err
    assert look(project, containers=CONTAINERS) == before


# -- what is kept ----------------------------------------------------------------------------------


def test_what_would_be_deleted_is_one_document(run: Restore, project: Path) -> None:
    assert run("restore", "latest", "--yes").code == 0
    before = look(project, containers=CONTAINERS)

    words, document = run("restore", "--discard-rollback", "-n"), run("restore", "--discard-rollback", "-n", "--json")

    (one,) = document.json()
    assert set(one) == {"backup", "directory", "state", "taken_at", "kept_in"}
    assert one["state"] == "done"
    assert one["kept_in"] == words.out.splitlines()
    assert Path(one["kept_in"][0]).is_dir()
    assert look(project, containers=CONTAINERS) == before


def test_what_was_taken_back_is_no_reason_for_a_backup_of_what_was_restored(run: Restore) -> None:
    assert run("restore", "latest", "--yes").code == 0
    assert run("restore", "--rollback").code == 0
    back = run("restore", "--discard-rollback", "--yes")
    assert run("restore", "latest", "--yes").code == 0
    accepted = run("restore", "--discard-rollback", "--yes")

    assert next_command(back)[0] == "list"
    assert next_command(accepted)[0] == "create"


# -- a full disk -----------------------------------------------------------------------------------


def no_room(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("module", "name", "words", "in_place"),
    [
        ("docmind_backup.durable", "replace", "what was restored is still in its place", "restored"),
        ("docmind_backup.restoring", "_rename_all", "until it has ended, what was restored is in place", "restored"),
        ("docmind_backup.restoring", "_remove_tree", "ends it; what was there before is in its place", "before"),
    ],
)
def test_a_rollback_without_room_says_what_is_in_place(
    run: Restore,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    name: str,
    words: str,
    in_place: str,
) -> None:
    note = project / "data" / "uploads" / "before.pdf"
    note.write_bytes(b"%PDF")
    assert run("restore", "latest", "--yes").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(f"{module}.{name}", no_room)
        full = run("restore", "--rollback")

    assert full.code == 13
    assert words in full.err
    assert note.exists() == (in_place == "before")
    assert run("restore", "--rollback").code == 0
    assert note.exists()


@pytest.mark.parametrize(
    ("module", "name", "words", "then"),
    [
        ("docmind_backup.durable", "replace", "nothing was deleted", "--discard-rollback"),
        ("docmind_backup.restoring", "_remove_tree", "goes on deleting", "--resume"),
    ],
)
def test_deleting_without_room_says_how_far_it_got(
    run: Restore, project: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, words: str, then: str
) -> None:
    assert run("restore", "latest", "--yes").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(f"{module}.{name}", no_room)
        full = run("restore", "--discard-rollback", "--yes")

    assert full.code == 13
    assert words in full.err
    assert run("restore", then, "--yes").code == 0
    assert not (project / "data" / ".docmind-restore").exists()


def test_a_plan_in_a_file_is_what_to_carry_out(run: Restore, tmp_path: Path) -> None:
    done = run("restore-plan", "latest", "--only", "chat", "--out", tmp_path / "plan.json")

    assert f"next: docmind-backup restore --plan {tmp_path}/plan.json -C" in done.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--plan", "FILE", "--only", "chat"), "--only cannot be given with --plan"),
        (("--plan", "FILE", "--to", "/nowhere"), "--to cannot be given with --plan"),
        (("--resume", "--only", "chat"), "--only cannot be given with --resume"),
        (("--rollback", "--skip-damaged"), "--skip-damaged cannot be given with --rollback"),
        (("--discard-rollback", "--include-env"), "--include-env cannot be given with --discard-rollback"),
        (("--discard-rollback", "--to", "/nowhere"), "--to cannot be given with --discard-rollback"),
        (("latest", "chat.db", "--to", "/nowhere", "--only", "chat"), "--only cannot be given with FILE"),
        (("latest", "--force"), "--force replaces a .env, and none is asked for"),
        (("latest", "--force", "--only", "chat"), "--force replaces a .env, and none is asked for"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_a_choice_that_would_be_passed_over_is_refused(
    run: Restore, tmp_path: Path, words: tuple[str, ...], named: str
) -> None:
    plan = tmp_path / "plan.json"
    assert run("restore-plan", "latest", "--out", plan, "-q").code == 0

    done = run("restore", *[str(plan) if word == "FILE" else word for word in words], "--yes")

    assert done.code == 2
    assert named in done.err


def test_a_plan_that_passes_a_choice_over_is_refused_too(run: Restore) -> None:
    done = run("restore-plan", "latest", "--force")

    assert (done.code, "hint: --include-env --force" in done.err) == (2, True)


# -- nothing -------------------------------------------------------------------------------------


@pytest.fixture
def only_env(run: Restore, project: Path, cli: Cli, tmp_path: Path) -> Path:
    """A root with a backup that holds `.env` and nothing else."""
    root = tmp_path / "env only"
    assert cli("create", "-C", project, "--dest", root, "--only", "env", "-q").code == 0
    return root


@pytest.mark.parametrize(
    ("there", "words", "why", "hint"),
    [
        (True, ("--only", "env"), "there is a .env, which is never merged", "--force"),
        (True, ("--include-env",), "there is a .env, which is never merged", "--force"),
        (True, (), "there is a .env, which is never merged", "--include-env --force"),
        (False, (), "a .env comes back only when it is asked for", "--include-env"),
    ],
)
def test_a_restore_that_would_bring_nothing_is_refused_with_what_to_give(
    cli: Cli, project: Path, only_env: Path, there: bool, words: tuple[str, ...], why: str, hint: str
) -> None:
    if not there:
        (project / ".env").unlink()
    before = look(project, containers=CONTAINERS)
    restore = ("restore", "latest", "-C", project, "--dest", only_env)

    for more in ("--yes", "-n"):
        done = cli(*restore, *words, more)
        assert done.code == 2
        assert f"nothing would be restored: {why}; nothing was changed\nhint: {hint}" in done.err
        assert look(project, containers=CONTAINERS) == before
    assert "nothing is kept" in cli("restore", "--rollback", "-C", project, "--dest", only_env).err

    assert cli(*restore, *words, *hint.split(";")[0].split(), "--yes").code == 0
    assert (project / ".env").read_bytes() == next(only_env.glob("backup_*/.env")).read_bytes()


# -- parts ---------------------------------------------------------------------------------------


def test_the_plan_names_what_belongs_to_a_part_and_stays_as_it_is(run: Restore) -> None:
    whole = run("restore-plan", "latest", "--json").json()
    part = run("restore-plan", "latest", "--only", "uploads,chat", "--json").json()
    apart = run("restore-plan", "latest", "--only", "chat", "--json").json()

    stay = "only a part of what belongs together comes back; as they are now stay: storage, identity, artifacts"
    assert [stay in shown["warnings"] for shown in (whole, part, apart)] == [False, True, False]
    current = [[c["what"] for c in shown["checks"] if c["what"].endswith("CURRENT")] for shown in (whole, part, apart)]
    assert current == [["data/storage/CURRENT"], [], []]


# -- what is left out ----------------------------------------------------------------------------


def test_what_stays_because_its_backup_is_damaged_is_not_told_as_gone(
    run: Restore, project: Path, tmp_path: Path
) -> None:
    flip(only_backup(tmp_path / "backups") / "data" / "chat.db", 5000)
    before = look(project / "data" / "chat.db")
    written, stays = (
        "what was written since",
        "data/chat.db: damaged in the backup, left out; the one that is there stays",
    )
    skip = ("restore", "latest", "--yes", "--skip-damaged")

    alone, among, beside = (run(*skip, *more) for more in (
        ("--only", "chat"), ("--only", "chat,uploads"), ("--only", "chat,uploads", "--to", tmp_path / "beside"),
    ))  # fmt: skip

    assert [done.code for done in (alone, among, beside)] == [3, 3, 3]
    assert look(project / "data" / "chat.db") == before
    assert [stays in done.err for done in (alone, among, beside)] == [True, True, False]
    assert "nothing came back, and everything is as it was" in alone.err
    assert (written in alone.err, "--rollback" in alone.err, "in place" in alone.err) == (False, False, False)
    assert "is no longer in place, but for what stays; what was there is in" in among.err
    assert "data/chat.db: damaged in the backup, left out\n" in beside.err


def test_a_database_that_stays_out_with_its_log_is_named(run: Restore, project: Path, tmp_path: Path) -> None:
    crash_cache(project / "cache" / "ingestion" / "docmind.duckdb")
    assert run("create", "--no-qdrant-snapshot", "-q", "--only", "cache", "--accept-shrink").code == 0
    name = run("show", "latest", "--json").json()["directory"]
    flip(Path(name) / "cache" / "docmind.duckdb.wal", 50)

    done = run("restore", "latest", "--yes", "--skip-damaged")

    named = (
        "cache/docmind.duckdb.wal: damaged in the backup, left out, and cache/docmind.duckdb with it; the one that is"
    )
    assert named in done.err


def crash_cache(path: Path) -> None:
    """Rows that are only in its `.wal`."""
    with duckdb.connect(str(path)) as database:
        database.execute("PRAGMA disable_checkpoint_on_shutdown")
        database.execute("INSERT INTO keyvalue VALUES ('later', 'c', '1')")
    assert path.with_name("docmind.duckdb.wal").exists()


# -- places --------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["data/uploads/beside", "data/backups/beside", "cache/ingestion/beside"])
def test_a_folder_beside_lies_in_nothing_that_is_in_use(run: Restore, project: Path, where: str) -> None:
    before = look(project, containers=CONTAINERS)

    done = run("restore", "latest", "--to", project / where, "--yes")

    assert done.code == 2
    assert "which is in use itself" in done.err
    assert look(project, containers=CONTAINERS) == before


def test_a_folder_beside_that_is_the_root_or_a_link_is_named_so(run: Restore, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "somewhere")

    assert "/ is the root of the file system" in run("restore", "latest", "--to", "/", "--yes").err
    assert "link is a link" in run("restore", "latest", "--to", tmp_path / "link", "--yes").err


SHOWN = [("restore", "--yes"), ("restore", "-n"), ("restore-plan",), ("restore-plan", "--json")]


@pytest.mark.parametrize("how", ["uploads", "chat.db", "artifacts"])
def test_a_place_that_is_the_root_is_refused_in_words(
    run: Restore, project: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """And nothing of the root is looked at: that would be the whole machine."""
    if how == "artifacts":
        monkeypatch.setenv("DOCMIND_ARTIFACTS__DIR", "/")
    else:
        put_link(project / "data" / how, Path("/"))
    before, looked = look(project, containers=CONTAINERS), list[str]()
    really = scan.scandir
    monkeypatch.setattr(scan, "scandir", lambda path: (looked.append(str(path)), really(path))[1])

    for command, *words in SHOWN:
        done = run(command, "latest", *words)
        assert done.code == (2 if words == ["--yes"] else 3), done.err
        said = done.out + done.err
        assert ("is the root of the file system: correct the settings" in said) == (how == "artifacts")
        assert (f"data/{how} is a link to /, and" in said) == (how != "artifacts")
    assert look(project, containers=CONTAINERS) == before
    assert [path for path in looked if not path.startswith(str(project))] == []


def put_link(path: Path, to: Path) -> None:
    """In the place of what is there, which comes to lie at `to`, if that is nowhere yet and not the root."""
    aside = path.with_name(f"{path.name} aside")
    path.rename(aside)
    path.symlink_to(to)
    if to.parent.is_dir() and not os.path.lexists(to):
        aside.rename(to)


@pytest.mark.parametrize("where", ["uploads", "chat.db", "storage", ".deployment-id"])
@pytest.mark.parametrize("leads", ["to another place", "nowhere", "in a circle"])
def test_a_link_that_leads_elsewhere_than_at_the_backup_is_not_followed(
    run: Restore, project: Path, tmp_path: Path, where: str, leads: str
) -> None:
    link = project / "data" / where
    leads_to = {"to another place": tmp_path / "precious", "nowhere": tmp_path / "no" / "where", "in a circle": link}
    put_link(link, leads_to[leads])
    before = look(project, containers=CONTAINERS), look(tmp_path)

    done = run("restore", "latest", "--yes")

    assert done.code != 0
    assert (look(project, containers=CONTAINERS), look(tmp_path)) == before
    if leads != "in a circle":
        assert done.code == 2
        assert f"{link} is a link to {link.resolve()}, and data/{where} of the backup is from /" in done.err
        assert "remove the link, or restore with --to DIR; nothing was changed" in done.err
    shown = run("restore-plan", "latest")
    assert (shown.code, "BLOCKED: " in shown.out) == (3, True)
    assert run("restore", "latest", "--only", "cache", "--yes").code == 0


def test_a_link_that_leads_where_it_led_at_the_backup_is_followed(run: Restore, project: Path, tmp_path: Path) -> None:
    """Uploads on another disk, and that disk is new and empty. The data directory is behind a link too."""
    put_link(project / "data" / "uploads", tmp_path / "disk")
    put_link(project / "data", tmp_path / "all data")
    assert run("create", "--no-qdrant-snapshot", "-q").code == 0
    before = look(tmp_path / "disk")
    shutil.rmtree(tmp_path / "disk")

    done = run("restore", "latest", "--yes")

    assert done.code == 0, done.err
    assert look(tmp_path / "disk") == before
    assert (project / "data" / "uploads").is_symlink()
    (project / "data" / "uploads").unlink()
    assert run("restore", "latest", "--yes").code == 0
    assert look(project / "data" / "uploads") == before


def test_a_dry_run_refuses_what_the_restore_would(run: Restore, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()

    done = run("restore", "latest", "--to", tmp_path / "full", "-n")

    assert done.code == 2
    assert "is not empty" in done.err


def test_an_environment_in_use_is_refused_before_anything_is_staged(run: Restore, project: Path) -> None:
    with held_by_another(project / "data" / "storage" / ".lock"):
        done, tried = (run("restore", "latest", way) for way in ("--yes", "-n"))
        later = run("restore-plan", "latest")

    for refused in (done, tried):
        assert refused.code == 11
        assert "in use" in refused.err
        assert "ok, " not in refused.err, "something was staged"
    assert not (project / "data" / ".docmind-restore").exists()
    assert later.code == 0
    assert later.err.splitlines()[-1].startswith("next: docmind-backup restore ")


def test_a_plan_that_is_none_and_one_that_is_not_there(run: Restore, tmp_path: Path) -> None:
    (tmp_path / "none").write_text("{}")

    assert f"{tmp_path}/none is not a plan\n" in run("restore", "--plan", tmp_path / "none", "--yes").err
    gone = run("restore", "--plan", tmp_path / "gone", "--yes")
    assert (gone.code, "cannot be read: No such file or directory" in gone.err) == (2, True)


def test_the_verification_that_is_proposed_finds_the_backup_from_anywhere(
    run: Restore, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "other root"
    shutil.move(tmp_path / "backups", moved)
    monkeypatch.chdir(tmp_path)
    (backup,) = moved.glob("backup_*")
    shown = run("restore-plan", backup, "--json").json()

    (words,) = [warning for warning in shown["warnings"] if warning.startswith("never verified")]

    assert cli(*shlex.split(words.split("`")[1])[1:]).code == 0
