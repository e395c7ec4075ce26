"""A file system in an image that can be cut from its power: what the disk held at one instant, mounted again.

The image lies on a file system that can clone files (xfs, an image too). A clone of a mounted image is what the
device had been given by then: what the kernel had not written yet is not in it, as after a power cut.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which

FICLONE = 0x40049409
"""Linux, linux/fs.h."""
MIB = 1024 * 1024

MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"),
    "xfs": ("mkfs.xfs", "-q", "-f", "-m", "reflink=1"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}
SIZE = {"ext4": 256 * MIB, "xfs": 320 * MIB, "btrfs": 320 * MIB}
"""xfs makes none below 300 MiB."""
HOST_SIZE = 8 * 1024 * MIB
OPTIONS = {"ext4": "loop", "xfs": "loop,nouuid", "btrfs": "loop"}


def missing(*kinds: str) -> str:
    """Why no disk of these kinds can be made here; empty when one can."""
    if os.geteuid() != 0:
        return "only root can mount an image"
    for kind in ("xfs", *kinds):
        if which(MAKE[kind][0]) is None:
            return f"{MAKE[kind][0]} is not installed"
    return ""


def run(*command: object) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")


def make(image: Path, kind: str, size: int) -> None:
    with image.open("wb") as file:
        file.truncate(size)
    run(*MAKE[kind], image)


@contextmanager
def mounted(image: Path, kind: str, at: Path) -> Iterator[Path]:
    """Mounted read-write: its journal is played back, as at the next boot."""
    at.mkdir(exist_ok=True)
    run("mount", "-t", kind, "-o", OPTIONS[kind], image, at)
    try:
        yield at
    finally:
        _unmount(image, at)
        if kind == "btrfs":
            subprocess.run(["btrfs", "device", "scan", "--forget"], capture_output=True, check=False)


def _unmount(image: Path, at: Path) -> None:
    """Until the device has let go of the image, what it holds is not all that was written.

    A mount namespace that was made meanwhile (`unshare -m` in some other test) has the file system mounted too, for
    as long as it lives.
    """
    run("umount", at)
    for pause_s in (0.05, 0.1, 0.2, 0.5, *[1] * 300):
        held = subprocess.run(["losetup", "-n", "-O", "NAME", "-j", image], capture_output=True, text=True, check=True)
        if not held.stdout.strip():
            return
        time.sleep(pause_s)
    raise OSError(f"{image} is still in use after it was unmounted")


def clone(image: Path, target: Path) -> Path:
    """What the device holds now, in one instant."""
    with image.open("rb") as source, target.open("xb") as file:
        fcntl.ioctl(file.fileno(), FICLONE, source.fileno())
    return target


@contextmanager
def host(folder: Path) -> Iterator[Path]:
    """A place for images that can be cloned; sparse, and gone afterwards."""
    image = folder / "host.img"
    make(image, "xfs", HOST_SIZE)
    try:
        with mounted(image, "xfs", folder / "host") as at:
            yield at
    finally:
        image.unlink()
