"""Steps are measured in one process and in several."""

import json

from step import StepProblem

from tests.prepared import LAUNCH_MODULE, PREPARED


def test_the_tool_measures_one_process_and_two(tmp_path, run_tool, monkeypatch):
    monkeypatch.setattr(LAUNCH_MODULE, "START", PREPARED)
    output = tmp_path / "scaling.json"
    done = run_tool("benchmarks/scaling.py", "--images", "2", "--size", "33", "--rounds", "1", "--json", output)
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text())
    assert set(result["seconds"]) == {"1", "2"} and min(result["seconds"].values()) > 0
    assert result["problem"].keys() == StepProblem()._asdict().keys() and "2 processes" in done.stdout and "100 % of linear" in done.stdout
