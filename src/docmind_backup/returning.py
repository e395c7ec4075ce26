"""Bring one collection back to a server: proved, tried beside what is there, put in its place, undone when it fails.

Every change of the server is in the notes before its call, so that each method can be called again after a kill.
What the notes do not prove to be ours is never deleted (docs/adr/0020).
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from docmind_backup import durable, plain, snapshot_tar, uploads
from docmind_backup.collection import capture_collection
from docmind_backup.core import returning as core
from docmind_backup.core.journal import Checked, Notes
from docmind_backup.core.model import CollectionRecord, CollectionState, Omission, OnEvent, Reason, StepStarted, ignore
from docmind_backup.core.planner import CollectionStep
from docmind_backup.core.restore import TargetQdrant, old_blockers
from docmind_backup.core.returning import Course, Expected, Saved, Stage, Way
from docmind_backup.core.server import RestoreTarget
from docmind_backup.errors import BackupError, DamageFound, QdrantError, QdrantRefused
from docmind_backup.ledger import Ledger, clean_up
from docmind_backup.uploads import Patience, Unlike, Upload


class Proof(Protocol):
    """What Qdrant's engine found in a snapshot."""

    @property
    def points(self) -> int: ...


Prove = Callable[[Path], Proof | None]
"""Opens a snapshot with Qdrant's engine; None where it could not be asked. BackupError: it cannot be read."""


