"""The face: golden files of what people and programs read, and the tool in a terminal, in a pipe, without colours.

`pytest tests/test_face.py --update-golden` writes the golden files anew: read the difference before you commit it.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

import pytest
from tests.conftest import SHELL, Cli, Result
from tests.environments import DocMindV2, build_v2
from tests.standin import Stall, StandIn

from docmind_backup import __version__
from docmind_backup.catalog import Catalog, name_of
from docmind_backup.core import format as fmt
from docmind_backup.core.model import (
    CollectionRecord,
    Layout,
    Omission,
    Part,
    QdrantRecord,
    Reason,
    Record,
    Scope,
    Seal,
    Shrink,
    Totals,
)

GOLDEN = Path(__file__).parent / "golden"
COMMANDS = (
    "create",
    "prune",
    "list",
    "show",
    "verify",
    "leftovers",
    "show-config",
    "restore-plan",
    "restore",
    "hold",
    "release",
    "demo",
)
Golden = Callable[[str, str], None]


# -- fixed words for what changes from run to run ------------------------------------------------

HOME = "/home/ada/docmind-lab"
"""Stands for the folder of a test; as long as its path, so that tables stay as wide as they were."""

VOLATILE = (
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)?"), "<time>"),
    (re.compile(r"\d{4}-\d\d-\d\d-\d\d-\d\d-\d\d(?=\.snapshot)"), "<time>"),
    (re.compile(r"\((now|\d+ min)\)"), "(now)"),
    (re.compile(r"in (\d+ min )?\d+(\.\d)? s\b"), "in <time>"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "<sha256>"),
    (re.compile(r"http://127\.0\.0\.1:\d+"), "http://127.0.0.1:6333"),
    (re.compile(r"[\d.]+ [kMGT]B free"), "<bytes> free"),
    (re.compile(r"\d{1,3}(,\d{3}){2,} bytes"), "<bytes> bytes"),
    (re.compile(rf"(?<![\d.]){re.escape(__version__)}(?![\d.])"), "<version>"),
    (re.compile(rf"\bon {re.escape(platform.node())}\b"), "on <host>"),
)
WORDS = {"host": "<host>", "salt": "<salt>", "hmac_secret": "<fingerprint>", "config": "<as the server gave it>"}
NUMBERS = re.compile(r"size|.*bytes.*|free|needed|.*_ms|.*_ns|dev|ino|uid|gid|stored|lines|size_bytes")
"""Keys of JSON documents whose numbers say nothing to a reader."""
ID = re.compile(r"(?<!\d)(\d{8}_\d{6})(_[0-9a-f]{12})?(?![0-9a-f])")


def fixed(text: str, folder: Path) -> str:
    """`text` with what is another thing in each run replaced by words; ids are numbered as they come."""
    ids: dict[str, int] = {}

    def numbered(found: re.Match[str]) -> str:
        number = ids.setdefault(found[1], len(ids) + 1)
        return f"20260101_1200{number:02}" + (f"_{number:012}" if found[2] else "")

    text = text.replace(str(folder), HOME)
    for pattern, word in VOLATILE:
        text = pattern.sub(word, text)
    text = "\n".join(_without_snapshot_sizes(line.rstrip()) for line in text.splitlines())
    return ID.sub(numbered, text).strip("\n") + "\n"


def _without_snapshot_sizes(line: str) -> str:
    return re.sub(r"\d(?=[\d.]* kB)|(?<=\.)\d(?= kB)", "#", line) if "docmind_" in line else line


def fixed_json(document: Any, folder: Path, *, indent: int | None = 1) -> str:
    """A document as `fixed` has it, of lists of objects one of each kind."""
    return fixed(json.dumps(_plain(document), indent=indent, ensure_ascii=False), folder)


def _plain(value: Any, key: str = "") -> Any:
    match value:
        case _ if key in WORDS:
            return WORDS[key]
        case dict():
            return {str(k): _plain(v, str(k)) for k, v in value.items()}
        case [dict(), *_]:
            kinds = {item.get("kind") or item.get("action"): item for item in reversed(value)}
            kept = [_plain(item) for item in value if item in kinds.values()]
            return [*kept, f"<{len(value) - len(kept)} more>"] if len(kept) < len(value) else kept
        case list():
            return [_plain(item, key) for item in value]
        case int() | float() if NUMBERS.fullmatch(key) and not isinstance(value, bool):
            return "<number>"
        case _:
            return value


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compare a text with a golden file; `--update-golden` writes the file instead."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.write_text(text, "utf-8")
        assert text == path.read_text("utf-8")

    return compare


def session(*steps: tuple[str, Result]) -> str:
    """Commands with what they said, as one would see it: answer first, then what went to stderr."""
    blocks = [f"$ docmind-backup {words}\n{done.out}{_marked(done.err)}[{done.code}]\n" for words, done in steps]
    return "\n".join(blocks)


def _marked(text: str) -> str:
    return "".join(f"! {line}\n" for line in text.splitlines())


# -- a backup to look at -------------------------------------------------------------------------


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose path always has the same length, and is short enough for a narrow terminal."""
    with TemporaryDirectory(prefix="docmind-", dir="/tmp") as name:
        assert len(name) == len(HOME)
        yield Path(name)


