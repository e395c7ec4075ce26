"""What `restore-plan --script` promises: `sh` restores the same without this tool, or stops before live files move."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.catalogs import clone, entries, flip, only_backup, overwrite, record, reseal, rewrite
from tests.conftest import Cli
from tests.environments import DocMindV2, build_v1, build_v2, corpus_hash_v1
from tests.restored import Look, assert_restored, look, targets
from tests.standin import StandIn

from docmind_backup.cli import main
from docmind_backup.core import format as fmt
from docmind_backup.core.model import LinkEntry
from docmind_backup.core.shell import DECODED, LAST_LINE, encoded, moment
from docmind_backup.sample import build_sample

NAMES = (
    b"two  words.pdf",
    b'it\'s "quoted".pdf',
    b"-rf",
    b"line\nbreak\n",
    b"r\xe9sum\xe9",
    b"back\\0101slash",
    b"$HOME`id`*?[a]",
    "Łódź ünï.pdf".encode(),
    b"\x1b[31mred",
    b" ",
    b"tab\there",
)
TOOLS = (
    "sh",
    "cp",
    "mv",
    "ln",
    "mkdir",
    "rm",
    "rmdir",
    "chmod",
    "touch",
    "cat",
    "df",
    "sed",
    "tail",
    "wc",
    "tr",
    "cut",
)
TOOLS += ("date", "sync", "dirname", "sha256sum", "curl")
SHELLS = [words for words in (["sh"], ["bash", "--posix"], ["busybox", "sh"]) if shutil.which(words[0])]


@dataclass(frozen=True, slots=True)
class Ran:
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@dataclass(frozen=True, slots=True)
class Saved:
    """A backup that tests only read, and what was in its source."""

    backup: Path
    env: DocMindV2
    points: dict[str, list[Any]]
    sources: dict[str, Look]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Odd names, odd times and modes, links, an empty folder, uploads in flight, an alias."""
    folder = tmp_path_factory.mktemp("saved")
    with StandIn() as server, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("DOCMIND_", "QDRANT_"))]:
            patch.delenv(name)
        env = build_v2(folder / "docmind", server, in_flight=True)
        server.create_alias("docs of 'all'", env.text_collection)
        _add_oddities(env.uploads)
        assert main(["create", "-C", str(env.project), "--dest", str(folder / "backups"), "--include-env", "-q"]) == 0
        points = {name: server.points(name) for name in server.collections()}
    trees = {"data/uploads": look(env.uploads), "data/artifacts": look(env.artifacts)}
    return Saved(only_backup(folder / "backups"), env, points, trees)


def _add_oddities(uploads: Path) -> None:
    deep = uploads / "deep er" / "empty"
    deep.mkdir(parents=True)
    for number, name in enumerate(NAMES):
        path = Path(os.fsdecode(os.fsencode(uploads) + b"/" + name))
        path.write_bytes(name * number)
        path.chmod((0o600, 0o640, 0o755, 0o444)[number % 4])
        os.utime(path, ns=(0, (1, -1_500_000_001, 9_183_110_400_123_456_789)[number % 3] + number))
    (uploads / "elsewhere").symlink_to("/etc/host name")
    (uploads / "inside").symlink_to(Path(os.fsdecode(b"line\nbreak\n")))
    os.utime(uploads / "inside", ns=(5, 1_000_000_007), follow_symlinks=False)
    deep.chmod(0o500)
    os.utime(deep.parent, ns=(7, 123_456_789_000_000_001))


@pytest.fixture
def project(tmp_path: Path, server: StandIn, saved: Saved) -> Path:
    """A wiped machine: nothing but DocMind's settings, in a folder with spaces and a quote."""
    found = tmp_path / "doc mind's"
    found.mkdir()
    settings = saved.env.env_file.read_text("utf-8").splitlines()
    lines = [f"{line.partition('=')[0]}={server.url}" if "QDRANT_URL" in line else line for line in settings]
    (found / ".env").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return found


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """All that the script may use; this tool and Python are not among it."""
    found = tmp_path / "bin"
    found.mkdir()
    for name in TOOLS:
        where = shutil.which(name)
        if where is None:
            pytest.skip(f"there is no {name}")
        (found / name).symlink_to(where)
    return found


