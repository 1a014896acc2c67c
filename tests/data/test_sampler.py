"""Positions and indices follow from seed, batch and iteration alone."""

from itertools import islice

import numpy as np
import pytest

from detcon_d2.data.sampler import PositionSampler
from detcon_d2.views.position import Stream, epoch_permutation, position_rng


def take(count: int, **changes) -> list[tuple[int, int]]:
    values = {"size": 7, "seed": 3, "batch_size": 4}
    return list(islice(PositionSampler(**(values | changes)), count))


def test_positions_count_on_and_each_epoch_is_a_permutation():
    pairs = take(70)
    assert [position for position, _ in pairs] == list(range(70))
    for epoch in range(10):
        indices = [index for _, index in pairs[7 * epoch : 7 * epoch + 7]]
        assert sorted(indices) == list(range(7))
        assert indices == epoch_permutation(3, epoch, 7).tolist()
    assert len({tuple(index for _, index in pairs[7 * e : 7 * e + 7]) for e in range(10)}) > 5


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_share_each_iteration_in_order(world_size):
    share = 4 // world_size
    streams = [take(5 * share, rank=rank, world_size=world_size) for rank in range(world_size)]
    joined = [pair for t in range(5) for stream in streams for pair in stream[t * share : (t + 1) * share]]
    assert joined == take(20)


def test_resuming_continues_the_stream():
    assert take(20)[12:] == take(8, start_iteration=3)
    assert take(10, rank=1, world_size=2)[6:] == take(4, rank=1, world_size=2, start_iteration=3)


def test_a_batch_may_be_larger_than_the_data_set():
    assert sorted(index for _, index in take(9, size=3, batch_size=9)) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"batch_size": 5, "world_size": 2}, "IMS_PER_BATCH is 5; expected a positive multiple of the 2 process.*for example 4"),
        ({"batch_size": 0}, "IMS_PER_BATCH is 0"),
        ({"seed": -1}, "SEED is -1; expected a number >= 0"),
        ({"size": 0}, "0 images"),
    ],
)
def test_impossible_runs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        take(1, **change)


def test_streams_and_positions_are_independent_and_reproducible():
    draws = {(k, stream): position_rng(0, k, stream).random(3).tobytes() for k in range(50) for stream in Stream}
    assert len(set(draws.values())) == len(draws)
    assert all(position_rng(0, k, stream).random(3).tobytes() == value for (k, stream), value in draws.items())
    np.testing.assert_array_equal(position_rng(5, 6, 1).random(4), np.random.default_rng([5, 6, 1]).random(4))