@pytest.fixture
def short_env(server: StandIn) -> Iterator[DocMindV2]:
    with short_folder() as folder:
        yield build_v2(folder, server)


@dataclass(frozen=True, slots=True)
class Made:
    """One backup, made once for all tests that only look at it."""

    env: DocMindV2
    server: StandIn
    created: Result
    path: Path


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    """A v2 environment with a link, an empty folder and a name that is not UTF-8, and its backup."""
    with StandIn() as server, short_folder() as folder:
        env = build_v2(folder, server)
        (env.uploads / "link.pdf").symlink_to("document-00.pdf")
        (env.uploads / "empty folder").mkdir()
        Path(os.fsdecode(os.fsencode(env.uploads) + b"/r\xe9sum\xe9.pdf")).write_bytes(b"content")
        created = run(env.project, "create", "--include-logs", "--include-env", "--json")
        yield Made(env, server, created, Path(json.loads(created.out)["directory"]))


@pytest.fixture
def there(made: Made, monkeypatch: pytest.MonkeyPatch) -> Made:
    """`made`, and one stands in its folder."""
    monkeypatch.chdir(made.env.project)
    return made


def run(cwd: Path, *args: str, stdout: int = subprocess.PIPE) -> Result:
    """The tool as a process of its own whose output goes to pipes; colours would be welcome."""
    command = [sys.executable, "-m", "docmind_backup", *args]
    done = subprocess.run(
        command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, cwd=cwd, env=_environment({})
    )
    return Result(done.returncode, done.stdout or "", done.stderr)


def _environment(more: dict[str, str]) -> dict[str, str]:
    plain = {
        k: v for k, v in os.environ.items() if not k.startswith((*SHELL, "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"))
    }
    return {**plain, "TZ": "UTC", "TERM": "xterm-256color", **more}


# -- golden files --------------------------------------------------------------------------------


def test_help_says_what_it_says(cli: Cli, golden: Golden) -> None:
    pages = [("--help", cli("--help")), *((f"{name} --help", cli(name, "--help")) for name in COMMANDS)]

    golden("help.txt", fixed(session(*pages), Path("/nowhere")))


def test_every_command_that_is_shown_has_its_help_in_the_golden_file(cli: Cli) -> None:
    listed = re.findall(r"^  ([a-z][a-z-]*)  ", cli("--help").out, re.MULTILINE)

    assert sorted(listed) == sorted(COMMANDS)


def test_create_as_json(made: Made, golden: Golden) -> None:
    assert made.created.err == ""

    golden("create.json", fixed_json(made.created.json(), made.env.project))


def test_the_manifest_for_docmind(made: Made, golden: Golden) -> None:
    golden("manifest.json", fixed_json(json.loads((made.path / "manifest.json").read_bytes()), made.env.project))


def test_the_record(made: Made, golden: Golden) -> None:
    golden("backup.json", fixed_json(json.loads((made.path / "backup.json").read_bytes()), made.env.project))


