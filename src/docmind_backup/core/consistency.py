"""Decide whether an index snapshot, its collections and the artifacts belong together. No I/O.

What DocMind ties together, and what of it is proved again when: docs/adr/0018-consistency-set.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from docmind_backup.core.model import (
    ArtifactProof,
    CollectionRecord,
    CollectionState,
    IndexSnapshot,
    Omission,
    Part,
    Reason,
    Record,
)
from docmind_backup.core.server import Point

ROLE = "image"
FOLDER = "data/artifacts"
PAIRS = (
    ("image_artifact_id", "image_artifact_suffix"),
    ("thumbnail_artifact_id", "thumbnail_artifact_suffix"),
)
"""In the payload of an image point: the parts of the name of a file in data/artifacts."""
KEYS = tuple(key for pair in PAIRS for key in pair)
EXAMPLES = 3
KEPT = 10_000
"""So many broken names are told apart, to know them again; of more, the first."""
_NAME = re.compile(r"[0-9a-f]{64}(?:\.[A-Za-z0-9]{1,16}){0,3}")
DEPLOYMENT = "docmind_deployment_id"
NO_ARTIFACTS = hashlib.sha256(b"").hexdigest()
"""Digest of the list of captured artifacts where there is none."""


# -- what a run holds against each other ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ArtifactCheck:
    """Image points that have to be held against the artifacts of this backup."""

    index_snapshot: str
    collection: str
    points: int
    """As scan counted them."""
    earlier: ArtifactProof | None = None
    """What the newest backup says of the same points; None: nothing is known of them."""
    accept: bool = False
    """What is broken is meant to be."""


def artifact_check(
    active: IndexSnapshot | None,
    states: Iterable[CollectionState],
    parts: frozenset[Part],
    earlier: Sequence[Record],
    *,
    accept: bool,
) -> ArtifactCheck | None:
    """None where nothing can be held against anything: no active index snapshot, no image collection, a part left out.

    `earlier`: records of the same environment, newest first.
    """
    if active is None or not {Part.QDRANT, Part.ARTIFACTS} <= parts:
        return None
    name = active.collections.get(ROLE, "")
    state = next((state for state in states if state.name == name), None)
    if state is None:
        return None
    proofs = (record.artifact_proof for record in earlier if record.artifact_proof)
    known = next((p for p in proofs if (p.index_snapshot, p.collection) == (active.name, name)), None)
    return ArtifactCheck(active.name, name, state.points, known, accept)


def still_proved(check: ArtifactCheck, taken: CollectionRecord, artifacts: str) -> ArtifactProof | None:
    """The earlier proof, when neither points nor artifacts changed since: then no point has to be asked for.

    `artifacts`: digest of what was captured of them now.
    """
    proof = check.earlier
    if proof is None or (proof.points, proof.points) != (taken.points_min, taken.points_max):
        return None
    if proof.artifacts != artifacts:
        return None
    return replace(proof, accepted=proof.broken > 0 and (proof.accepted or check.accept))


# -- what points name ----------------------------------------------------------------------------


def file_names(point: Point) -> Iterator[tuple[str, bool]]:
    """(name of a file, whether an artifact can be called so) for each that the point names."""
    for one, other in PAIRS:
        stem, suffix = point.payload.get(one), point.payload.get(other)
        if stem is not None:
            name = f"{_text(stem)}{_text('' if suffix is None else suffix)}"
            yield name, _NAME.fullmatch(name) is not None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


@dataclass(slots=True)
class Tally:
    """What was found out so far. Nothing in it grows with the number of points."""

    points: int = 0
    references: int = 0
    broken: int = 0
    late: int = 0
    """Of the broken ones: there in the source now, not when the artifacts were captured."""
    examples: list[str] = field(default_factory=list[str])
    names: set[str] = field(default_factory=set[str])

    def miss(self, point: Point, name: str, *, late: bool) -> None:
        self.broken += 1
        self.late += late
        shown = "".join(c if c.isprintable() else "?" for c in name[:100])
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"point {str(point.id)[:40]} names {shown}")
        if len(self.names) < KEPT:
            self.names.add(name)

    @property
    def digest(self) -> str:
        """Of the broken names; empty when there are none."""
        if not self.names:
            return ""
        return hashlib.sha256("\0".join(sorted(self.names)).encode(errors="surrogatepass")).hexdigest()


def proof(check: ArtifactCheck, tally: Tally, artifacts: str, backup_id: str) -> ArtifactProof:
    known = check.earlier is not None and check.earlier.accepted and check.earlier.names == tally.digest
    return ArtifactProof(
        check.index_snapshot,
        check.collection,
        points=tally.points,
        references=tally.references,
        broken=tally.broken,
        examples=tuple(tally.examples),
        names=tally.digest,
        artifacts=artifacts,
        proved_by=backup_id,
        accepted=tally.broken > 0 and (check.accept or known),
    )


def broken_pairs(proof: ArtifactProof) -> str:
    """What is broken, in words: the first of them, and how many more."""
    more = proof.broken - len(proof.examples)
    shown = "; ".join(proof.examples) + (f"; and {more:,} more" if more else "")
    verb = "is" if proof.broken == 1 else "are"
    return f"{proof.broken:,} of {proof.references:,} files that image points name {verb} not there: {shown}"


def artifacts_broken(proof: ArtifactProof) -> Omission:
    way = "saved as it is; index these documents again, or accept it with --accept-shrink"
    return Omission(Part.ARTIFACTS, FOLDER, Reason.DAMAGED, f"{broken_pairs(proof)}; {way}")


def artifacts_moved(proof: ArtifactProof) -> Omission:
    detail = f"{broken_pairs(proof)}; they came while the backup was made, each time"
    return Omission(Part.ARTIFACTS, FOLDER, Reason.MOVED, detail)


def collection_moved(now: CollectionState) -> Omission:
    how = "made anew, or given other metadata or another alias," if now.exists else "deleted"
    return Omission(Part.QDRANT, now.name, Reason.MOVED, f"it was {how} while the backup was made; saved as it was")


# -- what an index snapshot says of its collections ----------------------------------------------


def activation_notes(
    active: IndexSnapshot | None, states: Iterable[CollectionState], deployment_id: str
) -> Iterator[str]:
    """Why DocMind will refuse to work with what is there: saved faithfully all the same."""
    if active is None:
        return
    strangers = [role for role, found in active.collection_metadata.items() if _stranger(found, deployment_id)]
    for role in sorted(strangers):
        stated = _text(active.collection_metadata[role][DEPLOYMENT])[:100]
        yield (
            f"index snapshot {active.name}: its {role} collection is of deployment {stated}, "
            f"data/.deployment-id says {deployment_id or 'nothing'}; DocMind refuses it"
        )
    for state in states:
        expected = active.collection_metadata.get(state.role)
        if state.exists and expected is not None and state.metadata != expected:
            yield (
                f"collection {state.name}: its metadata is not the active index snapshot's; DocMind refuses it"
                + _differing(state.metadata, expected)
            )


def _stranger(metadata: Mapping[str, Any], deployment_id: str) -> bool:
    return bool(metadata.get(DEPLOYMENT, deployment_id) != deployment_id)


def _differing(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    keys = sorted(key for key in {*found, *expected} if found.get(key) != expected.get(key))
    return f" ({', '.join(keys[:EXAMPLES])}{' ...' if len(keys) > EXAMPLES else ''})" if keys else ""


def other_deployment(active: IndexSnapshot, deployment_id: str) -> bool:
    """Whether an index snapshot was made in another deployment than the one that is there."""
    return any(_stranger(metadata, deployment_id) for metadata in active.collection_metadata.values())


def changed(before: CollectionState, now: CollectionState) -> bool:
    """Whether a collection is another one than the one that was planned for: deleted, made anew, renamed."""
    facts = [(s.exists, s.metadata, s.vectors, s.sparse_vectors, s.aliases) for s in (before, now)]
    return facts[0] != facts[1]
