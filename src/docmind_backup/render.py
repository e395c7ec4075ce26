"""Words, tables and bars for people. The only module that knows Rich; names go in as text, never as markup."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from docmind_backup.catalog import STAGING, Item
from docmind_backup.core.format import printable
from docmind_backup.core.model import (
    Advanced,
    Backup,
    BrokenBackup,
    DownloadStarted,
    Event,
    ForeignBackup,
    Layout,
    Part,
    Record,
    Round,
    RunStarted,
    StepFinished,
    StepStarted,
    Unfinished,
)
from docmind_backup.core.proposing import PROG, Where
from docmind_backup.core.units import size
from docmind_backup.core.verifier import (
    Altered,
    Finding,
    Missing,
    Unexpected,
    Unread,
    Unreadable,
    Verdict,
    Verification,
    Why,
)

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from docmind_backup.core.consistency import ArtifactCheck
    from docmind_backup.core.planner import BackupPlan
    from docmind_backup.core.restore import RestorePlan, RestoreStep
    from docmind_backup.ledger import Begun
    from docmind_backup.leftovers import Leftovers
    from docmind_backup.operations import Created, Pruned

SHOWN = 50
"""Backups a terminal shows at most; a pipe and --json get all."""
MANY = 6
"""Tables of a database that are named one by one at most."""
NARROWEST = 8
"""Columns of text are at least as wide."""
WIDE = 110
"""Columns from which ids are shown whole."""
NARROW = 60
"""Columns below which a bar has no room for speed and time."""


# -- numbers and words ---------------------------------------------------------------------------


def age(moment: datetime, now: datetime) -> str:
    """`now`, `5 min`, `3 h`, `12 d`, `4 mo`, `2 y`; `future` for a clock that jumped."""
    seconds = (now - moment).total_seconds()
    if seconds < -1:
        return "future"
    for limit, unit, seconds_each in (
        (60, "", 1),
        (3600, "min", 60),
        (86400, "h", 3600),
        (86400 * 60, "d", 86400),
        (86400 * 730, "mo", 86400 * 30.44),
    ):
        if seconds < limit:
            return f"{int(seconds / seconds_each)} {unit}" if unit else "now"
    return f"{int(seconds / 86400 / 365.25)} y"


def duration(span: timedelta) -> str:
    seconds = span.total_seconds()
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def holds(record: Record) -> str:
    """`full`, `full +logs`, `no qdrant`, or the parts by name where there are few."""
    held = set(record.included)
    whole = {Part.CACHE, Part.STORAGE, Part.UPLOADS, Part.QDRANT}
    if record.layout is Layout.V2:
        whole |= {Part.CHAT, Part.IDENTITY, Part.ARTIFACTS}
    extra = "".join(f" +{p}" for p in Part if p in held - whole - {Part.CHAT, Part.ARTIFACTS})
    if whole <= held:
        return f"full{extra}"
    if len(held) <= 3:
        return " ".join(p for p in Part if p in held) or "nothing"
    return "no " + ", ".join(p for p in Part if p in whole - held) + extra


def state(record: Record) -> str:
    if record.complete:
        return "complete" if not record.shrinks or record.shrink_accepted else "complete, shrunk"
    lacking = ", ".join(dict.fromkeys(f"{o.part} {o.reason}" for o in record.omissions))
    return f"lacks {lacking}"


def points(record: Record) -> str:
    """All collections together; `~` where the count moved during the run: `show` has the range of each."""
    if not record.qdrant:
        return "-"
    low = sum(c.points_min for c in record.qdrant.collections)
    high = sum(c.points_max for c in record.qdrant.collections)
    return f"{low:,}" if low == high else f"~{high:,}"


def verified(backup: Backup, now: datetime) -> str:
    """The age of the last whole verification, and whether it was a deep one; how far the first one got."""
    seal = backup.seal
    if seal and not seal.intact:
        return "DAMAGED"
    if backup.doubted:
        return "UNREADABLE"
    if seal and seal.verified_at:
        return age(seal.verified_at, now) + (" deep" if seal.level == "deep" else "")
    return f"{_percent(backup, seal.round)} %" if seal and seal.round else "never"


def proven(backup: Backup, now: datetime) -> str:
    """The age of the last rehearsal in which all of it was restored and right."""
    return age(backup.seal.rehearsed_at, now) if backup.seal and backup.seal.rehearsed_at else "-"


def _percent(backup: Backup, under_way: Round) -> int:
    """Of its bytes; never 100 before it is through."""
    return min(99, 100 * under_way.bytes // max(1, backup.record.totals.bytes))


# -- the console ---------------------------------------------------------------------------------


def _console(*, stderr: bool) -> Console:
    """Not a terminal: as wide as it needs, so that no value is folded or cut."""
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=1_000)


class Face:
    """Answers go to stdout, everything said on the way to stderr; commands in them look where this one did."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False, where: Where | None = None) -> None:
        self.out = _console(stderr=False)
        self.err = _console(stderr=True)
        self.quiet = quiet
        self.verbose = verbose
        self._where = where or Where()

    def _words(self, text: str) -> str:
        return printable(self._where.told(text))

    def answer(self, text: str) -> None:
        """One line of the answer, never wrapped or marked up."""
        self.out.print(Text(self._words(text)), soft_wrap=True)

    def remark(self, text: str) -> None:
        """A sentence of the answer: wrapped between words on a terminal, one line elsewhere."""
        self.out.print(Text(self._words(text)), soft_wrap=not self.out.is_terminal)

    def say(self, text: str, style: str = "") -> None:
        """Something said on the way; not with --quiet."""
        if not self.quiet:
            self._sentence(Text(self._words(text), style=style))

    def warn(self, text: str) -> None:
        """A warning; also with --quiet."""
        self._sentence(Text.assemble(("warning: ", "yellow"), self._words(text)))

    def lacks(self, text: str) -> None:
        """Something a backup does not hold; also with --quiet."""
        self._sentence(Text.assemble(("lacks ", "red"), self._words(text)))

    def _sentence(self, text: Text) -> None:
        """Wrapped between words on a terminal, one line elsewhere."""
        self.err.print(text, soft_wrap=not self.err.is_terminal)

    def problem(self, message: str, hint: str) -> None:
        """An expected failure: what, where, and what to do next."""
        self._sentence(Text.assemble(("error: ", "bold red"), self._words(message)))
        if hint:
            self._sentence(Text.assemble(("hint: ", "bold"), self._words(hint)))

    def next(self, command: str, *, why: str = "") -> None:
        """The last line: the command to give now, with the options that told this one where to look."""
        comment = f"   # {why}" if why else ""
        self.next_step(f"{PROG} {self._where.said(command)}{comment}")

    def next_step(self, text: str) -> None:
        """The last line, where no command of ours is what to do now."""
        if not self.quiet:
            self.err.print(Text.assemble(("next: ", "bold"), self._words(text)), soft_wrap=True)

    def lines(self, lines: Iterable[str]) -> None:
        """Part of the answer, where it is no terminal's."""
        self.out.file.write("".join(f"{line}\n" for line in lines))

    def table(self, table: Table) -> None:
        """Part of the answer; elsewhere than on a terminal without the spaces that fill up its lines."""
        if self.out.is_terminal:
            self.out.print(table)
            return
        with self.out.capture() as printed:
            self.out.print(table)
        self.lines(line.rstrip() for line in printed.get().splitlines())

    @contextmanager
    def progress(self, doing: str = "") -> Iterator[Reporter]:
        """Bars while the block runs; `doing`: what is done before the first event."""
        with Reporter(self, doing) as reporter:
            yield reporter