def test_one_inventory_line_of_each_kind(made: Made, golden: Golden) -> None:
    lines = [json.loads(line) for line in (made.path / "inventory.jsonl").read_bytes().splitlines()]
    kinds = {(line["type"], *line, *line.get("origin", {})): line for line in reversed(lines)}
    first = [line for line in lines if line in kinds.values()]

    golden("inventory.txt", "".join(fixed_json(line, made.env.project, indent=None) for line in first))


def test_the_readme_of_a_backup(made: Made, golden: Golden) -> None:
    golden("readme.txt", fixed((made.path / "README.md").read_text("utf-8"), made.env.project))


def test_show(cli: Cli, there: Made, golden: Golden) -> None:
    golden("show.txt", fixed(session(("show", cli("show"))), there.env.project))


def test_restore_plan(cli: Cli, there: Made, golden: Golden) -> None:
    shown = cli("restore-plan")

    golden("restore-plan.txt", fixed(session(("restore-plan", shown)), there.env.project))


def test_restore_plan_as_json(cli: Cli, there: Made, golden: Golden) -> None:
    shown = cli("restore-plan", "--json")

    golden("restore-plan.json", fixed_json(shown.json(), there.env.project))


def test_verify_names_what_it_finds(cli: Cli, there: Made, golden: Golden, tmp_path: Path) -> None:
    copy = tmp_path / there.path.name
    shutil.copytree(there.path, copy, symlinks=True)
    (copy / "data/uploads/document-00.pdf").unlink()
    _append(copy / "data/uploads/document-01.pdf", b"more")
    _append(copy / "cache/docmind.duckdb", b"")
    (copy / "data/uploads/notes.txt").write_bytes(b"not ours")

    steps = [("verify DIR", cli("verify", copy))]
    steps += [("verify --json DIR", cli("verify", "--json", copy))]
    steps += [("verify --quick", cli("verify", "--quick"))]

    golden("verify.txt", fixed(session(*steps).replace(str(tmp_path), HOME), there.env.project))


def _append(path: Path, content: bytes) -> None:
    """Longer; with nothing to append, the same size and another first byte."""
    path.chmod(0o600)
    old = path.read_bytes()
    path.write_bytes(old + content if content else bytes([old[0] ^ 1]) + old[1:])


# -- a catalog with one of everything ------------------------------------------------------------

FULL = tuple(part for part in Part if part not in (Part.ANALYTICS, Part.LOGS, Part.ENV))
COLD = Omission(Part.CACHE, "cache/ingestion/docmind.duckdb", Reason.BUSY, "recoverable, cold cache", rebuildable=True)
SILENT = Omission(Part.QDRANT, "http://127.0.0.1:6333", Reason.UNREACHABLE, "connection refused")


