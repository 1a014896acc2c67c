"""Atomic writing: a file is either complete or absent."""

import contextlib
import itertools
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".tmp-"
"""Beginning of the names of unfinished files."""

_counter = itertools.count()


def write_bytes_atomically(path: str | Path, data: bytes) -> None:
    """Write a small file without waiting for the disk: many of them are written, and each can be made again after a power failure."""
    with atomic_file(path) as file:
        file.write(data)


@contextmanager
def atomic_file(path: str | Path, *, sync: bool = False) -> Iterator[BinaryIO]:
    """Open a file for writing. It has a temporary name in its folder until the block ends, so nobody ever sees half of it. Raises OSError
    with the reason and ``path``; a previous file of that name is kept.

    Args:
        path: its final name.
        sync: wait until it is on disk, so that whatever it was made from can be deleted afterwards.
    """
    path = Path(path)
    temporary = path.parent / f"{process_prefix(TEMPORARY)}{next(_counter)}"
    try:
        with open(temporary, "wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        # torch.save reports a full disk, or Ctrl-C, by a RuntimeError about its own position in the file.
        cause: BaseException | None = error
        while isinstance(cause, RuntimeError):
            cause = cause.__context__
        if isinstance(cause, KeyboardInterrupt):
            raise cause from None
        if isinstance(cause, OSError):
            raise write_error(path, cause) from error
        raise


def write_error(path: Path, error: OSError) -> OSError:
    """The same error with the name of the file, saying that nothing is lost."""
    return OSError(error.errno, f"cannot write {path}: {error.strerror or error}; what was written before is kept")


def process_prefix(kind: str) -> str:
    """How the names of this process's files of a kind begin: kind, machine and process id."""
    return f"{kind}{socket.gethostname().replace('-', '_')}-{os.getpid()}-"


def remove_leftovers(root: Path) -> None:
    """Delete the temporary files of processes of this machine that have died."""
    machine = process_prefix(TEMPORARY).rsplit("-", 2)[0] + "-"
    for entry in walk_files(root):
        if entry.name.startswith(machine) and not _is_alive(int(entry.name.split("-")[-2])):
            Path(entry.path).unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Delete the temporary files in a folder, not below, that a killed run has left; before this process writes there.

    The caller holds the folder's lock, so files of other machines are left over, too, and those of an earlier process with this one's id.
    """
    machine = process_prefix(TEMPORARY).rsplit("-", 2)[0] + "-"
    for path in folder.glob(TEMPORARY + "*"):
        pid = int(path.name.split("-")[-2])
        if not path.name.startswith(machine) or pid == os.getpid() or not _is_alive(pid):
            path.unlink(missing_ok=True)


def walk_files(folder: str | os.PathLike) -> Iterator[os.DirEntry]:
    """All files below a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from walk_files(entry.path)
            else:
                yield entry


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # the process belongs to another user
    return True