def _table(*columns: tuple[str, str]) -> Table:
    """A table: (heading, `left` or `right`) each; numbers right-aligned, long text folded."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for heading, justify in columns:
        if justify == "right":
            table.add_column(heading, justify="right", no_wrap=True)
        else:
            table.add_column(heading, overflow="fold", min_width=NARROWEST)
    return table


_Bar = tuple[bool, str]
"""Of what is downloaded or not; of one collection or of all."""
COPIED: _Bar = (False, "")
DOWNLOADED: _Bar = (True, "")


class Reporter:
    """Turns events into bars and what is done now on a terminal, or a line per finished step elsewhere.

    A bar for what is copied, one for all that is downloaded, and one below it for each of several downloads.
    """

    def __init__(self, face: Face, doing: str) -> None:
        from rich.live import Live

        self._face = face
        self._live = face.err.is_interactive and not face.quiet
        self._bars = _bars(face.err)
        self._doing = [doing] if doing else []
        self._tasks: dict[_Bar, TaskID] = {}
        self._held: Counter[_Bar] = Counter()
        self._collections = 0
        self._sizes: dict[str, int] = {}
        """Of the snapshots that the server has made."""
        self._shown_at = 0.0
        self.verb = "copied"
        self._screen = Live(console=face.err, transient=True, refresh_per_second=10, get_renderable=self._now)

    def _now(self) -> Group:
        """The bars, and under them what is done without one: its mark turns, so that waiting looks alive."""
        mark = "|/-\\"[int(time.monotonic() * 8) % 4]
        rest = [one for one in self._doing if (True, one) not in self._tasks]
        doing = [Text(f"{mark} {printable(one)} ...", no_wrap=True, overflow="ellipsis") for one in rest[-1:]]
        return Group(*([self._bars] if self._tasks else []), *doing)

    def __enter__(self) -> Self:
        if self._live:
            self._screen.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush()
        self._screen.stop()

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._doing = []
                self._collections = event.collections
                self._tasks[COPIED] = self._bars.add_task(self.verb, total=event.copy_bytes)
                if event.collections:
                    total = event.download_bytes or None
                    self._tasks[DOWNLOADED] = self._bars.add_task("downloaded", total=total)
            case DownloadStarted():
                self._download(event)
            case Advanced():
                self._held[event.downloaded, ""] += event.bytes
                if event.label:
                    self._held[True, event.label] += event.bytes
                if time.monotonic() - self._shown_at > 0.05:
                    self._flush()
            case StepFinished():
                self._doing = [label for label in self._doing if label != event.label]
                self._drop(event.label)
                self._line(event)
            case StepStarted():
                self._doing = [*self._doing, event.label]

    def _download(self, event: DownloadStarted) -> None:
        """What an earlier attempt brought counts no more. The total is known once all are."""
        self._held[DOWNLOADED] -= self._drop(event.label)
        self._sizes[event.label] = event.bytes
        if len(self._sizes) == self._collections and DOWNLOADED in self._tasks:
            self._bars.update(self._tasks[DOWNLOADED], total=sum(self._sizes.values()))
        if self._collections > 1:
            name = f"  {printable(event.label)}"
            self._tasks[True, event.label] = self._bars.add_task(name, total=event.bytes)

    def _drop(self, label: str) -> int:
        """The bar of a download goes; how far it had come."""
        self._flush()
        task = self._tasks.pop((True, label), None) if label else None
        if task is None:
            return 0
        came = next(one.completed for one in self._bars.tasks if one.id == task)
        self._bars.remove_task(task)
        return int(came)

    def _flush(self) -> None:
        """Bars move at most twenty times a second: drawing must not cost what copying does."""
        self._shown_at = time.monotonic()
        done = {task.id: task.completed for task in self._bars.tasks}
        for bar, task in self._tasks.items():
            held = self._held.pop(bar, 0)
            if held < 0:  # a speed is never less than nothing
                self._bars.reset(task, completed=int(done[task] + held))
            elif held:
                self._bars.advance(task, held)

    def _line(self, event: StepFinished) -> None:
        if not self._live and not self._face.quiet:
            what = f"{plural(event.files, 'file')}, {size(event.bytes)}"
            self._face.say(f"{event.label}: {event.outcome or 'ok'}, {what}")


def _bars(console: Console) -> Progress:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.table import Column

    narrow = console.width < NARROW
    name = Column(no_wrap=True, overflow="ellipsis", max_width=NARROWEST + 4 if narrow else max(16, console.width // 4))
    more = () if narrow else (TransferSpeedColumn(), TimeRemainingColumn(compact=True))
    return Progress(
        TextColumn("{task.description:<10}", markup=False, table_column=name),
        BarColumn(bar_width=None),
        DownloadColumn(),
        *more,
        console=console,
        expand=True,
    )


# -- create --------------------------------------------------------------------------------------


def plan(face: Face, plan: BackupPlan, root: Path) -> None:
    """What a create would do."""
    from docmind_backup.core.planner import CollectionStep, FileStep

    table = _table(("Part", "left"), ("Source", "left"), ("Files", "right"), ("Size", "right"))
    for step in plan.steps:
        match step:
            case FileStep():
                table.add_row(step.source.part, Text(printable(step.source.name)), f"{step.files:,}", size(step.bytes))
            case CollectionStep():
                what = Text(f"{printable(step.state.name)} ({step.state.points:,} points)")
                table.add_row(Part.QDRANT, what, "1", f"~{size(step.bytes)}")
    face.table(table)
    _lacks(face, [f"{o.part}: {o.source}: {o.reason} {o.detail}".rstrip() for o in plan.omissions])
    _notes(face, plan.notes)
    if plan.artifact_check:
        face.say(_artifact_words(plan.artifact_check))
    face.say(f"would need about {size(plan.bytes_needed)} in {root}; nothing was written (dry run)")


def _artifact_words(check: ArtifactCheck) -> str:
    """What of the consistency set is known before anything is captured."""
    from docmind_backup.core.consistency import broken_pairs

    known = check.earlier
    if known is None or known.points != check.points:
        return f"the files named by {plural(check.points, 'image point')} will be looked for among the artifacts"
    was = (
        broken_pairs(known) if known.broken else f"{plural(known.references, 'file')} named by image points, all there"
    )
    return f"as {known.proved_by} found: {was}; looked for again where the artifacts changed since"


def created(face: Face, result: Created) -> None:
    """What came of a create; the last line says what to do next."""
    backup = result.backup
    assert backup is not None
    record = backup.record
    face.answer(str(backup.directory))
    if not face.quiet:
        face.err.print(_parts(record))
    took = duration(record.finished_at - record.started_at)
    word = "complete" if record.complete else "INCOMPLETE"
    amount = f"{plural(record.totals.files, 'file')}, {size(record.totals.bytes)}"
    if record.qdrant:
        amount += f", {points(record)} points"
    face.say(f"{word}: {amount} in {took}", style="bold")
    _lacks(face, [f"{o.part}: {o.source}: {o.reason} - {o.detail}" for o in record.omissions])
    _notes(face, record.notes)
    _eligibility(face, record)
    _pruned_briefly(face, result.pruned, backup)
    for candidate in result.candidates:
        name = candidate.snapshot.name
        face.warn(f"a run whose call was not answered may have left {name} on the server; if so: {candidate.command}")
    face.next(f"verify {'latest' if backup.counts else backup.id}")


def _parts(record: Record) -> Table:
    table = _table(("Part", "left"), ("Files", "right"), ("Size", "right"))
    for part in record.included:
        sums = [s.totals for s in record.sources if s.part is part]
        files, total = sum(t.files for t in sums), sum(t.bytes for t in sums)
        if part is Part.QDRANT and record.qdrant and not record.qdrant.embedded:
            files, total = len(record.qdrant.collections), sum(c.size for c in record.qdrant.collections)
        table.add_row(part, f"{files:,}", size(total))
    return table


def _lacks(face: Face, lines: Sequence[str]) -> None:
    for line in lines:
        face.lacks(line)


def _notes(face: Face, notes: Iterable[str]) -> None:
    for note in notes:
        face.say(f"note: {note}")


def _eligibility(face: Face, record: Record) -> None:
    if record.ineligible and face.verbose:
        face.say(f"DocMind's own checker would not take it for a recovery point: {'; '.join(record.ineligible)}")


def _pruned_briefly(face: Face, pruned: Pruned | None, backup: Backup) -> None:
    if pruned is None:
        if not backup.counts:
            face.say("nothing was pruned: this backup does not count")
        return
    if pruned.removed:
        face.say(
            f"pruned {plural(len(pruned.removed), 'backup')}: {', '.join(b.id for b in pruned.removed[:3])}"
            + (" ..." if len(pruned.removed) > 3 else "")
        )
    for refused, why in pruned.refused:
        face.warn(f"{refused.id} was not pruned: {why}")


# -- list and show -------------------------------------------------------------------------------


def listing(face: Face, items: Sequence[Item], root: Path, now: datetime, *, everything: bool = False) -> None:
    """The catalog as a table, newest first; what cannot be used is named below it."""
    backups = [item for item in items if isinstance(item, Backup)]
    shown = backups if everything or not face.out.is_terminal else backups[:SHOWN]
    if shown:
        _show_backups(face, shown, now)
    others = [item for item in items if not isinstance(item, Backup)]
    for item in others:
        face.remark(_other(item, now))
    if len(shown) < len(backups):
        face.remark(f"{len(backups) - len(shown):,} more; `docmind-backup list --all` shows them, as does a pipe")
    if not items:
        face.say(f"no backups in {root}")
        face.next("create")
    elif backups:
        newest = backups[0]
        face.next(f"{'show' if newest.verified else 'verify'} {'latest' if newest.counts else newest.id}")


def _show_backups(face: Face, backups: Sequence[Backup], now: datetime) -> None:
    """All columns where there is room; short ids and fewer columns on a narrow terminal."""
    narrow = face.out.width < WIDE
    names = _short_ids([b.id for b in backups]) if narrow else {b.id: b.id for b in backups}
    columns: list[tuple[str, str, Callable[[Backup], str]]] = [
        ("Backup", "left", lambda b: names[b.id] + (" held" if b.held is not None else "")),
        ("Age", "right", lambda b: age(b.record.started_at, now)),
        ("State", "left", lambda b: state(b.record)),
        ("Holds", "left", lambda b: holds(b.record)),
        ("Files", "right", lambda b: f"{b.record.totals.files:,}"),
        ("Size", "right", lambda b: size(b.record.totals.bytes)),
        ("Own", "right", lambda b: size(b.record.totals.own_bytes)),
        ("Points", "right", lambda b: points(b.record)),
        ("Verified", "right", lambda b: verified(b, now)),
    ]
    left_out = {"Files", "Own"} if narrow else set[str]()
    if any(b.seal and b.seal.rehearsed_at for b in backups):
        columns.append(("Proven", "right", lambda b: proven(b, now)))
        left_out |= {"Points"} if narrow else set[str]()
    shown = [column for column in columns if column[0] not in left_out]
    rows = [[value(backup) for _, _, value in shown] for backup in backups]
    _rows(face, [(heading, justify) for heading, justify, _ in shown], rows, whole=1)


def _rows(face: Face, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], *, whole: int) -> None:
    """A table, its first `whole` columns never folded; without Rich where nothing would be folded or coloured."""
    if not face.out.is_terminal and all(cell.isascii() for row in rows for cell in row):
        rule = "─" if face.out.encoding.startswith("utf") else "-"
        face.lines(_aligned(columns, rows, rule))
        return
    table = _table(*columns)
    for column in table.columns[:whole]:
        column.no_wrap = True
    for row in rows:
        table.add_row(*map(Text, row))
    face.table(table)


def _aligned(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], rule: str) -> Iterator[str]:
    """What `_table` comes to where nothing is folded, at a hundredth of its cost; ASCII only."""
    cells = zip(*rows, strict=True)
    marks = [">" if justify == "right" else "<" for _, justify in columns]
    heads = [
        len(heading) if mark == ">" else max(NARROWEST, len(heading))
        for mark, (heading, _) in zip(marks, columns, strict=True)
    ]
    widths = [max(head, *map(len, found)) for head, found in zip(heads, cells, strict=True)]
    form = "  ".join(f"{{:{mark}{width}}}" for mark, width in zip(marks, widths, strict=True))
    yield form.format(*(heading for heading, _ in columns))
    yield rule * (sum(widths) + 2 * len(widths) - 2)
    for row in rows:
        yield form.format(*row)


def _short_ids(ids: Sequence[str]) -> dict[str, str]:
    """Each id cut to its time where that is enough to tell it from the others; a prefix is as good as an id."""
    times = [i[:15] for i in ids]
    return {i: i[:15] if times.count(i[:15]) == 1 else i for i in ids}


def _other(item: Item, now: datetime) -> str:
    match item:
        case ForeignBackup():
            made = age(item.created_at, now) if item.created_at else "unknown age"
            word = "complete" if item.complete else "incomplete"
            what = f"made by DocMind itself, {made}, {word}, {size(item.bytes)}"
            return f"{item.directory.name}: {what}; never pruned by this tool (but DocMind's own prune may remove ours)"
        case BrokenBackup():
            word = "newer format" if item.too_new else "broken"
            return f"{item.directory.name}: {word}: {item.problem}"
        case Unfinished():
            return f"{item.directory.name}: unfinished, {_left_by(item.directory.name)}"
        case Backup():
            return item.id


def _left_by(name: str) -> str:
    if name.startswith(STAGING):
        return "of a run that is going on, or that died; then the next create removes it"
    return "left by DocMind's own backup; remove it by hand when none is running"


def show(face: Face, backup: Backup, now: datetime, left: Sequence[Begun], word: str) -> None:
    """Everything a backup says of itself, for people. `word`: what the next command finds it by."""
    record = backup.record
    rows = [
        ("Backup", record.id),
        ("Directory", str(backup.directory)),
        ("State", state(record)),
        (
            "Made",
            f"{record.started_at.astimezone():%Y-%m-%d %H:%M:%S %Z} ({age(record.started_at, now)}), in "
            f"{duration(record.finished_at - record.started_at)}, by {record.tool_version} on {record.host}",
        ),
        ("Environment", f"{record.scope.data_dir} ({record.layout})"),
        ("Deployment", record.scope.deployment_id or "-"),
        ("Asked for", ", ".join(sorted(record.scope.parts))),
        (
            "Holds",
            f"{plural(record.totals.files, 'file')}, {size(record.totals.bytes)}, "
            f"{size(record.totals.own_bytes)} its own",
        ),
        ("Verified", _seal_words(backup, now)),
        ("Held", "no" if backup.held is None else f"yes: {backup.held}"),
        (
            "DocMind",
            "takes it for a recovery point"
            if not record.ineligible
            else "does not take it: " + "; ".join(record.ineligible),
        ),
    ]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(name, Text(printable(value)))
    face.table(grid)
    _sources(face, record)
    if record.qdrant:
        face.table(_collections(record))
    _proved_before(face, backup)
    for omission in record.omissions:
        face.answer(f"lacks {omission.part}: {omission.source}: {omission.reason} - {omission.detail}")
    for note in record.notes:
        face.answer(f"note: {note}")
    for begun in left:
        face.answer(f"left on {begun.url}: {_begun_words(begun)}; `docmind-backup leftovers` looks whether it is there")
    face.next(shlex.join(("restore-plan", word)))


def _proved_before(face: Face, backup: Backup) -> None:
    """What two backups of a collection are compared by."""
    deep = backup.seal.deep if backup.seal else None
    for name, (count, digest) in deep.collections.items() if deep else ():
        face.answer(f"proved: {name}: {plural(count, 'point')}" + (f", digest {digest}" if digest else ""))


def _begun_words(begun: Begun) -> str:
    if begun.name:
        return f"our snapshot {begun.name} of {begun.collection}"
    return f"perhaps a snapshot of {begun.collection}: the call that makes it was not answered"


LEFT_WORDS = {
    "listed": "the next create deletes it, unless it belongs to a run that is going on",
    "gone": "it is gone, or another client's took its place: the next create forgets it",
    "out of reach": "its collection is gone; should one of that name be made again, it reappears, and is deleted then",
    "unanswered": "what came of it, if anything, is a candidate above; left for you to remove",
    "elsewhere": "it is about another server: a create with that address cleans up there",
    "unknown": "the server could not be asked",
}


SCRATCH_WORDS = {
    "listed": "the next create, restore or rehearsal deletes it; by hand",
    "in use": "one that is going on",
    "unanswered": "it is not there; should the upload bring it yet, the next create deletes it",
    "elsewhere": "it is on another server: a create with that address deletes it",
    "unknown": "the server could not be asked",
}


def leftovers(face: Face, found: Leftovers) -> None:
    """Every snapshot with whose it is, the commands for those that may be ours, and what was written down."""
    if found.problem:
        face.warn(f"only what was written down is shown: {found.problem}")
    if found.snapshots:
        _lying(face, found)
    elif not found.problem:
        face.answer(f"no snapshots lie on {found.url}")
    for collection, why in found.unread:
        face.warn(f"the snapshots of {collection} could not be listed: {why}")
    for one in found.snapshots:
        if one.whose == "candidate":
            face.answer(f"{one.snapshot.name} may be ours; if it is: {one.command}")
    for note in found.notes:
        face.answer(f"{note.begun.url}: {_begun_words(note.begun)}: {LEFT_WORDS[note.standing]} ({note.file})")
    for left in found.scratch:
        words = f"{left.note.url}: collection {left.note.name} of a rehearsal: {SCRATCH_WORDS[left.standing]}"
        face.answer(f"{words}: {left.command}" if left.command else f"{words} ({left.file})")
    if "listed" in (*(note.standing for note in found.notes), *(left.standing for left in found.scratch)):
        face.next("create", why="deletes what is ours")


def _lying(face: Face, found: Leftovers) -> None:
    table = _table(("Whose", "left"), ("Collection", "left"), ("Snapshot", "left"), ("Size", "right"), ("Made", "left"))
    for one in found.snapshots:
        name, made = one.snapshot.name, one.snapshot.created
        row = (one.whose, one.collection, name, size(one.snapshot.size), made.replace("T", " ") or "-")
        table.add_row(*(Text(printable(word)) for word in row))
    face.table(table)


def _seal_words(backup: Backup, now: datetime) -> str:
    seal = backup.seal
    if not seal:
        return "never"
    outcome = "intact" if seal.intact else "DAMAGED"
    words = f"{outcome}, {age(seal.verified_at, now)} ({seal.level})" if seal.verified_at else "never wholly"
    if seal.deep and seal.level != "deep":
        words += f"; opened by its engines {age(seal.deep.proved_at, now)}"
    if seal.rehearsed_at:
        words += f"; restored to scratch {age(seal.rehearsed_at, now)}"
    if seal.unread_at:
        words += f"; since then a file COULD NOT BE READ, {age(seal.unread_at, now)}"
    if not seal.round:
        return words
    return f"{words}; {_percent(backup, seal.round)} % read since {_moment(seal.round.started_at)}"


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"


def _sources(face: Face, record: Record) -> None:
    """A narrow terminal has no room for where each came from: said below of those that lay elsewhere."""
    narrow = face.out.width < WIDE
    columns = [("Part", "left"), ("In the backup", "left"), ("From", "left"), ("Files", "right"), ("Size", "right")]
    table = _table(*(column for column in columns if not (narrow and column[0] == "From")))
    for source in record.sources:
        origin = [] if narrow else [Text(printable(source.origin))]
        counts = (f"{source.totals.files:,}", size(source.totals.bytes))
        table.add_row(source.part, Text(source.stored), *origin, *counts)
    face.table(table)
    for source in record.sources if narrow else ():
        if source.origin != f"{record.project}/{source.stored}":
            face.remark(f"{source.stored} is from {source.origin}")


def _collections(record: Record) -> Table:
    table = _table(
        ("Collection", "left"), ("Role", "left"), ("Points", "right"), ("Size", "right"), ("Aliases", "left")
    )
    assert record.qdrant is not None
    for taken in record.qdrant.collections:
        low, high = taken.points_min, taken.points_max
        table.add_row(
            Text(printable(taken.name)),
            printable(taken.role) or "-",
            f"{low:,}" if low == high else f"{low:,}-{high:,}",
            size(taken.size),
            Text(", ".join(taken.state.aliases) or "-"),
        )
    return table


# -- verify, prune, restore-plan -----------------------------------------------------------------


def verification(face: Face, found: Verification | Unread) -> None:
    """The verdict on one backup, every finding by its path, what it lacks."""
    name = found.id or found.directory.name
    if isinstance(found, Unread):
        face.answer(_unread_words(found, name))
        return
    so_far = " so far" if found.level == "part" and found.verdict is Verdict.INTACT and found.left_files else ""
    maker = f" (made by {found.made_by})" if found.made_by else ""
    face.answer(f"{_verdict_words(found)}{so_far}: {name}{maker}: {_amount(found)}")
    for finding in found.findings:
        face.answer(f"  {finding_words(finding)}")
    _opened(face, found)
    if found.damaged_at:
        face.answer(f"  found damaged {_moment(found.damaged_at)}: a part does not disprove it")
    for also in found.also_damaged:
        face.answer(f"  also damaged: {also} shares an altered file with it")
    for omission in found.omissions:
        face.answer(f"  lacks {omission.part}: {omission.source}: {omission.reason}")
    whole = found.level in ("full", "deep") and not found.made_by
    if whole and found.verdict is not Verdict.UNCHECKED and not found.remembered:
        face.say("this verification could not be remembered beside the backup")
    if found.level == "part" and found.covered and not found.remembered:
        face.say("this part could not be remembered beside the backup: the next one begins at the same place")


def _verdict_words(found: Verification) -> str:
    """Of another tool's backup the verdict is as good as what that tool wrote down."""
    says_all = found.made_by and found.verdict is Verdict.UNCHECKED and not found.findings
    return "whole as far as it says" if says_all else found.verdict


