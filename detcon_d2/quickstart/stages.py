"""Long jobs made of commands that a user could type: each runs once, is recorded, and is not run again.

A stage leaves a record with its command and duration. A second call skips what is recorded, continues what was interrupted (the tools
resume by themselves), and refuses a folder whose stages ran with other commands.
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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from detcon_d2.io.atomic import write_bytes_atomically as write_atomically


@dataclass(frozen=True)
class Stage:
    """One command.

    Attributes:
        title: what it does, for the headline.
        command: the command line, as a user would type it after ``python``.
        record: file that says it is finished; its folder is created.
        product: what the command makes; a recorded stage whose product is gone runs again.
    """

    title: str
    command: tuple[str, ...]
    record: Path
    product: Path

    def is_finished(self) -> bool:
        """Whether the stage has run with this very command.

        Raises:
            ValueError: it has run with another one.
        """
        if not (self.record.is_file() and self.product.exists()):
            return False
        found = json.loads(self.record.read_text(encoding="utf-8"))["command"]
        if found != list(self.command):
            differing = sorted(set(found) ^ set(self.command))
            raise ValueError(
                f"{self.record.parent} holds the result of another command for '{self.title}'; the words that differ are "
                f"{' '.join(differing) or 'in another order'}. Name another folder, or delete {self.record} to run the stage again."
            )
        return True


@dataclass(frozen=True)
class Chain:
    """Stages that need each other's products, in order.

    Attributes:
        name: prefix of its lines in the terminal.
        stages: run one after the other; the chain ends with the first that fails.
    """

    name: str
    stages: tuple[Stage, ...]


@contextmanager
def lock_folder(folder: Path) -> Iterator[int]:
    """Keep a second call away from a folder while this one works in it, or a stage that a killed one left behind.

    Args:
        folder: created where it is missing.

    Yields:
        For :func:`run_chains`: its commands hold the lock as long as they run.

    Raises:
        BlockingIOError: somebody works there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(
                f"{folder} is in use by another call, or by a stage that a killed one left running ('fuser {path}' names the processes). "
                "Wait for it, stop it, or name another folder."
            ) from error
        yield file.fileno()


def run_chains(
    chains: Sequence[Chain], folder: Path, jobs: int = 1, on_finished: Callable[[Chain], None] | None = None, lock: int | None = None
) -> None:
    """Run the chains in their order, ``jobs`` at a time; the cores are shared evenly between them.

    An interrupt, SIGTERM too, stops the commands that run; what they had reached is kept as far as the tools keep it.

    Args:
        chains: what to do.
        folder: working directory of the commands.
        jobs: chains that run side by side.
        on_finished: called in this thread after each chain that ran to its end.
        lock: of :func:`lock_folder`.

    Raises:
        ValueError: a folder holds results of other commands; found before anything runs.
        subprocess.CalledProcessError: a stage failed. Others that were running are stopped; all continue at the next call.
    """
    pending = [chain for chain in chains if not all([stage.is_finished() for stage in chain.stages])]
    threads = max(1, (os.cpu_count() or 1) // jobs)
    runner = _Runner(folder, threads, prefix=jobs > 1, lock=lock)
    with _sigterm_interrupts(), ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(runner.run_chain, chain): chain for chain in pending}
        try:
            for future in as_completed(futures):
                future.result()
                if on_finished is not None:
                    on_finished(futures[future])
        except BaseException:
            runner.stop()
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt; only the main thread may say so, in others nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Runner:
    """Starts commands, passes their output on, and stops them together."""

    def __init__(self, folder: Path, threads: int, prefix: bool, lock: int | None):
        self._folder = folder
        self._environ = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self._prefix = prefix
        self._held = () if lock is None else (lock,)
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen] = set()
        self._stopped = False

    def run_chain(self, chain: Chain) -> None:
        for stage in chain.stages:
            if not stage.is_finished():
                self._run(stage, f"[{chain.name}] " if self._prefix else "")

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()

    def _run(self, stage: Stage, prefix: str) -> None:
        stage.record.parent.mkdir(parents=True, exist_ok=True)
        self._print(f"{prefix}{stage.title}\n{prefix}$ python {shlex.join(stage.command)}")
        start = time.time()
        with self._lock:
            if self._stopped:
                return
            # Several commands share the terminal line by line; a single one has it for itself, with its progress bars.
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"} if prefix else {}
            process = subprocess.Popen([sys.executable, *stage.command], cwd=self._folder, env=self._environ, pass_fds=self._held, **pipes)
            self._running.add(process)
        for line in process.stdout or ():
            # A progress bar redraws its line after each carriage return; of those only the last state is told.
            self._print(prefix + line.rstrip().rsplit("\r", 1)[-1])
        code = process.wait()
        with self._lock:
            self._running.discard(process)
        if code != 0:
            raise subprocess.CalledProcessError(code, stage.command)
        record = {"title": stage.title, "command": list(stage.command), "seconds": round(time.time() - start, 1)}
        write_atomically(stage.record, json.dumps(record, indent=1).encode())

    def _print(self, text: str) -> None:
        with self._lock:
            print(text, flush=True)
