"""A control group of Linux that limits the memory of a program, the system's cache of the files it reads included."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from programs import Failure

ROOT = Path("/sys/fs/cgroup")
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 10**3, "MB": 10**6, "GB": 10**9}
HINT = "it takes Linux, root, and the memory controller; see benches/peers/README.md"


def size(text: str) -> int:
    """The bytes of a size such as 1GiB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kKMG]i?B)", text)
    if not found or found[2] not in UNITS:
        raise ValueError(f"`{text}`: expected a size such as 1GiB or 500MB")
    return int(float(found[1]) * UNITS[found[2]])


@dataclass(frozen=True)
class Names:
    """What the files of a group are called."""

    version: str
    limits: tuple[str, ...]
    """The first one limits memory; the others keep the rest from the swap device, where the system counts that."""
    peak: str


V1 = Names("v1", ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"), "memory.max_usage_in_bytes")
V2 = Names("v2", ("memory.max", "memory.swap.max"), "memory.peak")


@dataclass(frozen=True)
class Group:
    """A group that is there."""

    path: Path
    names: Names

    def command(self, command: list[str]) -> list[str]:
        """The same program, started in the group."""
        return ["sh", "-c", 'echo $$ > "$0"/cgroup.procs && exec "$@"', str(self.path), *command]

    def peak_bytes(self) -> int | None:
        """The most that it held, the cache of files included; None where the system does not tell."""
        try:
            return int((self.path / self.names.peak).read_text())
        except OSError:
            return None


@contextmanager
def group(limit_bytes: int, root: Path = ROOT) -> Iterator[Group]:
    """A new group of this size, gone afterwards."""
    parent, names = (root / "memory", V1) if (root / "memory").is_dir() else (root, V2)
    path = parent / f"moebius-peers-{os.getpid()}"
    try:
        path.mkdir()
    except OSError as error:
        raise Failure(f"cannot make a group in `{parent}`: {error.strerror}", HINT) from error
    try:
        for number, name in enumerate(names.limits):
            swap = names is V2 and number > 0
            # Swap is not counted everywhere.
            if number == 0 or (path / name).exists():
                (path / name).write_text("0" if swap else str(limit_bytes))
        yield Group(path, names)
    except OSError as error:
        raise Failure(f"cannot limit the memory of `{path}`: {error}", HINT) from error
    finally:
        path.rmdir()


def forget(path: Path) -> None:
    """Drops a file, or the files of a folder, from the system's cache, so that whoever reads it next is charged for it."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_ahead(path: Path) -> Path | None:
    """The file that says how many KiB the disk of `path` reads ahead of what a mapping touches."""
    device = path.stat().st_dev
    found = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    # A partition has the settings of its disk.
    for folder in (found, found.resolve().parent):
        if (folder / "queue" / "read_ahead_kb").is_file():
            return folder / "queue" / "read_ahead_kb"
    return None