def _opened(face: Face, found: Verification) -> None:
    """What the engines found, and what could not be proved."""
    for one in found.deep.collections if found.deep else ():
        vectors = "".join(f", {name or 'vector'} {count:,}" for name, count in sorted(one.proof.vectors.items()))
        face.answer(f"  {one.name}: {plural(one.proof.points, 'point')}{vectors}")
        if one.proof.digest:
            face.answer(f"    digest of ids and payloads: {one.proof.digest}")
    for database in found.deep.databases if found.deep else ():
        face.answer(f"  {database.path}: {_rows_in(database.rows)}")
    for remark in found.deep.remarks if found.deep else ():
        face.answer(f"  note: {remark}")
    for what, words in found.rehearsed.checks if found.rehearsed else ():
        face.answer(f"  restored to scratch: {what}: {words}")
    for remark in found.rehearsed.remarks if found.rehearsed else ():
        face.answer(f"  note: {remark}")
    for unproved in found.unproved:
        face.answer(f"  cannot be proved: {unproved.what}: {unproved.why}")


def _rows_in(tables: Mapping[str, int]) -> str:
    """By table where these are few."""
    total = f"sound, {plural(sum(tables.values()), 'row')} in {plural(len(tables), 'table')}"
    each = ", ".join(f"{name} {count:,}" for name, count in tables.items())
    return f"{total}: {each}" if 0 < len(tables) <= MANY else total


