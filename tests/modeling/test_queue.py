"""The queue in one process: first in, first out; its state; errors."""

import pytest
import torch
from torch.nn import functional as F

from detcon_d2.modeling.queue import FeatureQueue


def keys_of_length_one(n, d=3):
    return F.normalize(torch.randn(n, d), dim=1)


def test_columns_are_normalised_at_the_start_and_follow_the_seed():
    torch.manual_seed(3)
    queue = FeatureQueue(8, 64)
    torch.manual_seed(3)
    assert torch.equal(FeatureQueue(8, 64).features, queue.features)
    assert queue.features.shape == (8, 64) and queue.pointer == 0
    torch.testing.assert_close(queue.features.norm(dim=0), torch.ones(64))


def test_the_oldest_keys_are_replaced_first():
    queue, batches = FeatureQueue(3, 6), [keys_of_length_one(2) for _ in range(5)]
    start = queue.features.clone()
    queue.enqueue(batches[0])
    torch.testing.assert_close(queue.features, torch.cat([batches[0].T, start[:, 2:]], dim=1))
    for keys in batches[1:]:
        queue.enqueue(keys)
    torch.testing.assert_close(queue.features, torch.cat([batches[3], batches[4], batches[2]]).T)
    assert queue.pointer == 4


def test_a_batch_as_large_as_the_queue_replaces_it():
    queue, keys = FeatureQueue(3, 4), keys_of_length_one(4)
    queue.enqueue(keys)
    torch.testing.assert_close(queue.features, keys.T)
    assert queue.pointer == 0


def test_after_another_batch_size_keys_wrap_around_the_end():
    queue, keys = FeatureQueue(3, 6), keys_of_length_one(3)
    for n in (2, 2):
        queue.enqueue(keys_of_length_one(n))
    queue.enqueue(keys)
    torch.testing.assert_close(queue.features[:, [4, 5, 0]], keys.T)
    assert queue.pointer == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_keys_are_normalised_in_the_precision_of_the_queue_and_keep_no_graph(dtype):
    queue, keys = FeatureQueue(3, 4), 200 * torch.randn(2, 3)
    keys = keys.to(dtype)
    queue.enqueue(keys.requires_grad_())
    torch.testing.assert_close(queue.features[:, :2], F.normalize(keys.detach().float(), dim=1).T)
    assert queue.features.dtype == torch.float32 and not queue.features.requires_grad


def test_a_half_full_queue_continues_from_its_state():
    queue, copy, keys = FeatureQueue(3, 6), FeatureQueue(3, 6), [keys_of_length_one(2) for _ in range(3)]
    queue.enqueue(keys[0])
    assert queue.state_dict().keys() == {"features", "pointer"}
    copy.load_state_dict(queue.state_dict())
    for x in keys[1:]:
        queue.enqueue(x)
        copy.enqueue(x)
    assert torch.equal(queue.features, copy.features) and torch.equal(queue.pointer, copy.pointer)


def test_the_tensor_stays_the_same_so_that_references_to_the_buffer_hold():
    queue = FeatureQueue(3, 4)
    address = queue.features.data_ptr()
    queue.enqueue(keys_of_length_one(2))
    assert queue.features.data_ptr() == address


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (torch.zeros(4, 3), "The queue has 6 features, which is not a multiple of the global batch of 4"),
        (torch.zeros(12, 3), "not a multiple of the global batch of 12"),
        (torch.zeros(2, 4), r"keys has shape \(2, 4\); expected \(N, 3\)"),
        (torch.zeros(3), r"keys has shape \(3,\); expected \(N, D\)"),
        (torch.zeros(2, 3).long(), "keys has dtype torch.int64"),
    ],
)
def test_wrong_keys_are_refused_and_change_nothing(keys, message):
    queue = FeatureQueue(3, 6)
    before = queue.features.clone()
    with pytest.raises(ValueError, match=message):
        queue.enqueue(keys)
    assert torch.equal(queue.features, before) and queue.pointer == 0


def test_an_empty_queue_is_refused():
    with pytest.raises(ValueError, match="3 dimensions and 0 features; expected at least 1"):
        FeatureQueue(3, 0)