def record(number: int, started_at: datetime, *, points: tuple[int, int] = (48_213, 48_213), **changes: Any) -> Record:
    """A record of 12.4 GB with `number` as its sequence."""
    low, high = points
    text = CollectionRecord("docmind_docs__1", "text", started_at.isoformat(), low, high, "qdrant/x", 1, "0" * 64)
    whole = Record(
        id=f"{started_at:%Y%m%d_%H%M%S}_{number:012x}",
        sequence=number,
        started_at=started_at,
        finished_at=started_at + timedelta(seconds=80),
        host="lab",
        tool_version=__version__,
        scope=Scope("/srv/docmind/data", "d1", frozenset(FULL), frozenset({"role:text", "role:image"})),
        layout=Layout.V2,
        project="/srv/docmind",
        included=FULL,
        totals=Totals(files=5_312, bytes=12_400_000_000, own_bytes=1_100_000_000),
        sources=(),
        qdrant=QdrantRecord("http://127.0.0.1:6333", "1.18.3", embedded=False, collections=(text,)),
    )
    return replace(whole, **changes)


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Backups of every state, DocMind's own, broken and unfinished ones: records only, where one stands."""
    monkeypatch.chdir(tmp_path)
    root, now = tmp_path / "data" / "backups", datetime.now(UTC)
    records = [
        record(1, now - timedelta(days=400, hours=5), points=(40_000, 40_017)),
        record(2, now - timedelta(days=45, hours=5), included=FULL[:3], qdrant=None),
        record(3, now - timedelta(days=9, hours=5), omissions=(SILENT,), included=FULL[:-1], qdrant=None),
        record(4, now - timedelta(days=3, hours=5), omissions=(COLD,), included=FULL[1:]),
        record(5, now - timedelta(days=2, hours=5), shrinks=(Shrink(Part.UPLOADS, "files", 412, 3),)),
        record(6, now - timedelta(days=1, hours=5), included=(*FULL, Part.ANALYTICS, Part.LOGS)),
        record(7, now - timedelta(hours=3, minutes=30)),
        record(8, now + timedelta(days=30)),
    ]
    for one in (replace(r, scope=replace(r.scope, data_dir=str(tmp_path / "data"))) for r in records):
        directory = root / name_of(one.id, complete=one.complete)
        directory.mkdir(parents=True)
        (directory / fmt.RECORD).write_bytes(fmt.record_bytes(one))
    backups = {backup.record.sequence: backup for backup in Catalog(root).backups()}
    for number, intact in ((6, True), (1, False)):
        digest = fmt.record_digest((backups[number].directory / fmt.RECORD).read_bytes())
        Catalog(root).remember(backups[number].directory, Seal(digest, now - timedelta(hours=2.5), "full", intact))
    Catalog(root).hold(backups[2], "before the upgrade")
    for name, content in {
        "backup_20260101_000000/manifest.json": foreign(now - timedelta(days=5, hours=5), complete=True),
        "incomplete-backup_20260102_000000/manifest.json": foreign(now - timedelta(days=4, hours=5), complete=False),
        "backup_20260103_000000/backup.json": "{}",
        "backup_20260104_000000/backup.json": json.dumps({"format": 99}),
        "backup_20260105_000000/notes.txt": "",
        ".staging-20260106_000000_0123456789ab/data/chat.db": "",
    }.items():
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(content)
    return root


def foreign(created_at: datetime, *, complete: bool) -> str:
    return json.dumps({"created_at": created_at.isoformat(), "complete": complete, "bytes_written": 812_000_000})


@pytest.mark.usefixtures("catalog")
def test_list_piped_and_in_a_narrow_terminal(cli: Cli, tmp_path: Path, golden: Golden) -> None:
    piped = cli("list")
    narrow = in_terminal(tmp_path, "list", columns=80)

    screen = Result(narrow.code, "".join(f"{line}\n" for line in narrow.lines), "")
    golden("list.txt", fixed(session(("list | cat", piped), ("list        # 80 columns", screen)), tmp_path))
    assert not narrow.screen.wrapped
    assert any(line.endswith("DAMAGED") for line in narrow.lines)


@pytest.mark.usefixtures("catalog")
def test_list_as_json(cli: Cli, tmp_path: Path, golden: Golden) -> None:
    golden("list.json", fixed_json(cli("list", "--json").json(), tmp_path))


@pytest.mark.usefixtures("catalog")
def test_prune_gives_every_verdict_its_reasons(cli: Cli, tmp_path: Path, golden: Golden) -> None:
    words = ("prune", "--keep-last", "2", "--keep-incomplete", "0", "--dry-run")

    golden("prune.txt", fixed(session((" ".join(words), cli(*words))), tmp_path))


# -- many ----------------------------------------------------------------------------------------


def many(tmp_path: Path, count: int) -> Path:
    """So many backups, one a day, where a test stands."""
    root, now = tmp_path / "data" / "backups", datetime.now(UTC)
    for number in range(1, count + 1):
        one = record(number, now - timedelta(days=count - number, hours=1))
        one = replace(one, scope=replace(one.scope, data_dir=str(tmp_path / "data")))
        directory = root / name_of(one.id, complete=one.complete)
        directory.mkdir(parents=True)
        (directory / fmt.RECORD).write_bytes(fmt.record_bytes(one))
    return root


