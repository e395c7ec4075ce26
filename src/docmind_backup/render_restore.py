"""Words for people about a restore: what it would do, what it did, how to undo it."""

from __future__ import annotations

import os
import shlex
from datetime import datetime
from typing import TYPE_CHECKING

from docmind_backup.core.journal import Phase
from docmind_backup.core.restore import SIDECARS
from docmind_backup.core.units import size
from docmind_backup.render import Face, plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from docmind_backup.core.journal import Piece
    from docmind_backup.picking import Picked
    from docmind_backup.restores import PlannedRestore, Restored

SHOWN = 20
"""Damaged files that are named at most."""


def env_keys(face: Face, planned: PlannedRestore) -> None:
    """`.env` key by key, without a value: what a person has to merge."""
    if not planned.env:
        return
    face.answer(".env is left as it is; its keys against those of the backup:")
    for key, verdict in planned.env:
        if verdict != "same":
            face.answer(f"      {key}: {verdict}")
    same = sum(verdict == "same" for _, verdict in planned.env)
    face.answer(f"      {plural(same, 'key')}: same")


def question(planned: PlannedRestore) -> str:
    taken = planned.backup.record.started_at
    return f"Restore {planned.backup.id}? What was written since {moment(taken)} leaves, and is kept."


def moment(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"


def restored(face: Face, done: Restored) -> None:
    """What was restored, from when, what is lost since, what was left out; last, how to undo it."""
    journal = done.journal
    if journal.phase is not Phase.DONE:
        taken_back(face, done)
        return
    taken = datetime.fromisoformat(journal.taken_at)
    files, amount = done.came
    what = f"{plural(files, 'file')}, {size(amount)}"
    if journal.collections:
        what += f", {plural(len(journal.collections), 'collection')}"
    face.answer(f"restored {journal.backup_id}: {what}, as of {moment(taken)}")
    for check in done.checks:
        (face.say if check.right else face.warn)(f"{check.what}: {check.found}")
    stays = _left_out(face, done)
    for words in done.left:
        face.say(f"on the server: {words}")
    if done.planned:
        env_keys(face, done.planned)
    if journal.aside:
        face.next_step("look at it; it is removed like any other folder")
        return
    if not done.arrived and not journal.collections:
        face.say("nothing came back, and everything is as it was")
        face.next("list", why="another backup may hold it whole")
        return
    _what_was_there(face, done, but=", but for what stays" if stays else "")
    face.say("start DocMind and look; `docmind-backup restore --discard-rollback` then deletes what was there")
    lost = "; what is written to the collections until then is not kept" if journal.collections else ""
    face.next("restore --rollback", why=f"to undo it{lost}")


def _left_out(face: Face, done: Restored) -> bool:
    """Name what is damaged; whether something stays in its place because it came out as a whole."""
    journal, stays = done.journal, False
    for number, path in enumerate(journal.left_out):
        whole = next((piece for piece in journal.pieces if piece not in done.arrived and _is_of(path, piece)), None)
        there = whole is not None and os.path.lexists(whole.live)
        stays = stays or there
        with_it = f", and {whole.stored} with it" if whole and path != whole.stored else ""
        if number < SHOWN:
            kept = "; the one that is there stays" if there else ""
            face.lacks(f"{path}: damaged in the backup, left out{with_it}{kept}")
    if len(journal.left_out) > SHOWN:
        face.lacks(f"{len(journal.left_out) - SHOWN} more damaged files")
    return stays


def _is_of(path: str, piece: Piece) -> bool:
    """Whether a stored path is the source's root, a sidecar of it, or in it."""
    tail = path[len(piece.stored) :]
    return path.startswith(piece.stored) and (tail in ("", *SIDECARS.get(piece.kind, ())) or tail.startswith("/"))


def _what_was_there(face: Face, done: Restored, *, but: str) -> None:
    journal = done.journal
    since = f"what was written since {moment(datetime.fromisoformat(journal.taken_at))}"
    if not journal.keeps_anything:
        face.say(f"nothing {'else ' if but else ''}was in place before; {since} is lost{but}")
        return
    face.say(f"{since} is no longer in place{but}; what was there is in")
    for folder in journal.folders:
        face.say(f"  {folder}")


def taken_back(face: Face, done: Restored) -> None:
    """What was there before is back."""
    journal = done.journal
    if journal.phase is Phase.DISCARDING:
        discarded(face, [done])
        return
    face.answer(f"taken back: the restore of {journal.backup_id}; what was there before is in its place")
    for words in done.left:
        face.lacks(f"on the server: {words}")
    if journal.was_done and journal.collections:
        names = ", ".join(journal.collections)
        face.say(f"collections too: {names}; what was written to them since the restore is not kept")
    if journal.phase is Phase.UNDONE:
        files = bool(journal.collections)
        what = "the files that had been restored" if files else "what had been restored"
        face.say(f"{what}, with what was written since, {'are' if files else 'is'} in")
        for folder in journal.folders:
            face.say(f"  {folder}")
        face.next("restore --discard-rollback", why="when it may go")
    elif done.again:
        face.next(shlex.join(("restore", *done.again)), why="to try again")
    else:
        face.next("list", why=f"{journal.directory} is gone")


def discarded(face: Face, done: Sequence[Restored]) -> None:
    for one in done:
        face.answer(f"deleted: what the restore of {one.journal.backup_id} kept")
    if all(one.journal.was_done for one in done):
        face.next("list")
    else:
        face.next("create", why="the first backup of what was restored")


def picked(face: Face, found: Picked) -> None:
    for path in found.paths:
        face.answer(str(found.to / path))
    for path in found.damaged:
        face.lacks(f"{path}: damaged in the backup, left out")
    face.say(f"{plural(len(found.paths), 'file')}, {size(found.bytes)} of {found.backup_id}")
