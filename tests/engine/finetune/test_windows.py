"""Windows cover an image as in the released code, and logits are means over the windows that hold a pixel."""

import pytest
import torch

from detcon_d2.engine.finetune.windows import average_windows, window_starts


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (2049, [0, 513, 1026, 1280]),
        (1025, [0, 256]),
        (769, [0]),
        (500, [0]),
        (770, [0, 1]),
        (769 + 513, [0, 513]),
        (769 + 514, [0, 513, 514]),
    ],
)
def test_windows_begin_at_multiples_of_the_stride_and_the_last_ends_with_the_axis(length, expected):
    assert window_starts(length, 769, 513) == expected


def test_logits_are_averaged_over_the_windows_of_a_pixel():
    numbers = iter(range(1, 10))
    found = average_windows(torch.zeros(1, 3, 4, 5), lambda image: torch.full((1, 2, *image.shape[-2:]), float(next(numbers))), 4, 2)
    # One row of windows, at columns 0 and 1: 1 and 2.
    assert found.shape == (1, 2, 4, 5)
    assert found[0, 0].tolist() == found[0, 1].tolist() == [[1.0, 1.5, 1.5, 1.5, 2.0]] * 4


@pytest.mark.parametrize("size", [(3, 3), (7, 11), (10, 6)])
def test_a_function_of_single_pixels_gives_the_same_with_any_window(size):
    image = torch.randn(1, 3, *size)
    torch.testing.assert_close(average_windows(image, lambda one: one * 2, 4, 3), image * 2)