class CollectionReturn:
    """core/journal.py's Returning for a collection of a Qdrant server.

    Each method raises BackupError, or OSError of this machine's files. `folder` is this collection's own: what
    is needed to undo it lies there. `made_with` is the version of Qdrant that the snapshot is of (None: unknown).
    `wanted` is the name that the application uses, by default the recorded one.
    """

    def __init__(
        self,
        server: RestoreTarget,
        taken: CollectionRecord,
        snapshot: Path,
        folder: Path,
        notes: Notes,
        on_event: OnEvent = ignore,
        *,
        backup_id: str,
        made_with: str | None,
        wanted: str = "",
        prove: Prove | None = None,
        patience: Patience | None = None,
        min_free: int = 0,
    ) -> None:
        self._server = server
        self._taken = taken
        self._snapshot = snapshot
        self._folder = folder
        self._notes = notes
        self._on_event = on_event
        self._backup_id = backup_id
        self._made_with = made_with
        self._wanted = wanted or taken.name
        self._prove = prove
        self._patience = patience or Patience()
        self._min_free = min_free
        self._ledger = Ledger(folder / "begun")

    @property
    def name(self) -> str:
        return self._wanted

    # -- forwards

    def prepare(self) -> None:
        """All that can be proved without touching what the application uses; that is as it was, whatever is raised."""
        course = self._read()
        if course and course.stage is Stage.APPLIED:
            return
        if course and course.stage in (Stage.GOING_BACK, Stage.DISCARDED):
            raise self._out_of_order(course)
        with self._undone_when_it_fails():
            if course is None or course.stage is Stage.BACK:
                course = self._begin()
            if course.way is Way.EXACT and not self._is_saved(course):
                course = self._save(course)
            if course.stage is Stage.PREPARING:
                self._note(self._try(course), stage=Stage.PREPARED)

    def apply(self) -> None:
        """It is what the application uses; when that fails, what was there is there again."""
        course = self._course()
        if course.stage is Stage.APPLIED:
            return
        if course.stage is not Stage.PREPARED:
            raise self._out_of_order(course)
        with self._undone_when_it_fails():
            if course.way is Way.EXACT:
                course = self._remove_old(course)
            if course.way is Way.ALIAS:
                uploads.keep(self._server, self._new(course, course.target), course.files)
            else:
                course = self._place(course)
            self._note(self._switch(course), stage=Stage.APPLIED, was_applied=True)

    def check(self) -> tuple[Checked, ...]:
        """Asked for by the application's own name, which may be an alias. Raises QdrantError."""
        course, server = self._course(), self._server
        found, aliases = server.describe(self._wanted), server.aliases()
        problems = [*core.differences(self._expected(course), found), *core.aliases_wrong(course, aliases)]
        if problems:
            raise QdrantError(f"{self._wanted} is not what was restored: {'; '.join(problems)}")
        return tuple(core.checks(course, self._wanted, self._expected(course), found))

    # -- back

    def roll_back(self) -> None:
        """The collections and aliases as they were before `prepare`, nothing of ours beside them."""
        course = self._read()
        if course is None or course.stage is Stage.BACK:
            return
        if course.stage is Stage.DISCARDED:
            raise self._out_of_order(course)
        course = self._note(course, stage=Stage.GOING_BACK)
        for file in course.unanswered:
            course = self._await(course, file)
        self._aliases_back(course)
        if course.way is Way.EXACT:
            course = self._put_back(course)
        elif course.placed:
            course = self._take_away(course)
        if course.tried:
            uploads.remove(self._server, course.trial, course.files)
            course = self._note(course, tried=False)
        self._aliases_back(course)
        clean_up(self._ledger, self._server)
        self._note(course, stage=Stage.BACK, removed=False, switched=False, put_back=False)

    def discard(self) -> None:
        """What `roll_back` would need is gone from this machine; a collection whose alias was switched stays."""
        course = self._read()
        if course and course.stage not in (Stage.APPLIED, Stage.BACK, Stage.DISCARDED):
            raise self._out_of_order(course)
        if course and self._folder.is_dir():
            clean_up(self._ledger, self._server)
            shutil.rmtree(self._folder)
        if course:
            self._note(course, stage=Stage.DISCARDED)

    def left_behind(self) -> tuple[str, ...]:
        """What stays on the server and might be unexpected there; asked before `discard`."""
        course = self._read()
        if course is None:
            return ()
        if course.stage is Stage.BACK:
            return tuple(self._may_come())
        candidates = (
            f"a snapshot of {found.collection} that might be ours: `{found.command}` removes it"
            for found in clean_up(self._ledger, self._server)
        )
        before = course.aliases.get(self._wanted) if course.way is Way.ALIAS and course.was_applied else None
        replaced = (f"{before}, to which {self._wanted} led until now",) if before else ()
        return (*replaced, *candidates)

    def _may_come(self) -> Iterator[str]:
        course = self._read()
        for file in course.unanswered if course else ():
            yield (
                f"{self._wanted} was put back while an upload to it ({file}) had no answer: should the server finish"
                " that yet, it replaces what was put back; count its points before you go on"
            )

    # -- preparing

    def _begin(self) -> Course:
        points = self._prove_snapshot()
        server = self._server
        target = TargetQdrant(
            server.url,
            version=server.version(),
            aliases=server.aliases(),
            peers=server.peers(),
            names=server.names(),
        )
        if problems := core.refusals(self._taken, target, made_with=self._made_with):
            raise QdrantError(f"{self._taken.name} cannot be restored: {'; '.join(problems)}")
        old = uploads.state_of(server, self._wanted)
        if self._wanted not in (target.aliases or {}) and (problem := "; ".join(old_blockers(old))):
            raise QdrantError(f"{self._taken.name} cannot be restored: {problem}")
        token = secrets.token_hex(6)
        course = core.decide(
            self._taken, self._wanted, target, old, points=points, token=token, backup_id=self._backup_id
        )
        if course.trial in target.names or course.trial in (target.aliases or {}):
            raise QdrantError(f"{server.url} has a collection {course.trial} already")
        return self._note(course)

    def _prove_snapshot(self) -> tuple[int, int]:
        """How many points it holds, at least and at most. Raises DamageFound."""
        taken = self._taken
        try:
            found = _measure(self._snapshot)
        except OSError as error:
            raise DamageFound(
                f"the snapshot of {taken.name} cannot be read: {self._snapshot}: {error.strerror}"
            ) from error
        if found != (taken.size, taken.sha256):
            raise DamageFound(f"the snapshot of {taken.name} is not what was recorded: {self._snapshot}")
        return self._prove_structure(self._snapshot, (taken.points_min, taken.points_max))

    def _prove_structure(self, path: Path, points: tuple[int, int]) -> tuple[int, int]:
        if problems := snapshot_tar.check(path):
            raise DamageFound(f"{path} cannot be restored: {problems[0]}")
        proof = self._prove(path) if self._prove else None
        if proof is None:
            return points
        proved = proof.points
        if not points[0] <= proved <= points[1]:
            raise DamageFound(f"{path} holds {proved:,} points, {points[0]:,} to {points[1]:,} are recorded")
        return proved, proved

    def _try(self, course: Course) -> Course:
        """Upload and compare where nothing is; before a first upload, find out whether the server lets us write."""
        server = self._server
        if course.tried:
            uploads.remove(server, course.trial, course.files)
        uploads.check_free(server, course.trial)
        course = self._try_old(course) if course.way is Way.EXACT else self._probe(course)
        if course.way is Way.NEW and course.counted:
            return course
        course = self._note(course, tried=True)
        found = self._upload(course, course.trial)
        course = replace(course, points=(found.points, found.points))
        if course.way is Way.ALIAS:
            return course
        uploads.remove(server, course.trial, course.files)
        return self._note(course, tried=False)

    def _try_old(self, course: Course) -> Course:
        """What was saved can be put back: shown here, while it still stands."""
        course = self._note(course, tried=True)
        try:
            uploads.place(
                self._server,
                self._old(course, course.trial),
                course.files,
                patience=self._patience,
                on_event=self._on_event,
            )
        except Unlike as error:
            raise QdrantError(f"{course.target} could not be put back once it is replaced: {error}") from error
        uploads.remove(self._server, course.trial, course.files)
        return self._note(course, tried=False)

    def _probe(self, course: Course) -> Course:
        """A key that may only read, or a full disk, is found here, before any data moves; a refusal made nothing."""
        course = self._note(course, tried=True)
        try:
            self._server.create_collection(course.trial)
        except QdrantError as error:
            if not error.may_be_done:
                self._note(course, tried=False)
            raise
        uploads.remove(self._server, course.trial, course.files)
        return self._note(course, tried=False)

    # -- the old one

    def _is_saved(self, course: Course) -> bool:
        """Also when the folder was removed since: an interrupted restore is prepared anew."""
        saved = course.saved
        if saved is None or not (self._folder / saved.path).is_file():
            return False
        return _measure(self._folder / saved.path) == (saved.size, saved.sha256)

    def _save(self, course: Course) -> Course:
        """Here and on the disk, and gone from the server's snapshots; counted alike before and after."""
        old = _there(course)
        clean_up(self._ledger, self._server)
        staging = self._folder / "old"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700, parents=True)
        flusher = durable.Flusher(staging)
        try:
            record = self._capture(old, staging)
            flusher.flush(staging)
        finally:
            flusher.close()
        if (record.points_min, record.points_max) != (old.points, old.points):
            raise QdrantError(
                f"points were written to {old.name} while it was saved", hint="stop DocMind and what else writes to it"
            )
        path = staging / record.path
        self._prove_structure(path, (old.points, old.points))
        saved = Saved(path.relative_to(self._folder).as_posix(), record.size, record.sha256)
        return self._note(course, saved=saved)

    def _capture(self, old: CollectionState, staging: Path) -> CollectionRecord:
        taken = capture_collection(
            self._server,
            CollectionStep(old, PurePosixPath("qdrant"), bytes=0),
            staging,
            backup_id=self._backup_id,
            ledger=self._ledger,
            on_event=self._on_event,
            min_free=self._min_free,
            notes=[],
        )
        if isinstance(taken, Omission):
            kind = QdrantRefused if taken.reason is Reason.REFUSED else QdrantError
            raise kind(f"{old.name} could not be saved before it is replaced: {taken.detail}")
        return taken[0]

    def _remove_old(self, course: Course) -> Course:
        """Only what was saved, and only while what was saved is whole on this machine."""
        if course.placed:
            return course
        found = uploads.state_of(self._server, course.target)
        if found.exists or not course.removed:
            if not self._is_saved(course):
                raise QdrantError(f"the saved {course.target} is not in {self._folder} any more; nothing was deleted")
            if not _is_the_old(course, found):
                raise QdrantError(
                    f"{course.target} has changed since it was saved; it was not replaced",
                    hint="stop DocMind and what else writes to it, and restore again",
                )
            course = self._note(course, removed=True)
            self._server.delete_collection(course.target)
        return course

    # -- the new one

    def _place(self, course: Course) -> Course:
        server, target = self._server, course.target
        found = uploads.state_of(server, target)
        if course.placed and found.exists:
            if not core.differences(self._expected(course), found):
                uploads.keep(server, self._new(course, target), course.files)
                return course
            course = self._take_away(course)
        uploads.check_free(server, target)
        return self._put(self._note(course, placed=True), self._new(course, target))

    def _put(self, course: Course, upload: Upload) -> Course:
        """Upload to the target; until its answer is there, it stands in the notes that one may come."""
        before = course.unanswered
        course = self._note(course, unanswered=(*before, upload.file))
        try:
            uploads.place(self._server, upload, course.files, patience=self._patience, on_event=self._on_event)
        except QdrantError as error:
            if not error.may_be_done:
                self._note(course, unanswered=before)
            raise
        return self._note(course, unanswered=before)

    def _upload(self, course: Course, name: str) -> CollectionState:
        return uploads.place(
            self._server, self._new(course, name), course.files, patience=self._patience, on_event=self._on_event
        )

    def _old(self, course: Course, name: str) -> Upload:
        saved = course.saved
        assert saved is not None, "nothing is replaced that was not saved"
        return Upload(name, self._folder / saved.path, course.saved_file, saved.sha256, _expected_old(course))

    def _new(self, course: Course, name: str) -> Upload:
        return Upload(name, self._snapshot, course.file, self._taken.sha256, self._expected(course))

    def _expected(self, course: Course) -> Expected:
        return Expected(course.points, self._taken.state)

    def _switch(self, course: Course) -> Course:
        """Aliases are in no snapshot."""
        now = self._server.aliases()
        if not course.switched:
            if moved := core.aliases_moved(course, now):
                raise QdrantError(f"{', '.join(moved)}: somebody moved this alias meanwhile")
            course = self._note(course, switched=True)
        self._server.set_aliases(core.aliases_to_set(course))
        return course

    # -- undoing

    def _await(self, course: Course, file: str) -> Course:
        """An upload that the server has whole it may finish when its client is gone: over what is put back, too.

        It is watched for; where it does not come, the notes keep that it may.
        """
        server, target = self._server, course.target
        answered = tuple(one for one in course.unanswered if one != file)
        found = uploads.state_of(server, target)
        if found.exists and (course.clearing is None or not core.is_empty_one(found)):
            return self._note(course, unanswered=answered)
        course = self._note(course, clearing=0)
        if not uploads.lies_there(server, target, file):
            return self._note(course, clearing=None, unanswered=answered)
        course = self._note(course, clearing=None)
        self._on_event(StepStarted(f"{target}, an upload of which was not answered"))
        upload = self._old(course, target) if file == course.saved_file else self._new(course, target)
        came = uploads.came_all_the_same(server, upload, self._patience)
        return self._note(course, unanswered=answered) if came else course

    def _take_away(self, course: Course) -> Course:
        """What we put at the target, or what a failed upload left under its name."""
        found = uploads.state_of(self._server, course.target)
        if found.exists and not self._is_ours(course, found):
            raise QdrantError(
                f"{course.target} on {self._server.url} is not what the restore put there, so it is left alone",
                hint="delete it by hand if it may go, then roll back again",
            )
        course = self._note(course, clearing=found.points if found.exists else 0)
        uploads.remove(self._server, course.target, course.files)
        return self._note(course, placed=False, clearing=None)

    def _is_ours(self, course: Course, found: CollectionState) -> bool:
        """As far as it can be told: the upload's file lies there, or it is what we knew it to be."""
        if not core.differences(self._expected(course), found):
            return True
        if course.clearing is not None and found.points == course.clearing:
            kinds = (self._taken.state, *([course.old] if course.old else ()))
            return core.is_empty_one(found) or any(core.same_kind(kind, found) for kind in kinds)
        if course.was_applied and core.same_kind(self._taken.state, found):
            return True
        return uploads.lists_any(self._server, course.target, course.files)

    def _put_back(self, course: Course) -> Course:
        """The saved one under its own name."""
        if not course.removed:
            return course
        server, upload = self._server, self._old(course, course.target)
        found = uploads.state_of(server, course.target)
        if found.exists and not course.placed and not course.put_back and _is_the_old(course, found):
            return course
        if found.exists and course.put_back:
            if not core.differences(upload.expected, found):
                uploads.keep(server, upload, course.files)
                return course
            course = self._note(course, placed=True)  # cut short: to be told by its file
        if found.exists:
            course = self._take_away(course)
        uploads.check_free(server, course.target)
        return self._put(self._note(course, put_back=True), upload)

    def _aliases_back(self, course: Course) -> None:
        if course.switched or course.removed:
            names = self._server.names()
            self._server.set_aliases(core.aliases_back(course, self._server.aliases(), names))

    @contextmanager
    def _undone_when_it_fails(self) -> Iterator[None]:
        """An interruption leaves it to whoever comes next to go on or back."""
        try:
            yield
        except (BackupError, OSError) as error:
            try:
                self.roll_back()
            except (BackupError, OSError) as second:
                why = "for the same reason" if str(second) == str(error) else str(second)
                raise QdrantError(
                    f"{error}; and {self._wanted} could not be put back as it was: {why}",
                    hint=f"what is needed for that is in {self._folder}; roll back again",
                ) from error
            if may_come := "; ".join(self._may_come()):
                raise QdrantError(f"{error}; {may_come}") from error
            raise

    # -- notes

    def _read(self) -> Course | None:
        data: dict[str, Any] = self._notes.get()
        try:
            return core.course(data) if data else None
        except (LookupError, TypeError, ValueError) as error:
            raise BackupError(f"what was noted of the restore of {self._wanted} cannot be read") from error

    def _course(self) -> Course:
        course = self._read()
        if course is None:
            raise BackupError(f"the restore of {self._wanted} was not prepared")
        return course

    def _note(self, course: Course, **changes: Any) -> Course:
        noted = replace(course, **changes)
        self._notes.put(noted.as_json())
        return noted

    def _out_of_order(self, course: Course) -> BackupError:
        return BackupError(f"the restore of {self._wanted} is {course.stage}, which cannot be gone on from")


def _measure(path: Path) -> tuple[int, str]:
    """Size and sha256."""
    with plain.opened(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def _there(course: Course) -> CollectionState:
    assert course.old is not None, "the way is exact"
    return course.old


def _expected_old(course: Course) -> Expected:
    old = _there(course)
    return Expected((old.points, old.points), old)


def _is_the_old(course: Course, found: CollectionState) -> bool:
    """As it was when it was saved, its aliases too."""
    return not core.differences(_expected_old(course), found) and found.aliases == _there(course).aliases