def test_a_terminal_shows_the_newest_fifty_and_says_how_many_more_a_pipe_all(tmp_path: Path) -> None:
    many(tmp_path, 53)

    brief = in_terminal(tmp_path, "list", columns=80)
    whole = in_terminal(tmp_path, "list", "--all", columns=80)
    piped = run(tmp_path, "list")

    shown = [[line for line in lines if ID.match(line)] for lines in (brief.lines, whole.lines, piped.out.splitlines())]
    assert list(map(len, shown)) == [50, 53, 53]
    assert shown[0] == shown[1][:50]
    assert brief.lines[-2] == "3 more; `docmind-backup list --all` shows them, as does a pipe"
    assert not any("more;" in line for line in whole.lines)
    assert "more;" not in piped.out


def test_a_piped_list_is_aligned_as_the_table_of_a_terminal_is(tmp_path: Path) -> None:
    many(tmp_path, 3)

    piped = run(tmp_path, "list").out.splitlines()
    wide = in_terminal(tmp_path, "list", columns=200).lines

    assert piped == wide[: len(piped)]


# -- a terminal ----------------------------------------------------------------------------------

ESCAPE = re.compile(r"\x1b\[(?P<private>\??)(?P<numbers>[\d;]*)(?P<verb>[A-Za-z])")


@dataclass(slots=True)
class Screen:
    """What a terminal of so many columns shows, as far as this tool may ask it to."""

    columns: int
    lines: list[str] = field(default_factory=lambda: [""])
    row: int = 0
    column: int = 0
    wrapped: bool = False
    """Some line did not fit."""
    cursor_hidden: bool = False
    styles: set[str] = field(default_factory=set)
    """Parameters of every SGR sequence."""

    def feed(self, text: str) -> None:
        at = 0
        while at < len(text):
            escape = ESCAPE.match(text, at)
            if escape:
                self._obey(escape["private"] + escape["verb"], escape["numbers"])
                at = escape.end()
            else:
                self._put(text[at])
                at += 1

    def _obey(self, verb: str, numbers: str) -> None:
        match verb:
            case "m":
                self.styles.update(numbers.split(";"))
            case "A":
                self.row = max(0, self.row - int(numbers or 1))
            case "K":
                assert numbers == "2", f"erases a line by {numbers}"
                self.lines[self.row] = ""
            case "?l" | "?h":
                assert numbers == "25", f"private mode {numbers}"
                self.cursor_hidden = verb == "?l"
            case _:
                raise AssertionError(f"clears or moves more than its own lines: {numbers}{verb}")

    def _put(self, character: str) -> None:
        match character:
            case "\r":
                self.column = 0
            case "\n":
                self.row += 1
            case _:
                assert character.isprintable(), f"control character {character!r}"
                if self.column == self.columns:
                    self.wrapped, self.row, self.column = True, self.row + 1, 0
                self._grow()
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
                self.column += 1
        self._grow()

    def _grow(self) -> None:
        while len(self.lines) <= self.row:
            self.lines.append("")


@dataclass(frozen=True, slots=True)
class Seen:
    """What a terminal got, and shows at the end."""

    code: int
    text: str
    screen: Screen

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.lines if line.strip()]


