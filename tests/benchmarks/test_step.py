"""The benchmark of the step times the step that trains, plain float32 and compiled encoders, and shows where its time goes."""

import json
import statistics

import pytest
import torch
from step import COMPILED, OURS, PLAIN, StepProblem, describe_step, largest_batch, measure_step, profile_step, usual_amp

TINY = StepProblem(depth=18, images=2, size=33, amp_dtype=usual_amp("cpu"))


@pytest.fixture(autouse=True)
def small_products(monkeypatch):
    monkeypatch.setattr("roofline._PEAK_SIDES", (128, 256))
    monkeypatch.setattr("roofline._COPIED_BYTES", 2**24)


def test_ours_and_plain_are_timed_and_a_target_costs_operations():
    results = {method: measure_step(TINY._replace(method=method), rounds=2) for method in ("DetConS", "DetConB")}
    for result in results.values():
        assert set(result["seconds"]) == {OURS, PLAIN} and all(len(seconds) == 2 for seconds in result["seconds"].values())
        assert 0 < result["share_of_peak"] < 1 and result["peak_memory"] is None
        least = result["flops"] / result["peak"]
        assert least < result["roofline"] < least + result["nbytes"] / result["bandwidth"]
        assert result["share_of_roofline"] == pytest.approx(result["roofline"] / statistics.median(result["seconds"][OURS]))
        assert all(name in "\n".join(describe_step(result, 2)) for name in (OURS, PLAIN, "TFLOP", "GB/s"))
    # Two forward passes, and two backward ones of at most twice that; DetCon_B has two forward passes of the target more, and predictors.
    assert 4 / 3 < results["DetConB"]["flops"] / results["DetConS"]["flops"] < 2


def test_compiled_encoders_are_measured_on_request(monkeypatch):
    asked = []
    monkeypatch.setattr("detcon_d2.methods.detcon.DetConBase.compile_encoders", lambda self, backend: asked.append(backend))
    assert list(measure_step(TINY, rounds=1, plain=False, compiled=True)["seconds"]) == [OURS, COMPILED] and asked == ["inductor"]


def test_the_profile_is_shares_of_a_whole_with_convolutions_in_it():
    shares = profile_step(TINY, steps=1)
    assert sum(shares.values()) == pytest.approx(1) and list(shares.values()) == sorted(shares.values(), reverse=True)
    assert any("convolution" in name for name in shares)


def test_the_tool_writes_what_it_prints(tmp_path, run_tool):
    output = tmp_path / "step.json"
    flags = ["--depth", "18", "--images", "2", "--size", "33", "--rounds", "1", "--profile", "3", "--threads", "1", "--json", output]
    done = run_tool("benchmarks/step.py", *flags)
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text())
    assert set(result["seconds"]) == {OURS, PLAIN} and 0 < result["share_of_peak"] < result["share_of_roofline"]
    assert all(name in done.stdout for name in list(result["operators"])[:3])


@pytest.mark.parametrize(("limit", "largest"), [(3, 3), (25, 24)])
def test_the_largest_batch_is_doubled_while_it_fits(monkeypatch, limit, largest):
    def build_step(problem: StepProblem):
        def step() -> None:
            if problem.images > limit:
                raise torch.cuda.OutOfMemoryError("no memory")

        return step

    monkeypatch.setattr("step.build_step", build_step)
    assert largest_batch(TINY._replace(images=3)) == largest
    with pytest.raises(torch.cuda.OutOfMemoryError):
        largest_batch(TINY._replace(images=limit + 1))


@pytest.mark.parametrize("name", ["step", "loss", "scaling"])
def test_a_missing_device_is_refused(run_tool, monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused = run_tool(f"benchmarks/{name}.py", "--device", "cuda")
    assert refused.returncode == 2 and "PyTorch finds no CUDA device here" in refused.stderr
    assert "expected cpu or cuda" in run_tool(f"benchmarks/{name}.py", "--device", "tpu").stderr
