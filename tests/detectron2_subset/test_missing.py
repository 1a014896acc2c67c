"""The subset says that it is not Detectron2, and names what it does not have."""

import importlib

import pytest

from detcon_d2 import detectron2_subset

MODULES = ["checkpoint", "config", "data", "data.datasets", "data.samplers", "data.transforms", "engine", "engine.hooks", "evaluation"]
MODULES += ["layers", "modeling", "modeling.backbone", "modeling.proposal_generator", "modeling.roi_heads", "solver", "structures", "utils"]


def test_the_subset_says_that_it_is_not_detectron2():
    assert "not Detectron2" in detectron2_subset.__doc__
    assert detectron2_subset.__version__


@pytest.mark.parametrize("module", [*MODULES, "data.detection_utils", "engine.train_loop", "utils.events"])
def test_a_missing_name_says_what_to_do(subset, module):
    with pytest.raises(AttributeError, match=rf"{module}\.NoSuchThing is not in the subset; install detectron2"):
        _ = subset.get(module).NoSuchThing


def test_a_missing_name_does_not_hide_submodules(subset):
    assert importlib.import_module(subset.get("utils").__name__ + ".events") is subset.get("utils.events")
    assert not hasattr(subset.get("utils"), "visualizer")


def test_every_public_name_is_detectron2s(subset, real):
    for module in MODULES:
        for name in getattr(subset.get(module), "__all__", ()):
            assert hasattr(subset.get(module), name) and hasattr(real.get(module), name), f"{module}.{name}"
