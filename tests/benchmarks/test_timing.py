"""Functions are measured in turns, and compared round by round."""

import pytest
import torch
from timing import alternate, machine, median_ratio, synchronized


def test_functions_take_turns_and_the_first_one_changes():
    calls, now = [], [0.0]

    def function(name: str, seconds: float):
        def run() -> None:
            calls.append(name)
            now[0] += seconds

        return run

    found = alternate({"a": function("a", 1.0), "b": function("b", 2.0)}, rounds=3, warmup=1, clock=lambda: now[0])
    assert found == {"a": [1.0] * 3, "b": [2.0] * 3}
    # The warm-up, then three rounds.
    assert [sorted(calls[i : i + 2]) for i in range(0, 8, 2)] == [["a", "b"]] * 4
    assert len({calls[i] for i in range(2, 8, 2)}) == 2


def test_a_ratio_is_taken_round_by_round():
    # The second round was slow for both.
    assert median_ratio([2.0, 20.0, 3.0], [1.0, 10.0, 1.0]) == 2.0
    with pytest.raises(ValueError):
        median_ratio([1.0], [1.0, 2.0])


def test_the_machine_is_described_in_plain_values():
    found = machine()
    assert found["cores"] >= 1 and found["cpu"] and found["versions"]["torch"]


def test_on_a_gpu_a_call_waits_for_it(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("wait"))
    assert synchronized(lambda: calls.append("work") or 5, "cuda")() == 5 and calls == ["work", "wait"]
    assert synchronized(len, "cpu") is len
