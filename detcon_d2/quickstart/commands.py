"""Long jobs made of command lines that a user could type. Each command leaves a record with its words and its duration.

A second call skips what is recorded, continues what was interrupted (the tools resume by themselves), and refuses a folder in which other
commands ran.
"""

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from detcon_d2.io.atomic import write_bytes_atomically
from detcon_d2.masks.worker import available_cores


class Command(NamedTuple):
    """One command line: its headline, and its words after ``python``.

    The record is the file that is written when the command has finished; its folder is created. The product is what the command makes; if
    this is deleted, the command runs again.
    """

    title: str
    words: tuple[str, ...]
    record: Path
    product: Path

    def is_finished(self) -> bool:
        """Whether the command has run, with exactly these words. Raises ValueError if it has run with other words."""
        if not (self.record.is_file() and self.product.exists()):
            return False
        found = json.loads(self.record.read_text(encoding="utf-8"))["command"]
        if found != list(self.words):
            differing = sorted(set(found) ^ set(self.words))
            raise ValueError(
                f"{self.record.parent} holds the result of another command for '{self.title}'; the words that differ are "
                f"{' '.join(differing) or 'in another order'}. Name another folder, or delete {self.record} to run the command again."
            )
        return True


Chain = Sequence[Command]
"""Commands that need each other's products, in order; the first command that fails ends the chain."""


def is_finished(chain: Chain) -> bool:
    """Whether every command has run. Raises ValueError if one of them has run with other words."""
    return all([command.is_finished() for command in chain])


PACKAGE_ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds the package."""


def python_arguments(words: Sequence[str]) -> list[str]:
    """What Python is called with: ``tools/NAME.py`` becomes ``-m detcon_d2 NAME``, which an installed package has, too."""
    tool = Path(words[0])
    return ["-m", "detcon_d2", tool.stem, *words[1:]] if tool.parent.name == "tools" else list(words)


def python_environ() -> dict[str, str]:
    """This process's environment, in which Python finds the package from any folder, whether it is installed or not."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(PACKAGE_ROOT), os.environ.get("PYTHONPATH"))))}


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Create the folder, and raise BlockingIOError if another call works in it, or a command that a killed call left running."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with path.open("w") as file:
        # The commands inherit the lock and hold it as long as they run.
        os.set_inheritable(file.fileno(), True)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(
                f"{folder} is in use by another call, or by a command that a killed call left running ('fuser {path}' lists the "
                "processes). Wait for it, stop it, or name another folder."
            ) from error
        yield


@contextmanager
def explain_failure(tool: str) -> Iterator[None]:
    """End a tool with one line for what a user can solve: bad input, a failed command, an interrupt or SIGTERM. For the main thread."""
    before, again = signal.signal(signal.SIGTERM, signal.default_int_handler), "Run again to continue: finished commands are kept."
    try:
        yield
    except (ValueError, OSError) as error:
        sys.exit(f"{tool}: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"{tool}: a command failed (exit code {error.returncode}), see above. {again}")
    except KeyboardInterrupt:
        sys.exit(f"{tool}: interrupted. {again}")
    finally:
        signal.signal(signal.SIGTERM, before)


def run_chains(chains: Mapping[str, Chain], jobs: int = 1, on_finished: Callable[[str], None] | None = None) -> None:
    """Run the chains in their order, ``jobs`` of them at the same time; they share the cores evenly.

    Where several run at the same time, each line of output begins with the name of its chain. A command that fails ends its chain; the
    other chains go on. An interrupt stops the running commands; their progress is kept as far as the tools keep it. ``on_finished`` is
    called in this thread with the name of each finished chain.

    Raises:
        ValueError: a folder holds results of other commands; found before anything runs.
        subprocess.CalledProcessError: a command failed; the other chains have ended. The next call continues with what is not finished.
    """
    pending = {name: chain for name, chain in chains.items() if not is_finished(chain)}
    runner, failed = _Runner(jobs), {}
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(runner.run_chain, name, chain): name for name, chain in pending.items()}
        try:
            for future in as_completed(futures):
                name = futures[future]
                try:
                    future.result()
                except subprocess.CalledProcessError as error:
                    failed[name] = error
                    print(f"== {name} failed (exit code {error.returncode}); the others go on", flush=True)
                    continue
                if on_finished is not None:
                    on_finished(name)
        except BaseException:
            runner.stop()
            pool.shutdown(cancel_futures=True)
            raise
    if failed:
        print(f"== failed: {'; '.join(failed)}", flush=True)
        raise next(iter(failed.values()))


class _Runner:
    """Starts commands, prints their output, and stops all of them together."""

    def __init__(self, jobs: int):
        # More threads than cores wait for each other: two of them on one core made a step thirteen times as slow.
        environ = {**python_environ(), "OMP_NUM_THREADS": str(max(1, available_cores() // jobs))}
        # Several commands share the terminal line by line. A single one writes to it directly, with its progress bars.
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"} if jobs > 1 else {}
        self._settings = {"env": environ, "close_fds": False, **pipes}
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen] = set()
        self._stopped = False

    def run_chain(self, name: str, chain: Chain) -> None:
        for command in chain:
            if not command.is_finished():
                self._run(command, f"[{name}] " if "stdout" in self._settings else "")

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()

    def _run(self, command: Command, prefix: str) -> None:
        command.record.parent.mkdir(parents=True, exist_ok=True)
        self._print(f"{prefix}{command.title}\n{prefix}$ python {shlex.join(python_arguments(command.words))}")
        start = time.time()
        with self._lock:
            if self._stopped:
                return
            process = subprocess.Popen([sys.executable, *python_arguments(command.words)], **self._settings)
            self._running.add(process)
        for line in process.stdout or ():
            # A progress bar writes its line again after each carriage return; only its last state is printed.
            self._print(prefix + line.rstrip().rsplit("\r", 1)[-1])
        code = process.wait()
        with self._lock:
            self._running.discard(process)
        if code != 0:
            raise subprocess.CalledProcessError(code, command.words)
        record = {"title": command.title, "command": list(command.words), "seconds": round(time.time() - start, 1)}
        write_bytes_atomically(command.record, json.dumps(record, indent=1).encode())

    def _print(self, text: str) -> None:
        with self._lock:
            print(text, flush=True)