def _amount(found: Verification) -> str:
    """What was looked at, and how."""
    whole = f"{plural(found.files, 'file')}, {size(found.bytes)}"
    shared = f" ({size(found.read)} read, the rest shared with what was)" if found.read < found.covered else ""
    match found.level:
        case "quick":
            return f"{whole} by name and size"
        case "part" if found.since:
            left = f"{size(found.left)} left" if found.left_files else "nothing left"
            since = f"of the round begun {_moment(found.since)}"
            return f"{whole} by name and size, {size(found.covered)} by content{shared}; {left} {since}"
        case _:
            opened = " and opened by their engines" if found.level == "deep" else ""
            return f"{whole} by content{shared}{opened}" if shared else f"{whole} read{opened}"


def _unread_words(found: Unread, name: str) -> str:
    at = found.seal.verified_at if found.seal else None
    last = (
        f"{'verified' if found.seal.intact else 'found DAMAGED'} {_moment(at)}"
        if found.seal and at
        else "never verified"
    )
    match found.why:
        case Why.FRESH:
            return f"not read: {name}: {last}, not touched since"
        case Why.NO_TIME:
            return f"not reached: {name}: {last}, {size(found.left)} left"


def finding_words(finding: Finding) -> str:
    match finding:
        case Missing(path):
            return f"missing: {path}"
        case Altered(path, what):
            return f"altered: {path}: {what}"
        case Unexpected(path):
            return f"unexpected: {path}"
        case Unreadable(path, why):
            return f"could not be read: {path}: {why}"


