"""The README inside each backup: what it is, how to check it, how to restore it without this tool. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote

from docmind_backup.core.format import printable
from docmind_backup.core.model import IN_FLIGHT, Kind, Part, Record
from docmind_backup.core.qdrant_rest import collection_path, key_line
from docmind_backup.core.restore import in_flight_folder


def readme(record: Record) -> str:
    """Markdown for a person who has only this folder and a shell."""
    return "\n".join([*_what(record), *_check(), *_restore(record)]) + "\n"


def _what(record: Record) -> Iterator[str]:
    state = "complete" if record.complete else "INCOMPLETE"
    yield f"# Backup {record.id} ({state})"
    yield ""
    yield f"Made by docmind-backup {record.tool_version} on {record.host} at {record.started_at:%Y-%m-%d %H:%M:%S} UTC"
    yield f"from the DocMind environment in `{printable(record.scope.data_dir)}`."
    yield f"It holds {record.totals.files:,} files, {record.totals.bytes:,} bytes: {', '.join(record.included)}."
    if not record.complete:
        yield ""
        yield "It lacks:"
        yield from (f"- {o.part}: {o.source}: {o.reason} {o.detail}".rstrip() for o in record.omissions)
    yield ""


def _check() -> Iterator[str]:
    yield "## Check it"
    yield ""
    yield "    sha256sum -c SHA256SUMS          # any machine with coreutils"
    yield "    docmind-backup verify .          # finds missing, altered and unexpected files too"
    yield ""


def _restore(record: Record) -> Iterator[str]:
    yield "## Restore it"
    yield ""
    yield "`docmind-backup restore-plan <this folder>` prints the steps for your machine. By hand:"
    yield ""
    yield "1. Check it. Stop DocMind and everything that writes to its data."
    yield "2. Move what is there aside, each with its `-wal`, `-shm`, `-journal` or `.wal` beside it. Never leave an"
    yield "   old sidecar beside a restored database: it would be replayed into it."
    yield "3. Copy back, each to where it was:"
    for source in record.sources:
        if source.part is not Part.ENV:
            where = in_flight_folder(record, source.origin) if source.stored in IN_FLIGHT else source.origin
            yield f"   - `{source.stored}` -> `{where}`"
    if any(source.kind is Kind.DUCKDB for source in record.sources):
        yield "   A DuckDB file and its `.wal` belong together: copy both or neither."
    yield "4. Files here are 0400 and folders 0700. `inventory.jsonl` has each one's `mode` and `mtime_ns`; a v1"
    yield "   environment needs the exact times (`touch -d @SECONDS.NANOSECONDS`)."
    if Part.ENV in record.included:
        yield "5. Merge `.env` by hand, line by line; it holds secrets."
    yield from _collections(record, number=6 if Part.ENV in record.included else 5)
    yield ""


def _collections(record: Record, *, number: int) -> Iterator[str]:
    qdrant = record.qdrant
    if qdrant is None or qdrant.embedded or not qdrant.collections:
        return
    yield f"{number}. Qdrant (made with {qdrant.version}; the same or the next minor), into collections that do not"
    yield "   exist. Where it wants a key: `read -r QDRANT_API_KEY` before, and type it."
    for taken in qdrant.collections:
        url = f"{qdrant.url}{collection_path(taken.name)}/snapshots/upload?priority=snapshot&checksum={taken.sha256}"
        escaped = taken.path.replace("\\", "\\\\").replace('"', '\\"')  # curl's own quoting within -F
        form = quote(f'snapshot=@"{escaped}"')
        yield ""
        yield f"       {key_line('QDRANT_API_KEY')} curl -X POST -H @- --noproxy '*' -F {form} \\"
        yield f"         {quote(url)}"
        count = (
            f"{taken.points_max:,} points"
            if taken.points_min == taken.points_max
            else f"{taken.points_min:,} to {taken.points_max:,} points"
        )
        yield f"       # then it holds {count}; aliases: {', '.join(taken.state.aliases) or 'none'}"