@pytest.fixture
def run(tmp_path: Path, tools: Path) -> Run:
    """Run the script as an operator does, elsewhere, with an environment of its own."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def run(script: Path, *arguments: object, shell: Sequence[str] = ("sh",), **environment: str) -> Ran:
        command = [str(shutil.which(shell[0])), *shell[1:], str(script), *map(str, arguments)]
        done = subprocess.run(
            command, cwd=elsewhere, env={"PATH": str(tools), **environment}, capture_output=True, check=False
        )
        return Ran(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    return run


def script_for(cli: Cli, backup: Path, project: Path, *options: object, code: int = 0) -> Path:
    out = project.parent / f"restore {backup.name}.sh"
    made = cli("restore-plan", backup, "-C", project, "--script", "--out", out, *options)
    assert made.code == code, made.err
    return out


def where(cli: Cli, backup: Path, project: Path, *options: object) -> dict[str, Path]:
    return targets(cli("restore-plan", backup, "-C", project, "--json", *options).json())


# -- the same as was captured --------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_a_wiped_machine_gets_all_back_byte_by_byte_and_to_the_nanosecond(
    cli: Cli, saved: Saved, project: Path, server: StandIn, run: Run, shell: Sequence[str]
) -> None:
    settings, goes_to = (project / ".env").read_bytes(), where(cli, saved.backup, project)
    script = script_for(cli, saved.backup, project)

    done = run(script, "--yes", shell=shell)

    assert (done.code, done.err) == (0, "")
    assert {"data/uploads", "data/chat.db", "data/.quarantine", "cache/docmind.duckdb"} <= set(goes_to)
    assert_restored(saved.backup, goes_to)
    for stored, before in saved.sources.items():
        assert look(goes_to[stored]) == before
    assert {name: server.points(name) for name in server.collections()} == saved.points
    assert server.state.aliases == {"docs of 'all'": saved.env.text_collection}
    assert not any(server.snapshots(name) for name in server.collections())
    assert (project / ".env").read_bytes() == settings
    assert ".env: merge it into" in done.out
    assert not list(project.rglob(".restoring-*"))


def test_without_yes_everything_is_checked_and_nothing_changed(
    cli: Cli, saved: Saved, project: Path, server: StandIn, run: Run
) -> None:
    script, before = script_for(cli, saved.backup, project), look(project)

    done = run(script)

    assert (done.code, done.err) == (0, "")
    assert "nothing was changed" in done.out
    assert look(project) == before
    assert {request.method for request in server.requests[-4:]} == {"GET"}


def test_uploads_of_v1_keep_the_corpus_hash_that_is_made_of_their_times(
    cli: Cli, tmp_path: Path, server: StandIn, run: Run
) -> None:
    env = build_v1(tmp_path / "v1", server)
    corpus = corpus_hash_v1(env.uploads)
    assert cli("create", "-C", env.project, "--include-uploads", "--dest", tmp_path / "b", "-q").code == 0
    backup = only_backup(tmp_path / "b")
    points = {name: server.points(name) for name in server.collections()}
    shutil.rmtree(env.data_dir)
    shutil.rmtree(env.cache_db.parent)
    for name in points:
        server.delete_collection(name)
    goes_to = where(cli, backup, env.project)

    done = run(script_for(cli, backup, env.project), "--yes")

    assert (done.code, done.err) == (0, "")
    assert corpus_hash_v1(env.uploads) == corpus
    assert_restored(backup, goes_to)
    assert {name: server.points(name) for name in server.collections()} == points


def test_an_embedded_qdrant_comes_back_as_files_and_asks_no_server(cli: Cli, tmp_path: Path, run: Run) -> None:
    sample = build_sample(tmp_path / "sample", embedded=True)
    assert sample.qdrant_path
    options = ("--qdrant-path", sample.qdrant_path)
    assert cli("create", "-C", sample.project, "--dest", tmp_path / "b", "-q", *options).code == 0
    backup, before = only_backup(tmp_path / "b"), set(look(sample.qdrant_path))
    shutil.rmtree(sample.data_dir)
    goes_to = where(cli, backup, sample.project, *options)

    script = script_for(cli, backup, sample.project, *options)
    done = run(script, "--yes")

    assert (done.code, done.err) == (0, "")
    assert "curl -q" not in script.read_text("utf-8")
    assert_restored(backup, goes_to)
    assert set(look(sample.qdrant_path)) == before - {"/.lock"}


def test_the_backup_may_have_moved_to_another_folder(cli: Cli, saved: Saved, project: Path, run: Run) -> None:
    script, goes_to = script_for(cli, saved.backup, project), where(cli, saved.backup, project)
    moved = project.parent / "usb stick"
    shutil.copytree(saved.backup, moved, symlinks=True)

    assert run(script, "--yes", "../usb stick").code == 0

    assert_restored(moved, goes_to)


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_every_byte_of_a_name_and_every_time_comes_through(shell: Sequence[str], tmp_path: Path) -> None:
    raw = bytes(range(1, 256)).replace(b"/", b"")
    names = [*(bytes([byte]) for byte in raw), raw, b"x\n", "Łódź\u202e".encode(), b"\\0101", b"7\x017"]
    text = "\n".join(f"decoded {encoded(os.fsdecode(name))}\nprintf '%s/' \"$n\"" for name in names)
    (tmp_path / "t.sh").write_text(f"LC_ALL=C\nset -eu\n{DECODED}\n{text}\n", encoding="utf-8")

    shown = subprocess.run([*shell, str(tmp_path / "t.sh")], capture_output=True, check=True).stdout

    assert shown.split(b"/")[:-1] == names
    assert text.isprintable() or all(line.isprintable() for line in text.splitlines())
    assert [moment(ns) for ns in (0, 1, -1_500_000_000, -1, 1_795_235_785_207_237_914)] == [
        "@0.000000000", "@0.000000001", "@-1.500000000", "@-0.000000001", "@1795235785.207237914"
    ]  # fmt: skip


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_its_words_may_come_in_any_order_and_none_is_passed_over(
    cli: Cli, small: tuple[DocMindV2, Path], run: Run, shell: Sequence[str]
) -> None:
    env, backup = small
    script, before = script_for(cli, backup, env.project), live(env)

    for words in ((backup, backup), (backup, "--yse"), ("--yes", backup, "more"), ("-n",)):
        refused = run(script, *words, shell=shell)
        assert (refused.code, refused.out) == (2, "")
        assert "[--yes] [FOLDER OF THE BACKUP]" in refused.err
    assert live(env) == before
    goes_to = where(cli, backup, env.project)
    assert run(script, backup, "--yes", shell=shell).code == 0
    assert_restored(backup, goes_to)


# -- over what is there --------------------------------------------------------------------------


@pytest.fixture
def small(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[DocMindV2, Path]:
    """An environment that went on after its backup of files only, with stale sidecars beside a database."""
    monkeypatch.setenv("DOCMIND_BACKUP_QDRANT", "off")
    env = build_v2(tmp_path / "doc mind", analytics=False, logs=False)
    shutil.rmtree(env.artifacts)
    assert (
        cli("create", "-C", env.project, "--only", "uploads,chat,identity,storage", "--accept-shrink", "-q").code == 0
    )
    (env.uploads / "new.pdf").write_bytes(b"since")
    env.chat_db.write_bytes(b"other")
    env.chat_db.with_name("chat.db-wal").write_bytes(b"stale")
    (env.data_dir / ".deployment-id").unlink()
    return env, only_backup(env.backups)


def live(env: DocMindV2) -> dict[str, Look]:
    """All that a restore may touch."""
    names = (".deployment-id", "storage", "uploads", "chat.db", "chat.db-wal", "chat.db-shm", "chat.db-journal")
    return {name: look(env.data_dir / name) for name in names}


def test_what_is_there_leaves_with_its_sidecars_and_lies_in_one_rollback_folder(
    cli: Cli, small: tuple[DocMindV2, Path], run: Run
) -> None:
    env, backup = small
    before, goes_to = live(env), where(cli, backup, env.project)

    done = run(script_for(cli, backup, env.project), "--yes")

    assert (done.code, done.err) == (0, "")
    assert_restored(backup, goes_to)
    (old,) = env.data_dir.glob("before-restore-*")
    assert {name: look(old / "data" / name) for name in before} == before
    assert old.stat().st_mode & 0o777 == 0o700
    assert str(old) in done.out
    assert (env.backups / backup.name / "backup.json").is_file()

    back = subprocess.run(["sh", str(old / "go-back.sh")], capture_output=True, check=False)

    assert (back.returncode, back.stderr) == (0, b"")
    assert live(env) == before
    assert_restored(backup, {stored: old / "undone" / stored for stored in goes_to})


def test_when_any_rename_fails_the_way_back_brings_all_back(
    cli: Cli, small: tuple[DocMindV2, Path], run: Run, tools: Path
) -> None:
    """`mv` fails at its first call, its second, ...: exit code, words, and go-back.sh at each."""
    env, backup = small
    script, before = script_for(cli, backup, env.project), live(env)
    calls = tools.parent / "calls"
    real = (tools / "mv").readlink()
    (tools / "mv").unlink()
    (tools / "mv").write_text(
        f'#!/bin/sh\necho x >>"{calls}"\n[ "$(wc -l <"{calls}")" -ne "$FAIL_AT" ] || exit 1\nexec {real} "$@"\n'
    )
    (tools / "mv").chmod(0o755)

    for at in range(1, 9):
        calls.write_bytes(b"")
        done = run(script, "--yes", FAIL_AT=str(at))
        (old,) = env.data_dir.glob("before-restore-*")
        assert done.code == 1
        assert "go-back.sh" in done.err
        assert subprocess.run(["sh", str(old / "go-back.sh")], capture_output=True, check=False).returncode == 0
        assert live(env) == before, at
        for left in env.data_dir.glob(".restoring-*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        shutil.rmtree(old)
    assert run(script, "--yes", FAIL_AT="99").code == 0
    assert len(calls.read_bytes().split()) >= 9


def puts_a_log_beside(database: Path, tools: Path, name: str) -> None:
    """The application was started while the script copied: its log appears at the first call of a program."""
    real = (tools / name).readlink()
    (tools / name).unlink()
    (tools / name).write_text(f'#!/bin/sh\nprintf stale >"{database}-wal"\nexec {real} "$@"\n')
    (tools / name).chmod(0o755)


@pytest.mark.parametrize("program", ["sync", "mv"])
def test_a_sidecar_that_appears_while_it_copies_meets_no_restored_database(
    cli: Cli, small: tuple[DocMindV2, Path], run: Run, tools: Path, program: str
) -> None:
    """`sync`: after the copies, before the first rename. `mv`: between renames; then the way back leads out of it."""
    env, backup = small
    env.chat_db.with_name("chat.db-wal").unlink()
    script, before = script_for(cli, backup, env.project), live(env)
    puts_a_log_beside(env.chat_db, tools, program)

    done = run(script, "--yes")

    assert done.code == 17
    assert ("nothing that was there before was touched" in done.err) == (program == "sync")
    assert "chat.db-wal" in done.err
    if program == "mv":
        assert not env.chat_db.exists()
        (old,) = env.data_dir.glob("before-restore-*")
        assert subprocess.run(["sh", str(old / "go-back.sh")], capture_output=True, check=False).returncode == 0
    env.chat_db.with_name("chat.db-wal").unlink(missing_ok=True)
    assert live(env) == before


# -- made in advance, run when the disk has died -------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kept:
    """A live environment with its server, a backup of it elsewhere, and the script that was made then."""

    env: DocMindV2
    backup: Path
    script: Path
    goes_to: dict[str, Path]
    points: dict[str, list[Any]]


@pytest.fixture
def kept(cli: Cli, tmp_path: Path, server: StandIn) -> Kept:
    env = build_v2(tmp_path / "doc mind", server)
    assert cli("create", "-C", env.project, "--dest", tmp_path / "b", "--include-logs", "-q").code == 0
    backup = only_backup(tmp_path / "b")
    env.chat_db.with_name("chat.db-wal").write_bytes(b"stale")
    points = {name: server.points(name) for name in server.collections()}
    for name in points:
        server.create_alias(f"{name}-alias", name)
    script, goes_to = script_for(cli, backup, env.project), where(cli, backup, env.project)
    return Kept(env, backup, script, goes_to, points)


def wipe(env: DocMindV2, what: str) -> None:
    match what:
        case "project":
            shutil.rmtree(env.project)
        case "data":
            shutil.rmtree(env.data_dir)
        case "some":
            shutil.rmtree(env.uploads)
            shutil.rmtree(env.cache_db.parent.parent)
            (env.data_dir / ".deployment-id").unlink()
        case "database":
            env.chat_db.unlink()
        case _:
            env.chat_db.with_name("chat.db-wal").unlink()


@pytest.mark.parametrize("what", ["project", "data", "some", "database", "sidecar"])
def test_made_before_the_loss_it_gives_what_a_restore_gives(
    cli: Cli, kept: Kept, server: StandIn, run: Run, what: str
) -> None:
    env, settings = kept.env, kept.env.env_file.read_bytes()
    wipe(env, what)
    for name in kept.points:
        server.delete_collection(name)

    done = run(kept.script, "--yes")

    assert (done.code, done.err) == (0, "")
    assert_restored(kept.backup, kept.goes_to)
    assert {name: server.points(name) for name in server.collections()} == kept.points
    by_script = restored_at(kept)
    shutil.rmtree(env.project)
    env.project.mkdir()
    env.env_file.write_bytes(settings)
    assert cli("restore", kept.backup, "-C", env.project, "--dest", kept.backup.parent, "--yes").code == 0
    assert restored_at(kept) == by_script


def restored_at(kept: Kept) -> dict[str, Look]:
    """But for the lock that a restore takes in the index's folder, as DocMind does."""
    found = {stored: look(path) for stored, path in kept.goes_to.items()}
    return {stored: {name: what for name, what in of.items() if name != "/.lock"} for stored, of in found.items()}


