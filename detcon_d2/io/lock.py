"""One run in a folder at a time: a lock that ends with the process that holds it."""

import fcntl
import logging
import os
import socket
from pathlib import Path
from typing import TextIO

_held: dict[Path, TextIO] = {}


def hold_folder(folder: str | os.PathLike) -> None:
    """Create the folder and hold it until :func:`release_folders` or the end of this process; nothing for one that it holds already.

    The lock is one of POSIX: forked workers do not inherit it, the system releases it however the process ends, and NFS carries it to other
    machines. Where a file system has no locks, a warning says so.

    Raises:
        BlockingIOError: another process holds it; names the process and its machine.
        OSError: the folder cannot be written.
    """
    folder = Path(folder).absolute()
    if folder in _held:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".run.lock", "a+", encoding="utf-8")  # noqa: SIM115 (stays open)
    except OSError as error:
        raise type(error)(
            error.errno, f"cannot write to {folder}: {error.strerror}. Free or mount its disk, or change OUTPUT_DIR"
        ) from error
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.seek(0)
        holder = file.read() or "unknown"
        file.close()
        raise BlockingIOError(
            error.errno, f"another run works in {folder} (process {holder}). Wait for it, stop it, or choose another OUTPUT_DIR"
        ) from None
    except OSError as error:
        logging.getLogger(__name__).warning("%s cannot be locked (%s): do not start a second run there.", folder, error.strerror)
    file.truncate(0)
    file.write(f"{os.getpid()} on {socket.gethostname()}")
    file.flush()
    _held[folder] = file


def release_folders() -> None:
    """Let other processes work in the folders that this one holds."""
    while _held:
        _held.popitem()[1].close()
