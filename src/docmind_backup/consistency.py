"""Hold what was captured against what belongs to it. Asks for all image points only when something changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from docmind_backup.core import consistency as core
from docmind_backup.core.consistency import ArtifactCheck, Tally
from docmind_backup.core.model import (
    ArtifactProof,
    Omission,
    OnEvent,
    Part,
    StepStarted,
)
from docmind_backup.core.planner import BackupPlan, CollectionStep, FileStep
from docmind_backup.core.server import CollectionServer, Point
from docmind_backup.errors import QdrantError
from docmind_backup.records import StepResult

LABEL = "files that image points name"


@dataclass(frozen=True, slots=True)
class Together:
    """What came of it."""

    proof: ArtifactProof | None = None
    """None when there is nothing to hold against each other, or no moment at which it was one state."""
    omissions: tuple[Omission, ...] = ()
    notes: tuple[str, ...] = ()
    again: bool = False
    """Made again, the backup may hold what fits together."""

    @property
    def wrong(self) -> bool:
        return bool(self.omissions or self.notes)

    def __add__(self, other: Together) -> Together:
        return Together(
            self.proof or other.proof,
            self.omissions + other.omissions,
            self.notes + other.notes,
            self.again or other.again,
        )


def together(
    plan: BackupPlan, server: CollectionServer, results: Sequence[StepResult], staging: Path, on_event: OnEvent
) -> Together:
    """Collections as they were planned for, image points against the captured artifacts.

    A server that does not answer any more costs a note: what came from it before is whole.
    """
    found = Together()
    try:
        found += _looked_again(server, results)
        if plan.artifact_check:
            found += _hold(plan, plan.artifact_check, server, results, staging, on_event)
    except QdrantError as error:
        words = f"image points and artifacts could not be held against each other: {error}"
        found += Together(notes=(words,))
    return found


def _looked_again(server: CollectionServer, results: Sequence[StepResult]) -> Together:
    """A collection that was made anew, or got another alias, meanwhile is not the one that its record describes.

    One that is gone by now is not asked for again: what was captured of it is all that is left.
    """
    found = Together()
    for result in results:
        step = result.step
        if isinstance(step, CollectionStep) and result.collections:
            now = server.describe(step.state.name)
            if core.changed(step.state, now):
                found += Together(omissions=(core.collection_moved(now),), again=now.exists)
    return found


# -- image points and artifacts ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Artifacts:
    """The artifacts as they were captured."""

    result: StepResult | None
    """None when there is no such folder."""
    captured: Path
    live: Path | None

    @property
    def digest(self) -> str:
        return self.result.digest() if self.result else core.NO_ARTIFACTS

    @property
    def has_holes(self) -> bool:
        """Not every file could be captured: which, is named already."""
        return bool(self.result and self.result.omissions)

    def tally(self, pages: Iterable[tuple[Point, ...]]) -> Tally:
        """Page by page: neither points nor names are kept."""
        tally = Tally()
        for page in pages:
            tally.points += len(page)
            for point in page:
                for name, possible in core.file_names(point):
                    tally.references += 1
                    if not (possible and _is_there(self.captured, name)):
                        late = possible and self.live is not None and _is_there(self.live, name)
                        tally.miss(point, name, late=late)
        return tally


def _artifacts(results: Sequence[StepResult], staging: Path) -> _Artifacts:
    for result in results:
        if isinstance(result.step, FileStep) and result.step.source.part is Part.ARTIFACTS:
            source = result.step.source
            return _Artifacts(result, staging / source.stored, source.path)
    return _Artifacts(None, staging / core.FOLDER, None)


def _is_there(folder: Path, name: str) -> bool:
    """As a file or a link: that a link leads out is told elsewhere."""
    try:
        mode = os.lstat(f"{folder}/{name}").st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) or stat.S_ISLNK(mode)


def _hold(
    plan: BackupPlan,
    check: ArtifactCheck,
    server: CollectionServer,
    results: Sequence[StepResult],
    staging: Path,
    on_event: OnEvent,
) -> Together:
    """Nothing when the collection, or the artifacts, did not come into the backup: that is named already."""
    taken = next((c for result in results for c in result.collections if c.name == check.collection), None)
    if taken is None or any(o.part is Part.ARTIFACTS for o in plan.omissions):
        return Together()
    artifacts = _artifacts(results, staging)
    digest = artifacts.digest
    if known := core.still_proved(check, taken, digest):
        return _judged(known, late=0, has_holes=artifacts.has_holes)
    on_event(StepStarted(LABEL))
    tally = artifacts.tally(server.scroll(check.collection, core.KEYS))
    proof = core.proof(check, tally, digest, plan.id)
    judged = _judged(proof, late=tally.late, has_holes=artifacts.has_holes)
    same = (taken.points_min, taken.points_max) == (tally.points, tally.points)
    return judged if same else replace(judged, proof=None)


def _judged(proof: ArtifactProof, *, late: int, has_holes: bool) -> Together:
    """`late`: so many are broken only because their files came after the artifacts were captured."""
    if late and not has_holes:
        return Together(None, (core.artifacts_moved(proof),), again=True)
    if proof.broken == late:
        return Together(proof if not late else None)
    if proof.accepted:
        return Together(proof, notes=(f"{core.broken_pairs(proof)} (accepted)",))
    return Together(proof, (core.artifacts_broken(proof),))
