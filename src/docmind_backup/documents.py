"""The answers as JSON documents: what `--json` prints. Pure; docs/cli.md describes each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from docmind_backup.catalog import Item
from docmind_backup.core import format as fmt
from docmind_backup.core.model import Backup, BrokenBackup, Deep, ForeignBackup, Omission, Seal, Unfinished

if TYPE_CHECKING:
    from docmind_backup.core.consistency import ArtifactCheck
    from docmind_backup.core.journal import Journal
    from docmind_backup.core.planner import BackupPlan, Step
    from docmind_backup.core.proof import Deepened
    from docmind_backup.core.rehearsal import Rehearsed
    from docmind_backup.core.restore import RestorePlan
    from docmind_backup.core.verifier import Finding, Unread, Verification
    from docmind_backup.ledger import Begun
    from docmind_backup.leftovers import Leftovers, Scratch
    from docmind_backup.operations import Created, Pruned
    from docmind_backup.picking import Picked
    from docmind_backup.restores import PlannedRestore, Restored

Json = dict[str, Any]


def created(result: Created) -> Json:
    """`create --json`."""
    found = result.backup
    assert found is not None
    pruned_ids = [b.id for b in result.pruned.removed] if result.pruned else []
    return {
        **backup(found),
        "exit_code": result.exit_code,
        "pruned": pruned_ids,
        "prune_failed": [{"id": b.id, "why": why} for b, why in result.pruned.refused] if result.pruned else [],
        "left_on_server": [
            {"collection": c.collection, "snapshot": c.snapshot.name, "command": c.command} for c in result.candidates
        ],
    }


def shown(found: Backup, left: Sequence[Begun]) -> Json:
    """`show --json`; `left`: what its run could not clean up behind it."""
    return {
        **backup(found, whole=True),
        "left_on_server": [
            {"server": note.url, "collection": note.collection, "snapshot": note.name or None} for note in left
        ],
    }


def leftovers(found: Leftovers) -> Json:
    """`leftovers --json`."""
    return {
        "server": found.url,
        "problem": found.problem,
        "snapshots": [
            {
                "whose": one.whose,
                "collection": one.collection,
                "snapshot": one.snapshot.name,
                "bytes": one.snapshot.size,
                "created": one.snapshot.created or None,
                "command": one.command or None,
            }
            for one in found.snapshots
        ],
        "unread": [{"collection": name, "why": why} for name, why in found.unread],
        "notes": [
            {
                "standing": note.standing,
                "server": note.begun.url,
                "collection": note.begun.collection,
                "snapshot": note.begun.name or None,
                "asked_at": note.begun.asked_at,
                "backup": note.begun.backup_id,
                "file": fmt.printable(str(note.file)),
            }
            for note in found.notes
        ],
        "scratch": [_scratch(one) for one in found.scratch],
    }


def _scratch(left: Scratch) -> Json:
    return {
        "standing": left.standing,
        "server": left.note.url,
        "collection": left.note.name,
        "snapshot": left.note.file,
        "asked_at": left.note.asked_at,
        "command": left.command or None,
        "file": fmt.printable(str(left.file)),
    }


def backup(found: Backup, *, whole: bool = False) -> Json:
    """One backup; `whole`: its record too."""
    record = found.record
    document = {
        "kind": "backup",
        "id": record.id,
        "directory": fmt.printable(str(found.directory)),
        "sequence": record.sequence,
        "started_at": record.started_at.isoformat(),
        "duration_ms": round((record.finished_at - record.started_at).total_seconds() * 1000, 1),
        "completeness": "complete" if record.complete else "incomplete",
        "counts": found.counts,
        "included": list(record.included),
        "omissions": [omission(o) for o in record.omissions],
        "notes": list(record.notes),
        "docmind_eligible": not record.ineligible,
        "docmind_ineligible_because": list(record.ineligible),
        "files": record.totals.files,
        "bytes": record.totals.bytes,
        "own_bytes": record.totals.own_bytes,
        "points": _points(found),
        **_verified(found.seal),
        "held": found.held,
    }
    return {**document, "record": fmt.record_document(record)} if whole else document


def _verified(seal: Seal | None) -> Json:
    """What is remembered; a round under way is no verification yet."""
    at = seal.verified_at if seal else None
    under_way = seal.round if seal else None
    return {
        "verified_at": at.isoformat() if at else None,
        "verified": ("intact" if seal.intact else "damaged") if seal and at else None,
        "verified_level": seal.level if seal and at else None,
        "round": {"started_at": under_way.started_at.isoformat(), "files": under_way.files, "bytes": under_way.bytes}
        if under_way
        else None,
        "deep": _deep_seal(seal.deep) if seal and seal.deep else None,
        "rehearsed_at": seal.rehearsed_at.isoformat() if seal and seal.rehearsed_at else None,
        "unread_at": seal.unread_at.isoformat() if seal and seal.unread_at else None,
    }


def _deep_seal(deep: Deep) -> Json:
    """The last time all of it was opened by its engines."""
    return {
        "proved_at": deep.proved_at.isoformat(),
        "collections": [
            {"name": name, "points": points, "digest": digest or None}
            for name, (points, digest) in deep.collections.items()
        ],
    }


def _points(found: Backup) -> Json | None:
    qdrant = found.record.qdrant
    if qdrant is None:
        return None
    return {
        "min": sum(c.points_min for c in qdrant.collections),
        "max": sum(c.points_max for c in qdrant.collections),
    }


def omission(one: Omission) -> Json:
    return {
        "part": one.part,
        "source": one.source,
        "reason": one.reason,
        "detail": one.detail,
        "rebuildable": one.rebuildable,
    }


def listing(items: Sequence[Item]) -> list[Json]:
    """`list --json`: each item has `kind`: backup, foreign, broken or unfinished."""
    return [_item(item) for item in items]


def _item(item: Item) -> Json:
    match item:
        case Backup():
            return backup(item)
        case ForeignBackup():
            created_at = item.created_at.isoformat() if item.created_at else None
            return {
                "kind": "foreign",
                "directory": fmt.printable(str(item.directory)),
                "created_at": created_at,
                "complete": item.complete,
                "bytes": item.bytes,
            }
        case BrokenBackup():
            return {
                "kind": "broken",
                "directory": fmt.printable(str(item.directory)),
                "problem": item.problem,
                "too_new": item.too_new,
            }
        case Unfinished():
            return {"kind": "unfinished", "directory": fmt.printable(str(item.directory))}


def plan(decided: BackupPlan) -> Json:
    """`create --dry-run --json`."""
    return {
        "steps": [_step(step) for step in decided.steps],
        "omissions": [omission(o) for o in decided.omissions],
        "notes": list(decided.notes),
        "layout": decided.layout,
        "bytes_needed": decided.bytes_needed,
        "artifact_check": _artifact_check(decided.artifact_check) if decided.artifact_check else None,
    }


def _artifact_check(check: ArtifactCheck) -> Json:
    return {
        "index_snapshot": check.index_snapshot,
        "collection": check.collection,
        "points": check.points,
        "earlier": fmt.proof_fields(check.earlier) if check.earlier else None,
    }


def _step(step: Step) -> Json:
    from docmind_backup.core.planner import CollectionStep, FileStep

    match step:
        case FileStep():
            source = step.source
            return {
                "part": source.part,
                "kind": source.kind,
                "source": fmt.printable(str(source.path)),
                "stored": str(source.stored),
                "files": step.files,
                "bytes": step.bytes,
            }
        case CollectionStep():
            return {
                "part": "qdrant",
                "kind": "collection",
                "source": step.state.name,
                "stored": str(step.stored),
                "points": step.state.points,
                "bytes": step.bytes,
            }


def pruned(result: Pruned) -> Json:
    """`prune --json`."""
    return {
        "verdicts": [{"id": v.backup.id, "keep": v.keep, "reasons": list(v.reasons)} for v in result.verdicts],
        "removed": [b.id for b in result.removed],
        "failed": [{"id": b.id, "why": why} for b, why in result.refused],
    }


def verification(found: Verification | Unread) -> Json:
    """One element of `verify --json`."""
    from docmind_backup.core.verifier import Unread

    if isinstance(found, Unread):
        return _unread(found)
    return {
        "id": found.id,
        "directory": fmt.printable(str(found.directory)),
        "verdict": found.verdict,
        "level": found.level,
        "files": found.files,
        "bytes": found.bytes,
        "covered_bytes": found.covered,
        "read_bytes": found.read,
        "left_bytes": found.left,
        "since": found.since.isoformat() if found.since else None,
        "damaged_at": found.damaged_at.isoformat() if found.damaged_at else None,
        "findings": [_finding(f) for f in found.findings],
        "also_damaged": list(found.also_damaged),
        "omissions": [omission(o) for o in found.omissions],
        "made_by": found.made_by or None,
        "unproved": [{**fmt.path_fields(u.what, "what"), "why": u.why, "hint": u.hint} for u in found.unproved],
        "deep": _deepened(found.deep) if found.deep else None,
        "rehearsed": _rehearsed(found.rehearsed) if found.rehearsed else None,
        "remembered": found.remembered,
    }


def _rehearsed(rehearsed: Rehearsed) -> Json:
    return {
        "whole": rehearsed.whole,
        "checks": [{"what": fmt.printable(what), "found": fmt.printable(words)} for what, words in rehearsed.checks],
        "remarks": list(rehearsed.remarks),
    }


def _deepened(deep: Deepened) -> Json:
    return {
        "collections": [
            {
                "name": one.name,
                **fmt.path_fields(one.path),
                "points": one.proof.points,
                "points_in_segments": one.proof.in_segments,
                "digest": one.proof.digest or None,
                "shards": dict(one.proof.shards),
                "shards_elsewhere": list(one.proof.elsewhere),
                "vectors": dict(one.proof.vectors),
                "engine": one.proof.engine,
            }
            for one in deep.collections
        ],
        "databases": [
            {**fmt.path_fields(one.path), "rows": dict(one.rows), "engine": one.engine} for one in deep.databases
        ],
        "remarks": list(deep.remarks),
    }


def _unread(found: Unread) -> Json:
    return {
        "id": found.id,
        "directory": fmt.printable(str(found.directory)),
        "verdict": "not read",
        "level": "none",
        "why": found.why,
        "left_bytes": found.left,
        **_verified(found.seal),
    }


def _finding(finding: Finding) -> Json:
    from docmind_backup.core.verifier import Altered, Unreadable

    fields: Json = {"kind": type(finding).__name__.lower(), **fmt.path_fields(finding.path)}
    match finding:
        case Altered(_, what):
            fields["what"] = what
        case Unreadable(_, why):
            fields["what"] = why
        case _:
            pass
    return fields


def restore_plan(plan: RestorePlan) -> Json:
    """`restore-plan --json`."""
    return {
        "backup": plan.backup_id,
        "directory": fmt.printable(plan.directory),
        "blockers": list(plan.blockers),
        "warnings": list(plan.warnings),
        "steps": [
            {
                "action": step.action,
                "what": step.what,
                "target": fmt.printable(step.target),
                "bytes": step.bytes,
                "overwrites": step.overwrites,
                "notes": list(step.notes),
            }
            for step in plan.steps
        ],
        "space": [{"path": s.path, "needed": s.needed, "free": s.free} for s in plan.space],
        "checks": [{"what": c.what, "expected": c.expected, "note": c.note} for c in plan.checks],
        "bytes": plan.bytes,
    }


def planned_restore(planned: PlannedRestore) -> Json:
    """A plan as a file: with what it was made of, so that carrying it out can tell what changed."""
    selection = planned.wanted.document()
    return {
        **restore_plan(planned.plan),
        "record_sha256": planned.opened.digest,
        "selection": {**selection, "to": fmt.printable(selection["to"])},
        "target": {fmt.printable(path): found for path, found in planned.plan.target.items()},
        "env": [{"key": key, "verdict": verdict} for key, verdict in planned.env],
    }


def restored(done: Restored) -> Json:
    """`restore --json`, also of `--resume` and `--rollback`."""
    journal = done.journal
    return {
        "backup": journal.backup_id,
        "directory": fmt.printable(journal.directory),
        "state": journal.phase,
        "taken_at": journal.taken_at,
        "files": done.came[0],
        "bytes": done.came[1],
        "places": [{"what": p.stored, "target": fmt.printable(p.live)} for p in done.arrived],
        "collections": list(journal.collections),
        "left_out": [fmt.printable(path) for path in journal.left_out],
        "checks": [{"what": c.what, "found": c.found, "right": c.right} for c in done.checks],
        "env": [{"key": key, "verdict": verdict} for key, verdict in done.planned.env] if done.planned else [],
        "kept_in": [] if journal.aside else [fmt.printable(folder) for folder in journal.folders],
        "exit_code": done.exit_code,
    }


def kept(journal: Journal) -> Json:
    """`restore --discard-rollback -n --json`, of each."""
    return {
        "backup": journal.backup_id,
        "directory": fmt.printable(journal.directory),
        "state": journal.phase,
        "taken_at": journal.taken_at,
        "kept_in": [fmt.printable(folder) for folder in journal.folders],
    }


def picked(found: Picked) -> Json:
    """`restore BACKUP FILE --to DIR --json`."""
    return {
        "backup": found.backup_id,
        "to": fmt.printable(str(found.to)),
        "files": [fmt.printable(path) for path in found.paths],
        "bytes": found.bytes,
        "left_out": list(found.damaged),
        "exit_code": found.exit_code,
    }