@pytest.mark.parametrize("what", ["data", "some", "database", "sidecar"])
def test_after_a_loss_the_way_back_leads_to_what_was_left(kept: Kept, server: StandIn, run: Run, what: str) -> None:
    wipe(kept.env, what)
    for name in kept.points:
        server.delete_collection(name)
    sidecars = ("-wal", "-shm", "-journal", ".wal")
    before = {stored: look(path, *sidecars) for stored, path in kept.goes_to.items()}
    assert run(kept.script, "--yes").code == 0
    (old,) = kept.env.data_dir.glob("before-restore-*")

    back = subprocess.run(["sh", str(old / "go-back.sh")], capture_output=True, check=False)

    assert (back.returncode, back.stderr) == (0, b"")
    assert {stored: look(path, *sidecars) for stored, path in kept.goes_to.items()} == before
    assert_restored(kept.backup, {stored: old / "undone" / stored for stored in kept.goes_to})


def test_after_a_loss_a_collection_that_is_still_there_is_not_touched(kept: Kept, server: StandIn, run: Run) -> None:
    wipe(kept.env, "data")

    done = run(kept.script, "--yes")

    assert done.code == 17
    assert "curl -X DELETE" in done.out
    assert {name: server.points(name) for name in server.collections()} == kept.points
    assert not kept.env.data_dir.exists()


