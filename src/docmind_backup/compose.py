"""Put the parts together: settings and flags in, a Job out. The only place that knows which server is the real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docmind_backup.catalog import EVENTS, Catalog
from docmind_backup.core.parts import Part
from docmind_backup.errors import QdrantRefused, UsageError
from docmind_backup.looking import Look
from docmind_backup.starting import first_at_a_signal
from docmind_backup.whereabouts import catalog_root

if TYPE_CHECKING:
    from docmind_backup.operations import Job, Server
    from docmind_backup.qdrant import QdrantServer
    from docmind_backup.settings import Settings


@dataclass(frozen=True, slots=True)
class Run:
    """One command's surroundings."""

    job: Job
    settings: Settings


def look(project: Path, flags: Mapping[str, Any], *, warn: Callable[[str], None]) -> Look:
    """Only the catalog: for what has no use for what makes backups, and starts the quicker."""
    root = catalog_root(project, flags.get("root"))
    return Look(Catalog(root or _loaded(project, flags, warn=warn).root), now)


def _loaded(project: Path, flags: Mapping[str, Any], *, warn: Callable[[str], None], **more: Any) -> Settings:
    from docmind_backup import settings

    loaded = settings.load(project, flags, **more)
    for warning in loaded.warnings:
        warn(warning)
    _refuse_contradictions(loaded, flags)
    return loaded


@contextmanager
def compose(
    project: Path,
    flags: Mapping[str, Any],
    *,
    warn: Callable[[str], None],
    only: tuple[Part, ...] = (),
    accept_shrink: bool = False,
    ask_qdrant: bool = False,
) -> Iterator[Run]:
    """Read the settings of `project` and build what every operation works on. Raises UsageError.

    Only what will `ask_qdrant` pays for the HTTP libraries (0.1 s, and a second more once snapshots are made). What
    ends the run by a signal ends what is asked of the server first, in whatever thread.
    """
    from docmind_backup.operations import wants_qdrant

    loaded = _loaded(project, flags, warn=warn, only=frozenset(only), accept_shrink=accept_shrink)
    server = _server(loaded) if ask_qdrant and wants_qdrant(loaded.choices) else None
    job = _job(loaded, server, warn)
    if server and (warning := _exposed_key(loaded)):
        warn(warning)
    if server is None or isinstance(server, QdrantRefused):
        yield Run(job, loaded)
        return
    with closing(server), first_at_a_signal(lambda: server.stop(at_once=True)):
        yield Run(job, loaded)


def _job(loaded: Settings, server: Server, warn: Callable[[str], None]) -> Job:
    from docmind_backup.events import EventLog
    from docmind_backup.operations import Job

    sinks = [loaded.events or loaded.root / EVENTS]
    if loaded.own.telemetry:
        sinks.append(loaded.environment.telemetry)
    return Job(
        environment=loaded.environment,
        choices=loaded.choices,
        retention=loaded.retention,
        catalog=Catalog(loaded.root),
        server=server,
        clock=now,
        zone=_local_zone(),
        events=EventLog(sinks, clock=now, warn=warn),
        lock_wait_s=loaded.own.lock_wait,
        busy_wait_s=loaded.own.busy_wait,
        late_wait_s=loaded.own.late_wait,
        min_free=loaded.own.min_free,
        downloads=loaded.own.downloads,
    )


def _refuse_contradictions(loaded: Settings, flags: Mapping[str, Any]) -> None:
    choices = loaded.choices
    if choices.qdrant_path and choices.collections:
        raise UsageError("an embedded Qdrant is saved as a whole: --collection and --qdrant-path exclude each other")
    if flags.get("collections") and choices.qdrant == "off":
        raise UsageError("--collection asks for what --no-qdrant-snapshot leaves out")
    if flags.get("qdrant") == "required" and choices.only and Part.QDRANT not in choices.only:
        raise UsageError("--qdrant-snapshot asks for what --only leaves out", hint="add --only qdrant")


def _exposed_key(loaded: Settings) -> str:
    """Over plain http to another machine anybody on the way can read the key."""
    from docmind_backup.core.endpoint import check_endpoint
    from docmind_backup.core.qdrant_rest import base_url

    environment = loaded.environment
    plain = environment.qdrant_api_key and base_url(environment.qdrant_url).startswith("http://")
    here = not check_endpoint(environment.qdrant_url, allow_remote=False, allowlist=(), resolve=lambda _: ())
    return "" if not plain or here else f"the API key goes over plain http to {base_url(environment.qdrant_url)}"


def refuse_disabled(loaded: Settings) -> None:
    """DOCMIND_BACKUP_ENABLED=false in words is a no; DocMind's silent default is not."""
    if loaded.own.enabled is False:
        raise UsageError(
            "backups are switched off: DOCMIND_BACKUP_ENABLED=false", hint="--force makes one all the same"
        )


def _server(loaded: Settings) -> QdrantServer | QdrantRefused:
    """Not asked anything yet: unreachable is found out by the scan."""
    from docmind_backup import qdrant
    from docmind_backup.core.endpoint import check_endpoint
    from docmind_backup.core.qdrant_rest import base_url

    environment, own = loaded.environment, loaded.own
    refusal = check_endpoint(
        base_url(environment.qdrant_url),
        allow_remote=environment.allow_remote_endpoints,
        allowlist=environment.endpoint_allowlist,
        resolve=qdrant.resolve,
    )
    if refusal:
        return QdrantRefused(refusal)
    return qdrant.connect(
        environment.qdrant_url,
        api_key=environment.qdrant_api_key,
        connect_timeout_s=own.connect_timeout,
        request_timeout_s=loaded.request_timeout_s,
        create_timeout_s=own.create_timeout,
        stall_timeout_s=own.stall_timeout,
        min_rate=own.min_rate,
        download_retries=own.download_retries,
        retry_wait_s=own.retry_wait,
        stop_timeout_s=own.stop_timeout,
    )


def now() -> datetime:
    return datetime.now(UTC)


def _local_zone() -> Any:
    """The machine's time zone with its daylight saving rules, for the retention's natural days and weeks."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    from docmind_backup import settings

    name = settings.local_zone_name()
    try:
        return ZoneInfo(name) if name else datetime.now().astimezone().tzinfo
    except (ZoneInfoNotFoundError, ValueError):
        return datetime.now().astimezone().tzinfo
