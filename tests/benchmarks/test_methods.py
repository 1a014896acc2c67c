"""The loader, the step and the whole run of a method are measured, next to lightly's where it is installed."""

import importlib.util
import json

import pytest
from methods_ours import CONFIGS, PARTS

from tests.conftest import REPO


def test_the_tool_measures_each_part_and_leaves_no_trace(tmp_path, run_tool):
    output = tmp_path / "methods.json"
    options = ["--methods", "SwAV", "--images", "4", "--size", "33", "--local", "1", "33", "--rounds", "1", "--batches", "1", "--json"]
    done = run_tool("benchmarks/methods.py", *options, output)
    assert done.returncode == 0, done.stderr
    (speeds,) = json.loads(output.read_text())["speeds"].values()
    assert tuple(speeds) == PARTS and all(min(values) > 0 for found in speeds.values() for values in found.values())
    assert ("lightly" in speeds["step"]) == (importlib.util.find_spec("lightly") is not None)
    assert done.stdout.count("SwAV") == len(PARTS)


@pytest.mark.parametrize("config", CONFIGS.values())
def test_published_configs_are_measured(config):
    assert (REPO / "configs" / config).is_file()
