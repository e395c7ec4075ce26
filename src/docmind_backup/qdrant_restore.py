"""Change what is on a Qdrant server: upload a snapshot, make and drop a collection, switch aliases. Decides nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from docmind_backup.core import qdrant_rest as rest


class Restoring(ABC):
    """What core/server.py's RestoreTarget adds to a CollectionServer, in terms of one request."""

    @abstractmethod
    def aliases(self) -> dict[str, str]: ...

    @abstractmethod
    def change(self, method: str, path: str, *, slow: bool = False, **content: Any) -> httpx.Response:
        """Send a request that alters something and give its answer, whatever its status.

        `slow`: it may take as long as making a snapshot. Raises QdrantUnreachable when there is no answer.
        """

    @abstractmethod
    def refusals(self) -> rest.Refusals: ...

    def upload_snapshot(
        self, name: str, snapshot: Path, *, file: str, sha256: str, on_bytes: Callable[[int], None]
    ) -> None:
        """httpx sends the form from the file, piece by piece, under a Content-Length."""
        query = {"wait": "true", "priority": "snapshot", "checksum": sha256}
        with snapshot.open("rb") as opened:
            form = {"snapshot": (rest.file_name(file), _Told(opened, on_bytes), "application/octet-stream")}
            answer = self.change("POST", rest.upload_path(name), slow=True, params=query, files=form)
        if answer.status_code != 200:
            raise self.refusals().of_upload(answer.status_code, answer.content)

    def create_collection(self, name: str) -> None:
        self._do("PUT", rest.collection_path(name), "creating a collection", json=rest.EMPTY)

    def delete_collection(self, name: str) -> None:
        try:
            self._do("DELETE", rest.collection_path(name), "deleting a collection", params={"wait": "true"})
        except rest.NotFoundError:
            return

    def set_aliases(self, wanted: Mapping[str, str | None]) -> None:
        if actions := rest.alias_actions(self.aliases(), wanted):
            self._do("POST", "/collections/aliases", "setting an alias", json={"actions": actions})

    def _do(self, method: str, path: str, changes: str, **content: Any) -> None:
        answer = self.change(method, path, **content)
        if answer.status_code != 200:
            raise self.refusals().of(answer.status_code, answer.content, changes=changes)


class _Told:
    """A file that says how much of it was read. httpx finds its size by the descriptor."""

    def __init__(self, file: BinaryIO, on_bytes: Callable[[int], None]) -> None:
        self._file = file
        self._on_bytes = on_bytes

    def fileno(self) -> int:
        return self._file.fileno()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._on_bytes(len(data))
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
