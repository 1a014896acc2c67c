"""Samples become batches."""

import pytest
import torch

from detcon_d2.modeling.inputs import joined


@pytest.mark.parametrize("part", [slice(0, 5), slice(1, 4), slice(4, 5)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_consecutive_parts_of_a_tensor_are_joined_without_a_copy(part, memory_format):
    """The whole batch, and a part of it (DETCON.MICRO_BATCH)."""
    whole = torch.rand(5, 3, 4, 2).to(memory_format=memory_format)
    result = joined([whole[index] for index in range(5)][part])
    assert result.data_ptr() == whole[part].data_ptr()
    torch.testing.assert_close(result, whole[part], rtol=0, atol=0)


@pytest.mark.parametrize(
    "tensors",
    [
        lambda whole: [whole[0], whole[2]],
        lambda whole: [whole[1], whole[0]],
        lambda whole: [whole[0], whole[0]],
        lambda whole: [whole[0], whole[1].clone()],
        lambda whole: [whole[0, :2], whole[1, :2]],
        lambda whole: [whole.flatten()[1:9].view(4, 2), whole.flatten()[9:17].view(4, 2)],
        lambda whole: list(whole.unbind(1)),
    ],
)
def test_other_tensors_are_stacked(tensors):
    parts = tensors(torch.rand(5, 4, 2))
    torch.testing.assert_close(joined(parts), torch.stack(parts), rtol=0, atol=0)