# -- it stops before anything live moves ---------------------------------------------------------


def untouched(env: DocMindV2, before: dict[str, Look]) -> bool:
    """As before; and nothing of the script's is left but what it names."""
    return live(env) == before and not list(env.data_dir.glob("before-restore-*"))


def test_a_damaged_file_stops_it(cli: Cli, small: tuple[DocMindV2, Path], run: Run) -> None:
    env, backup = small
    script, before = script_for(cli, backup, env.project), live(env)
    flip(backup / "data" / "uploads" / "document-03.pdf", 100)

    done = run(script, "--yes")

    assert done.code == 4
    assert "document-03.pdf: FAILED" in done.out
    assert "stopped: the backup is damaged\nnothing was changed" in done.err
    assert untouched(env, before)


def test_damage_that_somebody_made_consistent_stops_it_too(cli: Cli, small: tuple[DocMindV2, Path], run: Run) -> None:
    env, backup = small
    script, before = script_for(cli, backup, env.project), live(env)
    rewrite(backup, "data/uploads/document-03.pdf", b"forged")

    done = run(script, "--yes")

    assert done.code == 4
    assert "is not the backup that this script was made for" in done.err
    assert untouched(env, before)


@pytest.mark.parametrize(("fault", "code"), [("exit 1", 1), ("kill -TERM $PPID", 143), ("kill -INT $PPID", 130)])
def test_a_file_that_cannot_be_copied_and_a_signal_stop_it_and_the_copies_are_named(
    cli: Cli, small: tuple[DocMindV2, Path], run: Run, tools: Path, fault: str, code: int
) -> None:
    env, backup = small
    script, before = script_for(cli, backup, env.project), live(env)
    (tools / "cp").unlink()
    (tools / "cp").write_text(f'#!/bin/sh\ncase $1 in *chat.db) {fault} ;; esac\nexec {shutil.which("cp")} "$@"\n')
    (tools / "cp").chmod(0o755)

    done = run(script, "--yes")

    assert done.code == code
    assert "nothing that was there before was touched" in done.err
    assert untouched(env, before)
    left = sorted(str(path) for path in env.data_dir.glob(".restoring-*"))
    assert left
    assert [line.strip() for line in done.err.splitlines() if ".restoring-" in line] == left
    again = run(script, "--yes")
    assert again.code == 17
    assert "an earlier run left" in again.err