def in_terminal(
    cwd: Path,
    *args: str,
    columns: int,
    stdout: Path | None = None,
    on_text: Callable[[str], object] = lambda _: None,
    **environment: str,
) -> Seen:
    """Run the tool in `cwd` with a terminal, but for what `stdout` gets; `on_text` hears all that came so far."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    with ExitStack() as stack:
        process = subprocess.Popen(
            [sys.executable, "-m", "docmind_backup", *args],
            stdin=theirs,
            stdout=stack.enter_context(stdout.open("wb")) if stdout else theirs,
            stderr=theirs,
            cwd=cwd,
            env=_environment(environment),
            start_new_session=True,
        )
        stack.enter_context(process)
        stack.callback(process.kill)
        stack.callback(os.close, ours)
        os.close(theirs)
        text = _read_all(ours, on_text)
        code = process.wait()
    screen = Screen(columns)
    screen.feed(text)
    return Seen(code, text, screen)


def _read_all(terminal: int, on_text: Callable[[str], object]) -> str:
    """Until the last process has closed it, which Linux tells by an error."""
    content, deadline = b"", time.monotonic() + 120
    while select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
        try:
            content += os.read(terminal, 65_536)
        except OSError:
            return content.decode()
        on_text(content.decode(errors="replace"))
    raise AssertionError(f"not done after two minutes: {content[-2000:]!r}")


def add_big_upload(env: DocMindV2) -> None:
    (env.uploads / "scans.pdf").write_bytes(os.urandom(1_000_000) * 40)


def create_slowly(
    env: DocMindV2, server: StandIn, *, columns: int, stdout: Path | None = None, **environment: str
) -> Seen:
    """`create` of 41 MB in a terminal; Qdrant makes its snapshots only once a bar was seen that has moved."""
    add_big_upload(env)
    gate = server.faults.create_gate = Event()

    def open_when_moved(text: str) -> None:
        if any(done > 40 for done, _ in states("copied", text)):
            gate.set()

    return in_terminal(env.project, "create", columns=columns, stdout=stdout, on_text=open_when_moved, **environment)


def states(bar: str, text: str) -> list[tuple[float, float]]:
    """The different (done, total) that a bar showed, in their order, whatever its unit."""
    plain = ESCAPE.sub("", text)
    found = re.findall(rf"{bar} [^\r\n]*? ([\d.]+)/([\d.]+) [kM]?B|{bar} [^\r\n]*? ([\d.]+)/([\d.]+) bytes", plain)
    return list(dict.fromkeys((float(a or c), float(b or d)) for a, b, c, d in found))


@pytest.mark.parametrize("columns", [80, 140])
def test_in_a_terminal_two_bars_move_and_leave_no_trace(short_env: DocMindV2, server: StandIn, columns: int) -> None:
    seen = create_slowly(short_env, server, columns=columns)

    assert seen.code == 0, seen.lines
    assert len(states("copied", seen.text)) >= 2, seen.text
    assert states("copied", seen.text)[-1] == (41.6, 41.6)
    assert states("downloaded", seen.text)
    assert "━" in seen.text
    assert not any("━" in line or "copied" in line or "downloaded" in line for line in seen.lines)
    assert not seen.screen.cursor_hidden
    assert seen.lines[0].startswith(f"{short_env.backups}/backup_")
    assert seen.lines[-1] == "next: docmind-backup verify latest"


@pytest.mark.parametrize("columns", [40, 80])
def test_in_a_terminal_each_of_two_downloads_has_a_bar_below_their_total(
    short_env: DocMindV2, server: StandIn, columns: int
) -> None:
    """Both are under way until both were seen."""
    gate = Event()
    server.faults.downloads += [Stall(20_000, gate), Stall(20_000, gate)]

    def open_when_seen(text: str) -> None:
        lines = [line for line in ESCAPE.sub("", text).splitlines() if "━" in line]
        if all(any(f"  docmind_{kind}" in line for line in lines) for kind in ("d", "i")):
            gate.set()

    seen = in_terminal(short_env.project, "create", columns=columns, on_text=open_when_seen)

    assert seen.code == 0, seen.lines
    assert gate.is_set()
    assert states("downloaded", seen.text)
    assert not any("━" in line for line in seen.lines)
    assert not [line for line in ESCAPE.sub("", seen.text).splitlines() if "━" in line and len(line) > columns]


def test_in_a_terminal_one_sees_what_is_waited_for(short_env: DocMindV2, server: StandIn) -> None:
    gate = server.faults.create_gate = Event()

    def open_when_named(text: str) -> None:
        if f"{short_env.text_collection} ..." in text or f"{short_env.image_collection} ..." in text:
            gate.set()

    seen = in_terminal(short_env.project, "create", columns=80, on_text=open_when_named)

    assert seen.code == 0, seen.lines
    assert gate.is_set()
    assert seen.text.index("looking at the sources ...") < seen.text.index(f"{short_env.text_collection} ...")
    assert not any(line.endswith(" ...") for line in seen.lines)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_names_every_option_in_full_at_80_columns(tmp_path: Path, command: str) -> None:
    seen = in_terminal(tmp_path, *command.split(), "--help", columns=80)
    wide = in_terminal(tmp_path, *command.split(), "--help", columns=200)

    assert not seen.screen.wrapped
    names = set(re.findall(r"--[a-z-]+", " ".join(wide.lines)))
    assert names >= {"--help"}
    assert names <= set(re.findall(r"--[a-z-]+", " ".join(seen.lines)))
    assert "…" not in seen.text


def test_show_folds_no_path_at_80_columns(short_env: DocMindV2) -> None:
    assert run(short_env.project, "create").code == 0

    seen = in_terminal(short_env.project, "show", columns=80)

    rows = [line.split() for line in seen.lines if line.startswith(("cache ", "uploads "))]
    assert [row[:2] for row in rows] == [["uploads", "data/uploads"], ["cache", "cache/docmind.duckdb"]]
    cache = f"cache/docmind.duckdb is from {short_env.project}/cache/ingestion/docmind.duckdb"
    assert cache in " ".join(seen.lines)
    assert "data/uploads is from" not in " ".join(seen.lines)


@pytest.mark.parametrize("columns", [80, 140])
def test_in_a_terminal_no_line_is_wider_than_the_terminal(short_env: DocMindV2, server: StandIn, columns: int) -> None:
    for number in range(4):
        (short_env.uploads / f"appendix {number} of the long report.pdf").symlink_to("/etc/hostname")

    made = create_slowly(short_env, server, columns=columns)
    others = [in_terminal(short_env.project, word, columns=columns) for word in ("list", "verify")]

    assert [seen.lines for seen in (made, *others) if seen.screen.wrapped] == []
    assert [seen.lines[-1][:6] for seen in (made, *others)] == ["next: "] * 3
    assert sum("appendix" in line for line in made.lines) > 1


def test_colours_are_used_and_no_color_is_obeyed(short_env: DocMindV2, server: StandIn) -> None:
    coloured = create_slowly(short_env, server, columns=80)
    plain = create_slowly(short_env, server, columns=80, NO_COLOR="1")

    assert coloured.screen.styles - {"0", "1", "2", "22"}
    assert plain.screen.styles <= {"0", "1", "2", "22"}
    assert plain.lines[-1] == "next: docmind-backup verify latest"


def test_a_terminal_that_can_nothing_gets_plain_lines(short_env: DocMindV2) -> None:
    seen = in_terminal(short_env.project, "create", columns=80, TERM="dumb")

    assert "\x1b" not in seen.text
    assert "data/uploads: ok, 7 files, 477 kB" in seen.lines


def test_bars_stay_out_of_an_answer_that_goes_elsewhere(short_env: DocMindV2, server: StandIn, tmp_path: Path) -> None:
    answer = tmp_path / "answer"

    seen = create_slowly(short_env, server, columns=80, stdout=answer)

    (backup,) = [p for p in short_env.backups.iterdir() if p.name.startswith("backup_")]
    assert answer.read_text() == f"{backup}\n"
    assert "━" in seen.text
    assert seen.lines[-1] == "next: docmind-backup verify latest"


def test_an_error_in_a_terminal_says_what_to_do(tmp_path: Path) -> None:
    seen = in_terminal(tmp_path, "show", "nothing", columns=80)

    assert seen.code == 10
    assert [line.split(":")[0] for line in seen.lines if ": " in line] == ["error", "hint"]


# -- a pipe --------------------------------------------------------------------------------------


def test_in_a_pipe_the_answer_is_a_path_and_each_step_a_plain_line(short_env: DocMindV2) -> None:
    made = run(short_env.project, "create")

    (backup,) = [p for p in short_env.backups.iterdir() if p.name.startswith("backup_")]
    assert made.out == f"{backup}\n"
    assert "\x1b" not in made.err
    assert "━" not in made.err
    steps = [line.partition(":")[0] for line in made.err.splitlines() if ": ok, " in line]
    collections = [short_env.text_collection, short_env.image_collection]
    assert sorted(step for step in steps if step in collections) == sorted(collections)  # two at once
    assert [step for step in steps if step not in collections] == [  # beside them
        "data/.deployment-id",
        "data/storage",
        "data/uploads",
        "data/artifacts",
        "data/chat.db",
        "cache/ingestion/docmind.duckdb",
        "data/analytics/analytics.duckdb",
    ]
    assert made.err.splitlines()[-1] == "next: docmind-backup verify latest"


LOOKS = [("list",), ("show",), ("leftovers",), ("verify",), ("restore-plan",), ("prune", "--dry-run"), ("show-config",)]


@pytest.mark.parametrize("words", LOOKS, ids=" ".join)
def test_in_a_pipe_nothing_is_coloured(made: Made, words: tuple[str, ...]) -> None:
    done = run(made.env.project, *words)

    assert done.code == 0
    assert done.out
    assert "\x1b" not in done.out + done.err


@pytest.mark.parametrize("words", [("create",), ("create", "--json"), ("list",), ("list", "--json"), ("--help",)])
def test_a_reader_who_leaves_early_is_no_failure(short_env: DocMindV2, words: Sequence[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run(short_env.project, *words, stdout=writer)
    finally:
        os.close(writer)

    assert "Traceback" not in done.err
    assert "Exception" not in done.err
    if words[0] == "create":
        assert done.code == 141
        assert [p for p in short_env.backups.iterdir() if p.name.startswith("backup_")]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("words", [*LOOKS, ("list", "--json"), ("--help",), ("--version",)], ids=" ".join)
def test_an_answer_that_cannot_be_written_is_one_error(made: Made, words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = run(made.env.project, *words, stdout=full.fileno())

    (error,) = [line for line in done.err.splitlines() if "error" in line]
    assert done.code == 1
    assert "the answer cannot be written: No space left on device" in error
    assert "Traceback" not in done.err


# -- json and quiet ------------------------------------------------------------------------------

AS_JSON = [*LOOKS[:2], ("verify", "latest"), *LOOKS[3:], ("create", "--dry-run"), ("verify", "--all")]


@pytest.mark.parametrize("words", AS_JSON, ids=" ".join)
def test_json_is_one_document_and_nothing_else(cli: Cli, made: Made, words: tuple[str, ...]) -> None:
    done = cli(*words, "-C", made.env.project, "--json")

    assert done.code == 0
    assert done.json()
    assert done.err == ""


@pytest.mark.parametrize(
    ("code", "words"),
    [(10, ("show", "19700101")), (10, ("verify", "19700101")), (11, ("create",)), (11, ("prune",)), (2, ("list",))],
    ids=["show: no such backup", "verify: no such backup", "create: locked", "prune: locked", "wrong settings"],
)
def test_an_error_is_one_json_object_on_stderr(cli: Cli, env: DocMindV2, code: int, words: tuple[str, ...]) -> None:
    if code == 2:
        (env.project / "docmind-backup.toml").write_text("keep_lats = 3\n")
    env.backups.mkdir()
    with (env.backups / ".backup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = cli(*words, "-C", env.project, "--json")

    error = json.loads(done.err)
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert sorted(error) == ["error", "exit_code", "hint"]
    assert error["exit_code"] == done.code == code
    assert error["error"]
    assert error["hint"]


@pytest.mark.parametrize("words", [("create",), *LOOKS[:-1]], ids=" ".join)
def test_quiet_leaves_the_answer_alone(cli: Cli, env: DocMindV2, words: tuple[str, ...]) -> None:
    assert cli("create", "-C", env.project, "-q").err == ""

    done = cli(*words, "-C", env.project, "-q")

    assert done.code == 0
    assert done.out
    assert done.err == ""


def test_quiet_still_warns(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = build_v2(tmp_path / "docmind")
    monkeypatch.setenv("DOCMIND_BACKUP_KEEP_LATS", "3")

    made = cli("create", "-C", env.project, "-q")

    assert made.code == 3
    assert [line.split()[0] for line in made.err.splitlines()] == ["warning:", "lacks"]