def verified_next(face: Face, results: Sequence[Verification | Unread], word: str) -> None:
    """What came of all of them together, and what to do now. `word`: what the next command finds it by."""
    read = [one for one in results if isinstance(one, Verification)]
    if any(one.level == "part" for one in read) or len(read) < len(results):
        _together(face, results, read)
    elif any(one.level == "quick" for one in read):
        face.say("contents were not read: `docmind-backup verify` without --quick reads every byte")
    verdicts = {one.verdict for one in read}
    if Verdict.DAMAGED in verdicts or any(one.exit_code for one in results if isinstance(one, Unread)):
        face.next("create", why="and look at the disk: a damaged backup does not count any more")
    elif Verdict.UNCHECKED in verdicts:
        face.next_step(_to_check(read))
    elif _left(results):
        face.next("list", why="the same command again goes on")
    else:
        face.next(shlex.join(("restore-plan", word)))


def _to_check(read: Sequence[Verification]) -> str:
    """What would have to be done for the rest to be checked."""
    if any(one.findings for one in read):
        return "mend what could not be read, then verify again"
    hints = dict.fromkeys(unproved.hint for one in read for unproved in one.unproved if unproved.hint)
    if hints:
        return "; ".join(hints)
    if any(one.made_by and one.level == "full" and not one.deep for one in read):
        return "the same with --deep opens its databases and collections"
    return "what it wrote down was held against it; nothing more can be proved of it"


