"""Hold what DocMind ties together against each other where it lives after a restore. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from docmind_backup.consistency import LABEL, tally
from docmind_backup.core import consistency as core
from docmind_backup.core.environment import Environment
from docmind_backup.core.journal import Checked
from docmind_backup.core.model import IndexSnapshot, OnEvent, Record, StepStarted
from docmind_backup.core.server import CollectionServer
from docmind_backup.errors import QdrantError
from docmind_backup.scan import active_snapshot, deployment_id

TOGETHER = "index snapshot and collections"


def check_belonging(
    record: Record, environment: Environment, server: CollectionServer, on_event: OnEvent
) -> tuple[Checked, ...]:
    """The active index snapshot, its collections' metadata, the deployment id, and the files that points name.

    What was so when the backup was made was restored faithfully, and is right. A server that does not answer any
    more costs one check that is not.
    """
    active = active_snapshot(environment.storage, record.layout)
    if active is None or active.problem:
        return ()
    try:
        return tuple(_check(record, environment, active, server, on_event))
    except QdrantError as error:
        return (Checked(TOGETHER, f"could not be held against each other: {error}", right=False),)


def _check(
    record: Record, environment: Environment, active: IndexSnapshot, server: CollectionServer, on_event: OnEvent
) -> Iterator[Checked]:
    states = [replace(server.describe(name), name=name, role=role) for role, name in active.collections.items()]
    for missing in (state for state in states if not state.exists):
        yield Checked(f"collection {missing.name}", f"not there; index snapshot {active.name} needs it", right=False)
    notes = tuple(core.activation_notes(active, states, deployment_id(environment)))
    for note in notes:
        yield Checked(TOGETHER, note, right=note in record.notes)
    if not notes and all(state.exists for state in states):
        yield Checked(TOGETHER, f"{active.name}, metadata and deployment id agree")
    image = next((state.name for state in states if state.role == core.ROLE and state.exists), "")
    if image:
        yield from _artifacts(record, environment.artifacts, server, image, on_event)


def _artifacts(
    record: Record, folder: Path, server: CollectionServer, image: str, on_event: OnEvent
) -> Iterator[Checked]:
    on_event(StepStarted(LABEL))
    found = tally(server.scroll(image, core.KEYS), folder)
    if not found.references:
        return
    if not found.broken:
        yield Checked(LABEL, f"all {found.references:,} are there")
        return
    known = record.artifact_proof is not None and record.artifact_proof.names == found.digest
    words = f"{found.broken:,} of {found.references:,} are not there: {'; '.join(found.examples)}"
    yield Checked(LABEL, f"{words}{'; as when the backup was made' if known else ''}", right=known)
