"""Processes that start at once: forked from a server that has imported torch, the package and the tests' modules, once per test process.

A new interpreter spends five to seven seconds of a core on imports, before it does anything that a test checks. Apart from that, a process
of :data:`PREPARED` is like one that multiprocessing spawns: its target and arguments are pickled, nothing has been computed in it, and it
has the environment, the folder and the outputs of the process that starts it. Tests of what a new interpreter does start new interpreters.
"""

import argparse
import importlib
import os
import random
import runpy
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import context, forkserver, reduction
from typing import TextIO
from unittest import mock

import numpy as np
import torch

# ``detcon_d2.engine.launch`` names the function, too.
LAUNCH_MODULE = importlib.import_module("detcon_d2.engine.launch")


class _Process(context.ForkServerProcess):
    """``outputs``: file descriptors of standard output and error, by default those of this process."""

    # Processes that this one starts, such as data workers, are forked, as by a new interpreter.
    _start_method = None

    def __init__(self, *args: object, outputs: tuple[int, int] = (1, 2), environ: Mapping[str, str] | None = None, **kwargs: object):
        super().__init__(*args, **kwargs)
        self._outputs, self._environ = outputs, environ

    def __getstate__(self) -> dict:
        environ = dict(os.environ if self._environ is None else self._environ)
        return self.__dict__ | {"_outputs": [reduction.DupFd(fd) for fd in self._outputs], "_environ": environ}

    def run(self) -> None:
        for number, output in enumerate(self._outputs, start=1):
            os.dup2(output.detach(), number)
        # The server's objects would take a pipe for what the server had, perhaps a file.
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  (until the process ends)
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
        os.environ.clear()
        os.environ.update(self._environ)
        _seed()
        # Python would start another server for the processes of this one.
        forkserver._forkserver.ensure_running = lambda: None
        super().run()


class _Context(context.ForkServerContext):
    Process = _Process


PREPARED = _Context()
PREPARED.set_forkserver_preload(["tests.prepared_imports"])


def start_processes(job: Callable, args: tuple, count: int) -> None:
    """``job(rank, *args)`` in ``count`` processes, waited for; the first that fails ends the others and raises."""
    torch.multiprocessing.start_processes(_seed_and_run, (job, args), count, start_method="forkserver")


def _seed_and_run(rank: int, job: Callable, args: tuple) -> None:
    _seed()
    job(rank, *args)


def _seed() -> None:
    """As Python and numpy do it in each new interpreter: what is sampled without a seed differs from process to process."""
    random.seed()
    np.random.seed()


def launch(main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """:func:`detcon_d2.engine.launch` with processes of :data:`PREPARED`."""
    with mock.patch.object(LAUNCH_MODULE, "START", PREPARED):
        LAUNCH_MODULE.launch(main, args)


class Output:
    """The text of a pipe, read all the time: a job whose log fills the pipe would wait for a test that waits for the job."""

    def __init__(self, pipe: TextIO):
        self._text, self._pipe = "", pipe
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._pipe:
            self._text = self._pipe.read()

    def until_closed(self, timeout: float) -> str:
        """All of it, when every process has closed the pipe; raises subprocess.TimeoutExpired."""
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise subprocess.TimeoutExpired("reading a job's output", timeout)
        return self._text


class PreparedTool:
    """A file of ``tools`` that runs as ``python PATH ARGUMENTS`` does, and starts its own processes by :data:`PREPARED`, too.

    ``pid``, ``returncode``, ``poll``, ``kill`` and ``communicate`` are those of :class:`subprocess.Popen` with both outputs in one pipe.
    """

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]):
        read, write = os.pipe()
        self._process = PREPARED.Process(target=_run_tool, args=(list(command),), outputs=(write, write), environ=environ)
        self._process.start()
        os.close(write)
        self._output = Output(open(read, errors="replace"))  # noqa: SIM115  (closed at its end)
        self.pid, self.kill = self._process.pid, self._process.kill

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    poll = returncode.fget

    def communicate(self, timeout: float) -> tuple[str, None]:
        text = self._output.until_closed(timeout)
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return text, None


def _run_tool(command: list[str]) -> None:
    sys.argv = command
    sys.path.insert(0, os.path.dirname(command[0]))
    LAUNCH_MODULE.START = PREPARED
    runpy.run_path(command[0], run_name="__main__")
