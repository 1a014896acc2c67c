"""Functions are measured alternately and compared round by round."""

import pytest
import torch
from machine import describe_machine
from timing import alternate, median_ratio


def test_functions_alternate_and_each_round_begins_with_another():
    calls, now = [], [0.0]

    def function(name: str, seconds: float):
        def run() -> None:
            calls.append(name)
            now[0] += seconds

        return run

    found = alternate({"a": function("a", 1.0), "b": function("b", 2.0)}, rounds=3, clock=lambda: now[0], wait=function("wait", 0.5))
    assert found == {"a": [1.5] * 3, "b": [2.5] * 3}
    assert calls[1::2] == ["wait"] * 8
    # The warm-up, then three rounds.
    assert [sorted(calls[i : i + 4 : 2]) for i in range(0, 16, 4)] == [["a", "b"]] * 4
    assert len({calls[i] for i in range(4, 16, 4)}) == 2


def test_a_ratio_is_taken_round_by_round():
    # The second round was slow for both.
    assert median_ratio([2.0, 20.0, 3.0], [1.0, 10.0, 1.0]) == 2.0
    with pytest.raises(ValueError):
        median_ratio([1.0], [1.0, 2.0])


def test_the_machine_is_described_in_plain_values():
    found = describe_machine()
    assert found["cores"] >= 1 and found["cpu"] and found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
