"""detcon_d2.d2 re-exports the identical objects of the backend, names what it does not have, and has no unused names."""

import importlib
import multiprocessing as mp
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from detcon_d2 import d2
from tests.conftest import PATIENCE


def test_every_name_is_the_backends_own_object():
    package = "detectron2" if d2.BACKEND == "detectron2" else "detcon_d2.detectron2_subset"
    lacking = {name for names in d2._ONLY_DETECTRON2.values() for name in names} if d2.BACKEND == "subset" else set()
    for name, module in d2._WHERE.items():
        if name in lacking:
            message = rf"^{name} \({module}\.{name} of Detectron2\) is not in the subset; install detectron2"
            with pytest.raises(AttributeError, match=message):
                getattr(d2, name)
        else:
            assert getattr(d2, name) is getattr(importlib.import_module(f"{package}.{module}"), name), name
    for name, module in d2._MODULES.items():
        assert getattr(d2, name) is importlib.import_module(f"{package}.{module}")


def test_every_name_is_used():
    root = Path(d2.__file__).parents[1]
    files = [path for folder in ("detcon_d2", "tools", "tests") for path in (root / folder).rglob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files if path not in (Path(d2.__file__), Path(__file__)))
    assert set(d2.__dir__()) - set(re.findall(r"\bd2\.(\w+)", text)) == set()


def _registered(queue) -> None:
    import detcon_d2.methods  # noqa: F401

    queue.put((d2.BACKEND, "DetConB" in d2.META_ARCH_REGISTRY, d2.META_ARCH_REGISTRY.get("DetConB").__module__))


def test_a_spawned_process_has_the_same_backend_and_registry():
    context = mp.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_registered, args=(queue,))
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == 0
    assert queue.get(timeout=PATIENCE) == (d2.BACKEND, True, "detcon_d2.methods.detcon")


def test_an_unknown_name_says_what_to_do():
    with pytest.raises(AttributeError, match="has no name 'RetinaNet'"):
        d2.RetinaNet  # noqa: B018


def _python(code: str, **environ: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], env=os.environ | environ, capture_output=True, text=True, check=False)


def test_a_bad_choice_of_the_backend_is_refused():
    result = _python("import detcon_d2.d2", DETCON_D2_BACKEND="caffe2")
    assert "DETCON_D2_BACKEND is 'caffe2'; expected one of auto, detectron2, subset" in result.stderr


def test_importing_the_backend_hides_a_warning_that_only_fvcore_can_remove():
    code = "import warnings, torch; warnings.simplefilter('error', FutureWarning); from detcon_d2 import d2; d2.ResNet; print('imported'); "
    result = _python(code + "warnings.warn('of something else', FutureWarning)")
    assert result.stdout.endswith("imported\n"), result.stderr
    # Other warnings are shown.
    assert "FutureWarning: of something else" in result.stderr


def test_a_broken_detectron2_is_raised_not_replaced(tmp_path):
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").write_text("import a_package_that_is_missing\n")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    result = _python("from detcon_d2 import d2; d2.get_cfg()", DETCON_D2_BACKEND="auto", PYTHONPATH=path)
    assert "No module named 'a_package_that_is_missing'" in result.stderr


def test_nothing_is_imported_before_the_first_use():
    heavy = ("torch", "detectron2", "detcon_d2.detectron2_subset")
    code = f"import sys, detcon_d2.d2; print([m for m in {heavy!r} if m in sys.modules])"
    assert _python(code).stdout.strip() == "[]"
