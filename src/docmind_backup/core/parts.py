"""The parts of an environment that can be asked for by name. Pure, and all that `--help` needs of the core."""

from __future__ import annotations

from enum import StrEnum


class Part(StrEnum):
    """A part of an environment that can be asked for by name."""

    CACHE = "cache"
    CHAT = "chat"
    STORAGE = "storage"
    IDENTITY = "identity"
    ARTIFACTS = "artifacts"
    UPLOADS = "uploads"
    ANALYTICS = "analytics"
    LOGS = "logs"
    ENV = "env"
    QDRANT = "qdrant"
