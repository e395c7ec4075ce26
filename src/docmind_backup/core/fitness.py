"""Decide whether a target can take what a backup holds: versions, shards, keys. No I/O.

What Qdrant does with a snapshot that does not fit was seen on 1.18.3 (tests/data/recordings): a node that has not all
shards refuses with 500, custom sharding is answered 200 and brings no points.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from docmind_backup.core.model import CollectionRecord, Part, Record

# -- versions ------------------------------------------------------------------------------------

_VERSION = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})\.([0-9]{1,9})(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")
GRIDSTORE = (1, 16)
"""From here on Qdrant does not read what RocksDB stored (qdrant#7551, #7552: migrated in 1.16, removed in 1.17)."""


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """As Semantic Versioning orders them, as far as this rule needs it."""

    major: int
    minor: int
    patch: int
    released: bool = True
    """A pre-release comes before the release of the same number."""


def version(text: str) -> Version | None:
    """None when it is none."""
    found = _VERSION.fullmatch(text)
    return Version(int(found[1]), int(found[2]), int(found[3]), released=not found[4]) if found else None


def version_problem(made_with: str, target: str) -> str:
    """Why a snapshot of one Qdrant version may not go to another; empty when it may.

    Rule: same minor version (not older) or the next minor (Qdrant's own promise of storage compatibility).
    """
    old, new = version(made_with), version(target)
    if not old or not new:
        return f"versions cannot be compared: made with '{made_with}', target has '{target}'"
    same = (new.major, new.minor) == (old.major, old.minor) and new >= old
    if same or (new.major, new.minor) == (old.major, old.minor + 1):
        return ""
    needed = f"{made_with} or later of {old.major}.{old.minor}, or {old.major}.{old.minor + 1}"
    return f"the target runs Qdrant {target}; a snapshot of {made_with} needs {needed}"


def version_warning(made_with: str, target: str) -> str:
    """What the rule allows and experience does not; empty where there is nothing of the kind."""
    old, new = version(made_with), version(target)
    if not old or not new:
        return ""
    before, after = (old.major, old.minor), (new.major, new.minor)
    if before != after and before <= GRIDSTORE <= after:
        return (
            f"Qdrant {target} may not read what {made_with} stored with RocksDB: rehearse it, or restore to {made_with}"
        )
    if before == after == GRIDSTORE and new < Version(1, 16, 2):
        return f"snapshots made with Qdrant {made_with} were seen not to restore with {target}: use 1.16.2 or later"
    return ""


# -- shards --------------------------------------------------------------------------------------


def shard_problem(taken: CollectionRecord) -> str:
    """Why one node alone cannot take this snapshot; empty when it can, or nobody recorded where its shards were."""
    placement = taken.state.placement
    if taken.state.sharding == "custom" or (placement and placement.keys):
        keys = f" ({', '.join(placement.keys[:5])})" if placement and placement.keys else ""
        return f"{taken.name} has custom sharding{keys}: an upload answers 200 and brings no points"
    if placement and placement.elsewhere:
        lacking = ", ".join(map(str, placement.elsewhere[:5]))
        return (
            f"{taken.name}: shard {lacking} was on another node of a cluster and is not in this snapshot; "
            "one node alone refuses it with 500, missing data at shard"
        )
    return ""


# -- keys ----------------------------------------------------------------------------------------

KDF = "scrypt n=8192 r=8 p=1"
_SALT = re.compile(r"[0-9a-f]{32}")


class Key(StrEnum):
    """A key of the target beside the one of the backup's environment."""

    SAME = "the same"
    OTHER = "another one"
    NONE = "none"
    NEW = "one, where there was none"
    UNKNOWN = "not been compared"


@dataclass(frozen=True, slots=True)
class _Secret:
    words: str
    setting: str
    without: str


SECRETS: Mapping[str, _Secret] = {
    "image_key": _Secret("image key", "DOCMIND_IMG_AES_KEY_BASE64", "encrypted artifacts (.enc) cannot be read"),
    "hmac_secret": _Secret("HMAC secret", "DOCMIND_HASHING__HMAC_SECRET", "every hash that DocMind makes is another"),
}


def salt_of(record: Record) -> str:
    """What the target's keys have to be fingerprinted with; empty when they cannot be compared."""
    prints = record.key_fingerprints
    salt = prints.get("salt", "")
    return salt if prints.get("kdf") == KDF and _SALT.fullmatch(salt) else ""


def keys(record: Record, target: Mapping[str, str] | None) -> dict[str, Key]:
    """By name, those that matter. `target`: its keys' fingerprints with the record's salt, None when not looked at."""
    recorded = record.key_fingerprints
    if not recorded:
        return {}
    return {name: key for name in SECRETS if (key := _key(name, recorded, target if salt_of(record) else None))}


def _key(name: str, recorded: Mapping[str, str], target: Mapping[str, str] | None) -> Key | None:
    before, now = recorded.get(name, ""), (target or {}).get(name, "")
    match bool(before), bool(now):
        case True, _ if target is None:
            return Key.UNKNOWN
        case True, True:
            return Key.SAME if before == now else Key.OTHER
        case True, False:
            return Key.NONE
        case False, True if name == "hmac_secret":
            return Key.NEW
        case _:
            return None


def key_warnings(record: Record, target: Mapping[str, str] | None) -> Iterator[str]:
    """No blocker: the right key can be put into the target's settings before DocMind starts."""
    found = keys(record, target)
    if Key.UNKNOWN in found.values():
        yield "the target needs the same image key and HMAC secret as the backup's environment had"
    for name, key in found.items():
        secret = SECRETS[name]
        match key:
            case Key.OTHER:
                yield f"the target's {secret.words} is not the backup's: {_consequence(secret, record)}"
            case Key.NONE:
                yield f"the target has no {secret.words} and the backup's environment had one: " + _consequence(
                    secret, record
                )
            case Key.NEW:
                yield f"the target has an {secret.words} and the backup's environment had none: {secret.without}"
            case _:
                pass
    yield from _key_id_warnings(record, target, found)


def _consequence(secret: _Secret, record: Record) -> str:
    where = "the backup's .env may hold it" if Part.ENV in record.included else "the backup does not hold it"
    return f"{secret.without} until {secret.setting} is as it was ({where})"


def _key_id_warnings(record: Record, target: Mapping[str, str] | None, found: Mapping[str, Key]) -> Iterator[str]:
    before, now = record.key_fingerprints.get("image_key_id", ""), (target or {}).get("image_key_id", "")
    if found.get("image_key") is Key.SAME and before != now:
        yield f"the image key is the same and its id another: DOCMIND_IMG_KID was '{before}', the target has '{now}'"
