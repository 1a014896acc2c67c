"""What the Makefile must not do: install again for each clone, or before it knows that Detectron2 is there. Nothing is installed here."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, REPO

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*args: str) -> subprocess.CompletedProcess:
    # Inside "make test" the variables of the outer make must not reach the inner one.
    env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE") and key not in ("MFLAGS", "D2", "VENV")}
    return subprocess.run(["make", *args], cwd=REPO, env=env, capture_output=True, text=True, timeout=PATIENCE)


@pytest.mark.parametrize("args", [(), ("D2=no/such/folder",)], ids=["no D2", "D2 without detectron2"])
def test_detectron2_target_refuses_a_missing_checkout_before_it_installs_anything(args: tuple[str, ...], tmp_path: Path) -> None:
    result = make("test-detectron2", f"VENV={tmp_path / 'venv'}", *args)
    assert result.returncode != 0
    assert "checkout of Detectron2" in result.stderr
    assert not (tmp_path / "venv").exists()


def test_a_venv_is_installed_once_for_each_content_of_setup_py(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    stamp = re.search(r"touch \"(.+)\"", make("--dry-run", "venv", f"VENV={venv}").stdout).group(1)
    venv.mkdir()
    Path(stamp).touch()
    os.utime(stamp, (0, 0))  # older than setup.py, as in a cached venv under a new clone
    assert "pip install" not in make("--dry-run", "venv", f"VENV={venv}").stdout
