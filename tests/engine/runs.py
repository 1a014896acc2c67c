"""Runs of a second or two, in this process or through tools/train_net.py, and what they leave in OUTPUT_DIR."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from detcon_d2 import d2
from detcon_d2.checkpoint import load_checkpoint_file
from detcon_d2.engine import DetConTrainer, FinetuneTrainer, setup_finetuning, setup_pretraining
from tests import detectors
from tests.conftest import PATIENCE, REPO
from tests.prepared import Output, PreparedTool

BASE = str(REPO / "configs" / "Base-DetCon.yaml")
_TRAIN_NET = str(REPO / "tools" / "train_net.py")


def arguments(opts: list[str], **flags: object) -> argparse.Namespace:
    """What Detectron2's argument parser gives, for pretraining."""
    return detectors.arguments(opts, **{"config_file": BASE} | flags)


def pretrainer(opts: list[str]) -> DetConTrainer:
    return DetConTrainer(*setup_pretraining(arguments(opts)))


def finetuner(opts: list[str], resume: bool = False) -> FinetuneTrainer:
    return FinetuneTrainer(*setup_finetuning(detectors.arguments(opts, resume=resume)))


def train(trainer: DetConTrainer | FinetuneTrainer, resume: bool = False) -> DetConTrainer | FinetuneTrainer:
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def run(args: argparse.Namespace, resume: bool = False) -> DetConTrainer:
    """Pretrain to the end."""
    return train(DetConTrainer(*setup_pretraining(args)), resume)


class Stopped(Exception):
    """Raised by :class:`StopAfter`."""


class StopAfter(d2.HookBase):
    """Interrupts a run after this number of iterations."""

    def __init__(self, iterations: int):
        self._iterations = iterations

    def after_step(self) -> None:
        if self.trainer.iter + 1 == self._iterations:
            raise Stopped


def start(opts: list[str], *flags: str, config: str = BASE) -> PreparedTool:
    """Start tools/train_net.py in a process that has imported everything already."""
    return PreparedTool([_TRAIN_NET, "--config-file", config, *flags, *opts], os.environ)


class NewTool(subprocess.Popen):
    """A new process; its ``communicate`` waits until all processes that have its output end."""

    def __init__(self, command: list[str], **options: object):
        super().__init__(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", **options)
        self._output = Output(self.stdout)

    def communicate(self, timeout: float) -> tuple[str, None]:
        """Both outputs, when every process has closed them."""
        text = self._output.until_closed(timeout)
        self.wait(timeout)
        return text, None


def start_anew(opts: list[str], *flags: str, config: str = BASE, new_session: bool = False, **environ: str) -> NewTool:
    """Start tools/train_net.py as users do, in a new interpreter, for tests of signals and of the environment."""
    command = [sys.executable, _TRAIN_NET, "--config-file", config, *flags, *opts]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPO), *sys.path]), "OMP_NUM_THREADS": "1"} | environ
    return NewTool(command, env=environ, start_new_session=new_session)


def output_of(process: NewTool | PreparedTool, code: int = 0) -> str:
    """What a process that ends with ``code`` printed."""
    try:
        output, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == code, output
    return output


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def final_state(folder: Path) -> dict:
    return load_checkpoint_file(folder / "model_final.pth")


def momenta(state: dict) -> list[torch.Tensor]:
    """Of every parameter: after one step without momentum, the gradient."""
    return [entry["momentum_buffer"] for entry in state["trainer"]["optimizer"]["state"].values()]


def assert_same_state(a: dict, b: dict) -> None:
    """Weights and optimizer are equal to the last bit."""
    torch.testing.assert_close(a["model"], b["model"], rtol=0, atol=0)
    torch.testing.assert_close(a["trainer"]["optimizer"]["state"], b["trainer"]["optimizer"]["state"], rtol=0, atol=0)


def counts_of(folder: Path) -> dict[str, object]:
    """The budget of a finished run, without what depends on the clock and the device."""
    names = ("images_seen", "forwards_trained", "forwards_no_grad", "parameters_encoder", "parameters_heads")
    return {name: final_state(folder)["metadata"][name] for name in names}
