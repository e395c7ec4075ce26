"""Where a DocMind environment keeps its things, resolved; and what the user asked for. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from docmind_backup.core.model import Layout, Part


@dataclass(frozen=True, slots=True)
class Environment:
    """DocMind's settings as a backup needs them: absolute paths, exact names."""

    project: Path
    """DocMind's working directory: what its relative paths are relative to."""
    data_dir: Path
    cache_db: Path
    """v2: `<cache.dir>/ingestion/<filename>`."""
    cache_db_v1: Path
    """v1: `<cache_dir>/<filename>`."""
    chat_db: Path
    sqlite_db_v1: Path
    analytics_db: Path
    analytics_enabled: bool
    artifacts: Path
    log_file: Path
    telemetry: Path
    env_file: Path
    qdrant_url: str
    text_collection: str
    """Base name in v2, the exact collection in v1."""
    image_collection: str
    semantic_cache_collection: str = ""
    """v1 only, empty unless enabled with Qdrant as its provider."""
    layout: Layout | None = None
    """Forced by the user; None: found out by scan."""
    allow_remote_endpoints: bool = False
    endpoint_allowlist: tuple[str, ...] = ()
    qdrant_api_key: str = field(default="", repr=False)
    image_key: str = field(default="", repr=False)
    image_key_id: str = ""
    hmac_secret: str = field(default="", repr=False)
    notes: tuple[str, ...] = ()
    """What the settings say that DocMind itself would ignore or refuse."""

    @property
    def uploads(self) -> Path:
        return self.data_dir / "uploads"

    @property
    def storage(self) -> Path:
        return self.data_dir / "storage"

    @property
    def deployment_id_file(self) -> Path:
        return self.data_dir / ".deployment-id"

    @property
    def logs(self) -> Path:
        return self.project / "logs"


@dataclass(frozen=True, slots=True)
class Choices:
    """What this run was asked to keep; None: the default of the layout."""

    only: frozenset[Part] = frozenset()
    """Exactly these parts; empty: the default set."""
    include_uploads: bool | None = None
    include_analytics: bool | None = None
    include_logs: bool = False
    include_env: bool = False
    qdrant: str = "auto"
    """`auto`: an unreachable server is an omission; `required`: a failure; `off`: not asked for."""
    qdrant_path: Path | None = None
    """Folder of an embedded Qdrant; None: a server."""
    collections: tuple[str, ...] = ()
    """Exactly these collections; empty: those the active index snapshot (v2) or settings (v1) name."""
    accept_shrink: bool = False
    share: bool = True
    """What did not change is shared with the earlier backups, not copied again."""

    def parts(self, layout: Layout, *, analytics_enabled: bool) -> frozenset[Part]:
        """The parts this run has to hold."""
        if self.only:
            return self.only
        asked = {
            Part.CACHE: True,
            Part.CHAT: True,
            Part.STORAGE: True,
            Part.IDENTITY: layout is Layout.V2,
            Part.ARTIFACTS: layout is Layout.V2,
            Part.UPLOADS: _or(self.include_uploads, default=layout is Layout.V2),
            Part.ANALYTICS: _or(self.include_analytics, default=analytics_enabled),
            Part.LOGS: self.include_logs,
            Part.ENV: self.include_env,
            Part.QDRANT: self.qdrant != "off",
        }
        return frozenset(part for part, wanted in asked.items() if wanted)


def _or(choice: bool | None, *, default: bool) -> bool:
    return default if choice is None else choice
