"""The loader, the step and the whole run of a method are measured, next to lightly's where it is installed."""

import importlib.util
import json
import os

import pytest
from methods_ours import CONFIGS, PARTS

from tests.conftest import PATIENCE, REPO
from tests.prepared import PreparedTool


def test_the_tool_measures_each_part(tmp_path):
    output = tmp_path / "methods.json"
    options = ["--methods", "SwAV", "--images", "4", "--size", "33", "--local", "1", "33", "--rounds", "1", "--batches", "1", "--json"]
    # It sets up the log of a run, so it gets a process of its own.
    tool = PreparedTool([str(REPO / "tools/benchmarks/methods.py"), *options, str(output)], os.environ)
    printed, _ = tool.communicate(PATIENCE)
    assert tool.returncode == 0, printed
    (speeds,) = json.loads(output.read_text())["speeds"].values()
    assert tuple(speeds) == PARTS and all(min(values) > 0 for found in speeds.values() for values in found.values())
    assert ("lightly" in speeds["step"]) == (importlib.util.find_spec("lightly") is not None)
    assert printed.count("SwAV ") == len(PARTS), printed


@pytest.mark.parametrize("config", CONFIGS.values())
def test_published_configs_are_measured(config):
    assert (REPO / "configs" / config).is_file()
