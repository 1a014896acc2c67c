"""What pip installs is complete: it trains without the checkout."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import detcon_d2
from tests.conftest import PATIENCE, REPO, tiny_opts


def run(command: list[object], folder: Path, **environ: str) -> str:
    """Standard output of a command that must succeed."""
    options = {"cwd": folder, "env": os.environ | environ, "stderr": subprocess.STDOUT, "stdout": subprocess.PIPE, "text": True}
    done = subprocess.run([str(word) for word in command], timeout=PATIENCE, **options)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the installed wheel. It is built from a copy, because building writes into the folder of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("configs", "detcon_d2"):
        shutil.copytree(REPO / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "README.md", "pyproject.toml", "setup.py"):
        shutil.copy(REPO / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    run([*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder, source], folder)
    (wheel,) = folder.glob("*.whl")
    run([*pip, "install", "--no-deps", "--no-index", "--target", folder / "installed", wheel], folder)
    return folder / "installed"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, compiled ones excepted."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_every_file_of_the_package_and_every_config_is_installed(installed: Path) -> None:
    expected = contents(REPO / "detcon_d2") | {f"model_zoo/configs/{name}": data for name, data in contents(REPO / "configs").items()}
    assert contents(installed / "detcon_d2") == expected


def test_the_metadata_name_the_version_and_only_packages_of_pypi(installed: Path) -> None:
    (metadata,) = importlib.metadata.distributions(path=[str(installed)])
    assert metadata.version == detcon_d2.__version__
    names = [requirement.split(";")[0].strip() for requirement in metadata.requires]
    assert len(names) > 15 and all(re.fullmatch(r"[a-z0-9-]+(\[[a-z]+\])?(>=[\d.]+(post\d+)?)?", name) for name in names)
    assert not any(name.startswith("detectron2") for name in names)


def test_the_console_command_pretrains_on_two_processes_without_the_checkout(installed: Path, photos: Path, tmp_path: Path) -> None:
    packages = [str(installed), *filter(None, [os.environ.get("DETCON_D2_CHECKOUT")])]
    environ = {"PYTHONPATH": os.pathsep.join(packages), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    code = "import detcon_d2; print(detcon_d2.__file__)"
    assert Path(run([sys.executable, "-c", code], tmp_path, **environ).splitlines()[-1]).parent == installed / "detcon_d2"
    opts = tiny_opts(photos, tmp_path / "out", SOLVER__MAX_ITER=2, MODEL__RESNETS__RES2_OUT_CHANNELS=64)
    command = [installed / "bin" / "detcon_d2", "train_net", "--config-file", "quickstart/detcon_b_R_18.yaml", "--num-gpus", 2, *opts]
    output = run(command, tmp_path, **environ)
    assert f"config_file='{installed / 'detcon_d2/model_zoo/configs/quickstart/detcon_b_R_18.yaml'}'" in output
    lines = (tmp_path / "out" / "metrics.json").read_text().splitlines()
    assert json.loads(lines[-1])["iteration"] == 1 and (tmp_path / "out" / "model_final.pth").is_file()
