"""The subset says what it is, and what it lacks."""

import importlib

import pytest

from detcon_d2 import detectron2_subset
from detcon_d2.detectron2_subset.missing import missing_name


def test_the_subset_says_that_it_is_not_detectron2():
    assert "not Detectron2" in detectron2_subset.__doc__
    assert detectron2_subset.__version__


@pytest.mark.parametrize("module", ["config", "utils", "engine", "engine.hooks", "solver", "checkpoint"])
def test_a_name_that_the_subset_lacks_is_named_with_the_remedy(subset, module):
    with pytest.raises(AttributeError, match=r"NoSuchThing is not in the subset; install detectron2"):
        _ = subset.get(module).NoSuchThing


def test_a_missing_name_does_not_hide_submodules(subset):
    assert importlib.import_module(subset.get("utils").__name__ + ".events") is subset.get("utils.events")
    assert not hasattr(subset.get("utils"), "visualizer")


def test_missing_name_names_the_module():
    with pytest.raises(AttributeError, match=r"a\.b\.c is not"):
        missing_name("a.b")("c")


def test_public_modules_exist_in_both_backends(subset, real):
    for module in ("config", "utils.comm", "utils.events", "utils.env", "utils.logger", "utils.file_io", "utils.registry"):
        for name in (name for name in vars(subset.get(module)) if name[0] != "_"):
            assert hasattr(subset.get(module), name)
    for module in ("config", "engine", "engine.hooks", "solver", "checkpoint"):
        for name in getattr(subset.get(module), "__all__", ()):
            assert hasattr(real.get(module), name), f"{module}.{name} is not Detectron2's"
