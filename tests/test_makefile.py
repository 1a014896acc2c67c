"""The Makefile, .ci/run and setup.py agree with each other and with the package. Nothing is installed here."""

import ast
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import detcon_d2

ROOT = Path(__file__).resolve().parents[1]
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*args: str) -> subprocess.CompletedProcess:
    # Inside "make test" the variables of the outer make must not reach the inner one.
    env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE") and key not in ("MFLAGS", "D2", "VENV")}
    return subprocess.run(["make", *args], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)


def setup_keywords() -> dict:
    """The literal keyword arguments of setup()."""
    calls = [node for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if isinstance(node, ast.Call)]
    setup = next(call for call in calls if getattr(call.func, "id", "") == "setup")
    return {k.arg: ast.literal_eval(k.value) for k in setup.keywords if isinstance(k.value, ast.Constant | ast.List | ast.Dict)}


@needs_make
def test_make_alone_lists_every_target() -> None:
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1).split()
    result = make()
    assert result.returncode == 0
    assert {line.split()[1] for line in result.stdout.splitlines()} == set(phony)


@needs_make
@pytest.mark.parametrize("args", [(), ("D2=no/such/folder",)], ids=["no D2", "D2 without detectron2"])
def test_detectron2_target_refuses_a_missing_checkout_before_it_installs_anything(args: tuple[str, ...], tmp_path: Path) -> None:
    result = make("test-detectron2", f"VENV={tmp_path / 'venv'}", *args)
    assert result.returncode != 0
    assert "checkout of Detectron2" in result.stderr
    assert not (tmp_path / "venv").exists()


@needs_make
def test_tests_run_lint_first_and_this_checkout_on_two_single_thread_workers(tmp_path: Path) -> None:
    commands = make("--dry-run", "test", f"VENV={tmp_path / 'venv'}").stdout
    assert commands.index("ruff check .") < commands.index("ruff format --check .") < commands.index("-m pytest")
    assert re.search(rf'OMP_NUM_THREADS=1 PYTHONPATH="{re.escape(str(ROOT))}.*-m pytest.* -n 2 ', commands)


@needs_make
def test_a_venv_is_installed_once_for_each_content_of_setup_py(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    stamp = re.search(r"touch \"(.+)\"", make("--dry-run", "venv", f"VENV={venv}").stdout).group(1)
    venv.mkdir()
    Path(stamp).touch()
    os.utime(stamp, (0, 0))  # older than setup.py, as in a cached venv under a new clone
    assert "pip install" not in make("--dry-run", "venv", f"VENV={venv}").stdout


def test_ci_runs_make_test_and_is_executable() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text().splitlines()[-1]
    if shutil.which("bash"):
        subprocess.run(["bash", "-n", str(script)], check=True)


def test_version_of_setup_is_the_package_version() -> None:
    assert setup_keywords()["version"] == detcon_d2.__version__


def test_dependencies_come_from_pypi_by_name_only() -> None:
    keywords = setup_keywords()
    names = [*keywords["install_requires"], *(name for extra in keywords["extras_require"].values() for name in extra)]
    assert all(re.fullmatch(r"[a-z0-9-]+(\[[a-z]+\])?(>=[\d.]+(post\d+)?)?", name) for name in names)
    assert not any(name.startswith("detectron2") for name in names)


def test_data_files_of_the_package_are_declared() -> None:
    declared = {package: set(names) for package, names in setup_keywords()["package_data"].items()}
    for path in (ROOT / "detcon_d2").rglob("*"):
        if path.is_file() and path.suffix != ".py" and path.parent.name != "__pycache__":
            package = ".".join(path.parent.relative_to(ROOT).parts)
            assert path.name in declared.get(package, set()), f"{path} is not in setup.py's package_data"
