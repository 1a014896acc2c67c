"""Fixtures shared by all tests. Nothing here needs files outside the repository unless its name says so."""

import os
import random
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image

os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ["tests.painted"]

REPO = Path(__file__).resolve().parents[1]
_SHARED = Path(__file__).resolve().parents[2] / "shared"

PATIENCE = 600
"""Seconds after which a test gives up waiting for another process. Only a process that hangs takes so long, however busy the machine is."""

SEED = int(os.environ.get("DETCON_D2_TEST_SEED", "0"))
"""Seed of all random tests: the same in every ``make test``, another one in every round of ``make fuzz``. Tests marked ``seeded`` use it to
search for examples that break them, as hypothesis does."""

# No check may depend on the time that something takes, and no earlier run may change what a test does.
_ANYWHERE = {
    "deadline": None,
    "database": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}
settings.register_profile("test", derandomize=True, **_ANYWHERE)
settings.register_profile("fuzz", max_examples=1000, **_ANYWHERE)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "test"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed the global generators before a test and its fixtures, so that what they return does not depend on the tests before."""
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of oracles and real images beside the checkout; tests that want it skip where it is absent."""
    if not _SHARED.is_dir():
        pytest.skip("needs ../shared (oracles and real images beside the checkout), which is absent")
    return _SHARED


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """Small extracts of the oracles, in the repository."""
    return Path(__file__).parent / "fixtures"


def pytest_report_header(config: pytest.Config) -> str:
    from detcon_d2 import d2

    shared = "present" if _SHARED.is_dir() else "absent: tests that need it are skipped"
    return f"detectron2 backend: {d2.describe_backend()}; ../shared: {shared}; seed of random tests: {SEED}"


class ToolResult(NamedTuple):
    """What a tool left behind."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run_tool(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., ToolResult]:
    """Runs a file of ``tools`` in this process, where everything is imported already: ``run_tool("zoo.py", "--help")``."""

    def run(name: str, *arguments: object) -> ToolResult:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            runpy.run_path(str(REPO / "tools" / name), run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
        done = capsys.readouterr()
        # As the interpreter does with a message.
        return ToolResult(1, done.out, f"{done.err}{code}\n") if isinstance(code, str) else ToolResult(code, done.out, done.err)

    return run


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12 small pictures in 2 class folders: coloured rectangles on a noisy ground. In ``../clips`` next to it are such pictures
    as the frames of 4 clips of 10 frames, in 2 class folders."""
    clips = tmp_path_factory.mktemp("clips", numbered=False)
    for number, name in enumerate("xy"):
        write_photos(clips / name, count=20, seed=number)
    return write_photos(tmp_path_factory.mktemp("photos"), count=12)


def write_photos(folder: Path, count: int, height: int = 72, width: int = 96, seed: int = 0) -> Path:
    """Write ``count`` pictures as ``folder/{a,b}/NNN.png`` and return the folder."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        image = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
        for _ in range(4):
            y, x = rng.integers(0, height - 20), rng.integers(0, width - 20)
            image[y : y + rng.integers(12, 40), x : x + rng.integers(12, 40)] = rng.integers(60, 255, 3)
        path = folder / "ab"[index % 2] / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


# A ResNet-50 of an eighth of the width on 64 px views: everything real, in milliseconds.
TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "DETCON.PROJECTOR.HIDDEN_DIM": 32,
    "DETCON.PROJECTOR.OUT_DIM": 16,
    "DETCON.PREDICTOR.HIDDEN_DIM": 32,
    "DETCON.NUM_SAMPLES": 4,
    "DETCON.VIEWS.SIZE": 64,
    "DETCON.MASKS.SOURCE": "grid",
    "DETCON.MASKS.ROOTS": "()",
    "DETCON.SOLVER.EPOCHS": 0.0,
    "DETCON.SOLVER.WARMUP_EPOCHS": 0.0,
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.MAX_ITER": 4,
    "SOLVER.WARMUP_ITERS": 1,
    "SOLVER.AMP.ENABLED": False,
    "DATALOADER.NUM_WORKERS": 0,
}


def tiny_opts(photos: Path, output: Path, **overrides: object) -> list[str]:
    """``KEY VALUE`` overrides of Base-DetCon.yaml for a run that takes a second; ``A__B=c`` overrides key A.B."""
    values = TINY | {"DATASETS.TRAIN": f'("folder:{photos}",)', "OUTPUT_DIR": str(output)}
    values |= {key.replace("__", "."): value for key, value in overrides.items()}
    return [str(item) for pair in values.items() for item in pair]
