"""The restore script as lines: what comes in which order, and in how little memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.core.values import DATA, ENVIRONMENT, backup, captured, qdrant, seen, stored

from docmind_backup.core.model import Backup, DirEntry, Entry, FileEntry, Layout, LinkEntry, Part, SourceRecord, Totals
from docmind_backup.core.restore import Place, Target, TargetQdrant, plan_restore
from docmind_backup.core.script import Entries, script
from docmind_backup.core.shell import LAST_LINE

DIGESTS = {"SHA256SUMS": "1" * 64}
UPLOADS = stored(Part.UPLOADS, totals=Totals(files=2, links=1, directories=2, bytes=10))
SAVED = backup(UPLOADS, stored(Part.ENV), digests=DIGESTS, qdrant=qdrant(captured("docs", aliases=("all",))))
ROOT = DirEntry("data/uploads", 1_000_000_002, 0o755)
IN_IT = DirEntry("data/uploads/in it", 3, 0o500)
LINK = LinkEntry("data/uploads/l", "/etc", 4)
FILES = tuple(FileEntry(f"data/uploads/{name}", 5, "0" * 64, 6, 0o640) for name in ("a", "in it/b"))


def target(*parts: Part) -> Target:
    places = tuple(Place(seen(part), (), "disk", 10**12) for part in parts)
    return Target(ENVIRONMENT, Layout.V2, places, TargetQdrant("http://127.0.0.1:6333", "1.18.3", aliases={}))


def entries(_: SourceRecord) -> Iterator[Entry]:
    yield from (ROOT, LINK, FILES[0], IN_IT, FILES[1])


def lines(saved: Backup, to: Target, of: Entries = entries) -> list[str]:
    return list(script(saved, to, plan_restore(saved, to), of))


def test_all_is_checked_then_copied_then_uploaded_then_moved() -> None:
    made = lines(SAVED, target(Part.UPLOADS, Part.ENV))

    calls = [line.split()[0] for line in made if line and not line[0].isspace() and line[0] not in "#}"]
    start = calls.index("expect")
    order = [word for word in calls[start:] if not word.startswith(("if", "fi", "cat", "back", "say", "leftovers"))]
    wanted = "expect unused room command version free_name free_name check_backup stage d f d f l same a a sync upload"
    assert [w for w in order if w in {*wanted.split(), "alias_of", "begin", "aside", "put"}] == [
        *wanted.split(),
        *("alias_of", "expect", "begin", "aside", "put", "sync"),
    ]
    assert made[-1] == LAST_LINE


def test_a_link_comes_after_all_files_and_a_folder_gets_its_time_last_the_deepest_first() -> None:
    made = lines(SAVED, target(Part.UPLOADS))

    first = made.index("d ''")
    assert made[first : first + 5] == [
        "d ''",
        "f 0640 @0.000000006 '/a'",
        "d '/in it'",
        "f 0640 @0.000000006 '/in it/b'",
        "l @0.000000004 '/l' '/etc'",
    ]
    assert made[first + 6 : first + 8] == ["a 0500 @0.000000003 '/in it'", "a 0755 @1.000000002 ''"]


def test_settings_are_left_to_a_person() -> None:
    made = lines(SAVED, target(Part.UPLOADS, Part.ENV))

    assert not [line for line in made if line.startswith("stage") and ".env" in line]
    assert [line for line in made if line.startswith("say 'Not restored: .env: merge it into")]
    assert "exit 0" in made


def test_what_the_target_has_no_place_for_is_named_and_goes_nowhere() -> None:
    hostile = replace(SAVED, record=replace(SAVED.record, sources=(replace(UPLOADS, origin="/etc/cron.d"),)))

    made = lines(hostile, target())

    assert not [line for line in made if "/etc/cron.d" in line and not line.startswith(("#", "say"))]
    assert [line for line in made if line.startswith("say 'Not restored: data/uploads")]
    assert "exit 3" in made


@pytest.mark.parametrize("path", ["data/uploadsx", "data/chat.db", "data/uploads-wal", "backup.json", "data/upload"])
def test_an_entry_of_another_source_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="does not belong to data/uploads"):
        lines(SAVED, target(Part.UPLOADS), lambda _: iter([replace(FILES[0], path=path)]))


def test_nothing_in_a_record_becomes_a_command_or_leaves_its_comment() -> None:
    evil = "x'\n; touch pwned #`id`$(id)"
    record = replace(
        SAVED.record,
        host=evil,
        qdrant=qdrant(captured(evil, aliases=(evil,))),
        sources=(replace(UPLOADS, origin=evil),),
    )
    hostile = Backup(Path(f"/srv/{evil}"), record, None)

    made = lines(hostile, target(Part.UPLOADS), lambda _: iter([replace(FILES[0], path=f"data/uploads/{evil}")]))

    assert not [line for line in "\n".join(made).splitlines() if line.startswith(";")]
    assert str(DATA) in "\n".join(made)


def test_the_memory_for_twenty_thousand_files_is_that_for_a_few() -> None:
    many = (replace(FILES[0], path=f"data/uploads/{number:064}") for number in range(20_000))
    to = target(Part.UPLOADS)
    plan = plan_restore(SAVED, to)
    made = script(SAVED, to, plan, lambda _: many)

    tracemalloc.start()
    count = sum(1 for _ in made)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert count > 20_000
    assert peak < 500_000