def _together(face: Face, results: Sequence[Verification | Unread], read: Sequence[Verification]) -> None:
    if not read and all(one.why is Why.FRESH for one in results if isinstance(one, Unread)):
        face.say("nothing was read: all of it was verified not long ago and not touched since")
        return
    covered, taken = sum(one.covered for one in read), sum(one.read for one in read)
    left = _left(results)
    later = f"{size(sum(one.left for one in left))} in {plural(len(left), 'backup')} left for another time"
    face.say(f"{size(covered)} held against the records, {size(taken)} of it read; {later if left else 'nothing left'}")
    if unread := sum(one.level == "quick" for one in read):
        face.say(f"{plural(unread, 'backup')} by name and size only: the share was used up")


def _left(results: Sequence[Verification | Unread]) -> list[Verification | Unread]:
    """Those with something that this run was to read and did not."""
    return [one for one in results if one.left and (isinstance(one, Unread) or one.level == "part")]


def pruned(face: Face, result: Pruned, *, dry_run: bool) -> None:
    """Every backup with its verdict and the reasons."""
    columns = (("Verdict", "left"), ("Backup", "left"), ("Why", "left"))
    rows = [("keep" if v.keep else "remove", v.backup.id, "; ".join(v.reasons)) for v in result.verdicts]
    if rows:
        _rows(face, columns, rows, whole=2)
    for backup, why in result.refused:
        face.warn(f"{backup.id} was not removed: {why}")
    if result.others:
        face.say(f"{plural(result.others, 'backup')} of other environments in this root: left alone")
    going = sum(not v.keep for v in result.verdicts)
    if dry_run:
        face.say(f"{plural(going, 'backup')} would be removed; nothing was (dry run)")
        if going:
            face.next_step("the same command without --dry-run")
        else:
            face.next("list")
    else:
        face.say(
            f"removed {plural(len(result.removed), 'backup')}, kept {len(result.verdicts) - len(result.removed):,}"
        )
        face.next("list")