def test_a_copy_that_is_not_what_the_backup_holds_stops_it(
    cli: Cli, small: tuple[DocMindV2, Path], run: Run, tools: Path
) -> None:
    env, backup = small
    script, before = script_for(cli, backup, env.project), live(env)
    (tools / "cp").unlink()
    (tools / "cp").write_text(f'#!/bin/sh\n{shutil.which("cp")} "$@"\nchmod u+w "$2"\nprintf x >>"$2"\n')
    (tools / "cp").chmod(0o755)

    done = run(script, "--yes")

    assert done.code == 4
    assert "a copy of" in done.err
    assert untouched(env, before)


@pytest.mark.parametrize("change", ["came", "became a file", "became a folder", "became a link", "sidecar came"])
def test_a_target_that_changed_since_stops_it(cli: Cli, small: tuple[DocMindV2, Path], run: Run, change: str) -> None:
    env, backup = small
    script = script_for(cli, backup, env.project)
    match change:
        case "came":
            (env.data_dir / ".deployment-id").write_text("x")
        case "became a file":
            env.uploads.rename(env.data_dir / "elsewhere")
            env.uploads.write_text("x")
        case "became a folder":
            env.chat_db.unlink()
            env.chat_db.mkdir()
        case "became a link":
            env.uploads.rename(env.data_dir / "elsewhere")
            env.uploads.symlink_to("elsewhere")
        case _:
            env.chat_db.with_name("chat.db-journal").write_bytes(b"x")
    before = live(env)

    done = run(script, "--yes")

    assert done.code == 17
    assert "the target changed since this script was made" in done.err
    assert f" away, or make a new script where the tool is: docmind-backup restore-plan {record(backup).id}" in done.err
    assert untouched(env, before)