HEADINGS = {
    "check": "check every file of the backup",
    "stop": "stop",
    "move aside": "move aside what is there now; keep it until the restore is accepted",
    "copy": "copy back; modes and times are in inventory.jsonl",
    "merge by hand": "merge by hand",
    "upload": "upload collections",
    "set alias": "set aliases",
    "start": "start",
}


def restore_plan(face: Face, plan: RestorePlan) -> None:
    """Blockers first, then the steps in order, the room they need, and what to check afterwards."""
    for blocker in plan.blockers:
        face.answer(f"BLOCKED: {blocker}")
    for warning in plan.warnings:
        face.answer(f"warning: {warning}")
    face.answer(f"restore of {plan.backup_id}: {size(plan.bytes)}")
    for number, (action, steps) in enumerate(groupby(plan.steps, key=lambda step: step.action), 1):
        face.answer(f"{number:>2}. {HEADINGS[action]}")
        for step in steps:
            for line in _step_lines(step):
                face.answer(f"      {line}")
    for space in plan.space:
        face.answer(f"room: {size(space.needed)} needed at {space.path}, {size(space.free)} free")
    face.answer("afterwards check:")
    for check in plan.checks:
        face.answer(f"      {check.what}: {check.expected}{f' ({check.note})' if check.note else ''}")


def restore_plan_next(face: Face, plan: RestorePlan, command: str) -> None:
    """`command`: what carries it out."""
    if plan.blockers:
        face.next_step("remove what blocks, then plan again")
    else:
        face.next(command, why=f"or by hand: {plan.directory}/README.md")


def restore_script(face: Face, plan: RestorePlan, out: Path | None) -> None:
    """What stands in the way, and what to do with the script; the script itself may be on stdout."""
    for blocker in plan.blockers:
        face.warn(f"BLOCKED: {blocker}")
    for warning in plan.warnings:
        face.warn(warning)
    if plan.blockers:
        face.next_step("remove what blocks, then make the script anew: this one only explains")
    elif out:
        face.next_step(f"sh {shlex.quote(str(out))}    (checks only; with --yes it restores)")


def _step_lines(step: RestoreStep) -> Iterator[str]:
    """What one step touches: source, target, size; what it overwrites and must not forget."""
    from docmind_backup.core.restore import Action

    match step.action:
        case Action.CHECK | Action.STOP | Action.START:
            yield from step.notes
            return
        case Action.MOVE_ASIDE:
            sidecars = f", {', '.join(step.notes)}" if step.notes else ""
            yield f"{step.target}  ({step.overwrites}{sidecars})"
            return
        case _:
            amount = f"  ({size(step.bytes)})" if step.bytes else ""
            yield f"{step.what} -> {step.target}{amount}"
    if step.overwrites:
        yield f"   overwrites {step.overwrites}"
    for note in step.notes:
        yield f"   {note}"


def settings(face: Face, rows: Iterable[tuple[str, str, str]]) -> None:
    """Every setting, its value (secrets masked) and where it came from."""
    table = _table(("Setting", "left"), ("Value", "left"), ("From", "left"))
    for name, value, origin in rows:
        table.add_row(name, Text(printable(value)), origin)
    face.table(table)