def test_a_script_that_was_cut_off_does_nothing(cli: Cli, small: tuple[DocMindV2, Path], run: Run) -> None:
    env, backup = small
    script, before = script_for(cli, backup, env.project), live(env)
    whole = script.read_text("utf-8").splitlines(keepends=True)
    assert whole[-1] == f"{LAST_LINE}\n"

    for lines in range(1, len(whole), 40):
        script.write_text("".join(whole[:lines]), encoding="utf-8")
        run(script, "--yes")
        assert untouched(env, before), lines


def test_a_blocked_plan_is_a_script_that_only_explains(
    cli: Cli, saved: Saved, project: Path, server: StandIn, run: Run
) -> None:
    server.version = "1.17.0"
    before = look(project)
    script = script_for(cli, saved.backup, project, code=3)

    done = run(script, "--yes")

    assert done.code == 3
    assert "the target runs Qdrant 1.17.0" in done.err
    assert look(project) == before


# -- Qdrant --------------------------------------------------------------------------------------


def test_a_wrong_count_stops_it_and_says_what_was_made(
    cli: Cli, tmp_path: Path, saved: Saved, project: Path, server: StandIn, run: Run
) -> None:
    stated = record(saved.backup).qdrant
    assert stated
    wrong = tuple(replace(c, points_min=c.points_min + 1, points_max=c.points_max + 1) for c in stated.collections)
    backup = clone(saved.backup, 1, root=tmp_path, qdrant=replace(stated, collections=wrong))

    done = run(script_for(cli, backup, project), "--yes")

    assert done.code == 15
    assert "holds 25 points after the upload; the backup's record says 26 to 26" in done.err
    assert f"stay there: {saved.env.text_collection}" in done.err
    assert server.collections() == [saved.env.text_collection]
    assert not server.snapshots(saved.env.text_collection)
    assert not (project / "data" / "uploads").exists()


@pytest.mark.parametrize("what", ["collection", "alias"])
def test_what_exists_on_the_server_is_never_touched(
    cli: Cli, saved: Saved, project: Path, server: StandIn, run: Run, what: str
) -> None:
    script = script_for(cli, saved.backup, project)
    server.create_collection("precious" if what == "alias" else saved.env.image_collection)
    if what == "alias":
        server.create_alias("docs of 'all'", "precious")
    before, asked = look(project), len(server.requests)

    done = run(script, "--yes")

    assert done.code == 17
    assert "exists" in done.err
    assert look(project) == before
    assert {request.method for request in server.requests[asked:]} == {"GET"}


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
@pytest.mark.parametrize("what", ["collection", "alias"])
def test_what_is_shown_to_free_a_name_works_when_it_is_pasted(
    cli: Cli,
    saved: Saved,
    project: Path,
    server: StandIn,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    shell: Sequence[str],
    what: str,
) -> None:
    """With a key, where a proxy is set. An alias is no collection: DELETE would leave it, in silence."""
    server.api_key, alias, image = KEY, "docs of 'all'", saved.env.image_collection
    monkeypatch.setenv("DOCMIND_DATABASE__QDRANT_API_KEY", KEY)
    script = script_for(cli, saved.backup, project)
    server.create_collection("precious" if what == "alias" else image)
    if what == "alias":
        server.create_alias(alias, "precious")
        server.create_alias("other", "precious")
    key = {"QDRANT_API_KEY" if what == "alias" else "DOCMIND_DATABASE__QDRANT_API_KEY": KEY}

    done = run(script, "--yes", shell=shell, **key)

    assert done.code == 17, done.err
    assert KEY not in done.out + done.err
    environment = {"PATH": os.environ["PATH"], "http_proxy": "http://127.0.0.1:1", **key}
    pasted = [str(shutil.which(shell[0])), *shell[1:], "-c"]
    for line in [line for line in done.out.splitlines() if line.startswith("    ")]:
        command = line.replace("NAME'", f"{next(iter(server.snapshots(image)), '')}'")
        subprocess.run([*pasted, command], cwd=project, env=environment, check=True)
    if what == "alias":
        assert (server.collections(), server.state.aliases) == (["precious"], {"other": "precious"})
    else:
        assert server.collections() == []
        assert {path.name: path.read_bytes() for path in project.glob("*.snapshot")} == server.snapshots(image)
        assert len(server.snapshots(image)) == 1


def test_a_server_of_another_version_than_planned_or_none_stops_it(
    cli: Cli, saved: Saved, project: Path, server: StandIn, run: Run
) -> None:
    script, before = script_for(cli, saved.backup, project), look(project)
    server.version = "1.19.0"
    assert run(script, "--yes").code == 17
    server.close()

    done = run(script, "--yes")

    assert done.code == 15
    assert "does not answer" in done.err
    assert look(project) == before


def test_a_refused_upload_stops_it_before_files_move(
    cli: Cli, saved: Saved, project: Path, server: StandIn, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.api_key, server.read_only_key = "all", "some"
    monkeypatch.setenv("DOCMIND_DATABASE__QDRANT_API_KEY", "all")
    script = script_for(cli, saved.backup, project)

    done = run(script, "--yes", QDRANT_API_KEY="some")

    assert done.code == 15
    assert "manage access is required" in done.err
    assert server.collections() == []
    assert not (project / "data" / "uploads").exists()


KEY = "k\"e\\y$(id)'s"


def test_the_key_comes_from_the_environment_and_is_in_no_file_and_no_process_list(
    cli: Cli, saved: Saved, project: Path, server: StandIn, run: Run, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.api_key = KEY
    monkeypatch.setenv("DOCMIND_DATABASE__QDRANT_API_KEY", KEY)
    script, seen = script_for(cli, saved.backup, project), tools.parent / "seen"
    for name in TOOLS:
        real = (tools / name).readlink()
        (tools / name).unlink()
        said = f"printf '%s\\n' \"$0\" \"$@\" >>'{seen}'; env >>'{seen}'"
        (tools / name).write_text(f'#!/bin/sh\n{said}\nexec {real} "$@"\n')
        (tools / name).chmod(0o755)
    (tools / "env").symlink_to(str(shutil.which("env")))

    assert run(script, "--yes").code == 15
    done = run(script, "--yes", QDRANT_API_KEY=KEY)

    assert (done.code, done.err) == (0, "")
    assert {name: server.points(name) for name in server.collections()} == saved.points
    assert b"snapshots/upload" in seen.read_bytes()
    everything = script.read_bytes() + seen.read_bytes() + (done.out + done.err).encode()
    assert b"$(id)'s" not in everything


def test_no_secret_is_in_a_script(cli: Cli, saved: Saved, project: Path) -> None:
    secrets = [line.partition("=")[2] for line in saved.env.env_file.read_text().splitlines() if "KEY" in line]
    script = script_for(cli, saved.backup, project).read_text("utf-8")

    assert secrets
    assert [secret for secret in secrets if secret and secret in script] == []


# -- making it -----------------------------------------------------------------------------------


def test_it_goes_to_stdout_or_into_a_file_for_its_owner_alone(cli: Cli, saved: Saved, project: Path) -> None:
    shown = cli("restore-plan", saved.backup, "-C", project, "--script", "--quiet")
    out = script_for(cli, saved.backup, project)

    assert shown.code == 0
    assert shown.out == out.read_text("utf-8")
    assert out.stat().st_mode & 0o777 == 0o700
    assert all(line.isprintable() for line in shown.out.splitlines() if not line.startswith("    "))


def test_a_place_that_cannot_be_written_is_one_error_and_leaves_nothing(
    cli: Cli, saved: Saved, project: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for out in (folder, tmp_path / "none" / "r.sh"):
        done = cli("restore-plan", saved.backup, "-C", project, "--script", "--out", out)
        assert done.code == 1
        assert f"cannot write {out}" in done.err
    assert not list(tmp_path.glob(".folder*"))
    assert cli("restore-plan", saved.backup, "-C", project, "--script", "--json").code == 2
    assert cli("restore-plan", saved.backup, "-C", project, "--script", "--to", folder).code == 2


@pytest.mark.parametrize(
    "forged",
    [
        b'{"path":"data/chat.db/../x","type":"file"}',
        b'{"path":"logs/x","type":"link","target":"/etc","mtime_ns":1,"uid":0,"gid":0}',
        b"junk",
    ],
)
def test_an_inventory_that_is_none_makes_no_script(
    cli: Cli, small: tuple[DocMindV2, Path], tmp_path: Path, forged: bytes
) -> None:
    env, backup = small
    lines = (backup / fmt.INVENTORY).read_bytes().splitlines()
    changed = b"\n".join([forged.ljust(len(lines[0])), *lines[1:]]) + b"\n"
    overwrite(backup / fmt.INVENTORY, changed)
    out = tmp_path / "r.sh"
    command = ("restore-plan", backup, "-C", env.project, "--script", "--out", out)
    assert cli(*command).code == 4
    reseal(backup)

    done = cli(*command)

    assert done.code == 4
    assert "hint: `docmind-backup verify" in done.err
    assert not out.exists()


def test_a_forged_link_never_leads_a_copy_out_of_its_place(
    cli: Cli, small: tuple[DocMindV2, Path], run: Run, tmp_path: Path
) -> None:
    """The inventory says `uploads/x` is a link to elsewhere and then a file below `uploads/x/`."""
    env, backup = small
    outside = tmp_path / "outside"
    outside.mkdir()
    (backup / "data" / "uploads").chmod(0o700)
    (backup / "data" / "uploads" / "x").mkdir()
    stored = entries(backup)
    victim = stored.pop("data/uploads/document-00.pdf")
    (backup / victim.path).rename(backup / "data" / "uploads" / "x" / "f")
    stored["data/uploads/x"] = LinkEntry("data/uploads/x", str(outside))
    stored["data/uploads/x/f"] = replace(victim, path="data/uploads/x/f")
    kept = [e for path, e in stored.items() if not path.startswith("data/uploads")]
    ours = [e for path, e in sorted(stored.items()) if path.startswith("data/uploads")]
    _reorder(backup, kept, ours)

    script = script_for(cli, backup, env.project)
    before = live(env)

    assert run(script, "--yes").code != 0
    assert untouched(env, before)
    assert list(outside.iterdir()) == []


def _reorder(backup: Path, kept: Sequence[Any], ours: Sequence[Any]) -> None:
    lines = [list(map(fmt.entry_line, part)) for part in (kept, ours)]
    overwrite(backup / fmt.INVENTORY, b"".join(lines[0] + lines[1]))
    offset = sum(map(len, lines[0]))
    sources = [
        replace(source, lines=(offset, sum(map(len, lines[1]))), totals=replace(source.totals, links=1))
        if source.stored == "data/uploads"
        else _found(source, kept)
        for source in record(backup).sources
    ]
    overwrite(backup / fmt.RECORD, fmt.record_bytes(replace(record(backup), sources=tuple(sources))))
    names = {e.path: e.sha256 for e in (*kept, *ours) if hasattr(e, "sha256")}
    overwrite(backup / fmt.SUMS, b"".join(fmt.sums_line(name, digest) for name, digest in names.items()))
    reseal(backup)


def _found(source: Any, kept: Sequence[Any]) -> Any:
    """A source with the place of its lines among `kept`."""
    offset, length = 0, 0
    for entry in kept:
        size = len(fmt.entry_line(entry))
        if entry.path == source.stored or entry.path.startswith(f"{source.stored}/"):
            length += size
        elif not length:
            offset += size
    return replace(source, lines=(offset, length))


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="there is no shellcheck")
def test_shellcheck_has_nothing_to_say(cli: Cli, saved: Saved, project: Path, tmp_path: Path) -> None:
    script = script_for(cli, saved.backup, project)
    go_back = script.read_text("utf-8").split("<<'END_OF_GO_BACK'\n")[1].split("END_OF_GO_BACK\n")[0]
    (tmp_path / "go-back.sh").write_text(go_back, encoding="utf-8")

    for path in (script, tmp_path / "go-back.sh"):
        done = subprocess.run(["shellcheck", "-S", "warning", path], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_every_shell_can_parse_it(cli: Cli, saved: Saved, project: Path, shell: Sequence[str]) -> None:
    script = script_for(cli, saved.backup, project)

    assert subprocess.run([*shell, "-n", script], capture_output=True, check=False).stderr == b""
