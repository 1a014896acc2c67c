"""TensorFlow's and Haiku's "SAME" padding in Detectron2's ResNet, under the same parameter names.

At stride 2 it pads the bottom and right side more, while Detectron2 pads all sides alike. At even sizes its windows begin one pixel later,
so weights that were trained with one padding give different features with the other. For sizes 32 k + 1, and for convolutions of stride 1,
both paddings are the same.
"""

import torch
from torch import nn
from torch.nn import functional as F

from detcon_d2 import d2


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Pixels before and after an axis of ``size`` pixels, so that a window of ``kernel`` taps gives ``ceil(size / stride)`` outputs.

    total = max((ceil(size / stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0); half of it, rounded down, comes before
    (TensorFlow's documentation of ``tf.nn``, "Notes on padding").
    """
    total = max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2


class SameConv2d(d2.Conv2d):
    """Detectron2's convolution with ``norm`` and ``activation``, padded "SAME" for the size of each input."""

    @classmethod
    def from_conv(cls, conv: "d2.Conv2d") -> "SameConv2d":
        """One that shares weight, bias, norm and activation with ``conv``, whose padding it ignores."""
        geometry = {"stride": conv.stride, "dilation": conv.dilation, "groups": conv.groups, "bias": conv.bias is not None}
        # On the device "meta" no random numbers are used, so one seed gives the same weights with either padding.
        kwargs = geometry | {"norm": conv.norm, "activation": conv.activation, "device": "meta"}
        same = cls(conv.in_channels, conv.out_channels, conv.kernel_size, **kwargs)
        same.weight, same.bias = conv.weight, conv.bias
        return same

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        axes = zip(x.shape[-2:], self.kernel_size, self.stride, self.dilation, strict=True)
        (top, bottom), (left, right) = (same_padding(*axis) for axis in axes)
        # The convolution pads both sides alike without a copy; only the additional rows at the bottom and right need one.
        if (bottom, right) != (top, left):
            x = F.pad(x, (0, right - left, 0, bottom - top))
        x = F.conv2d(x, self.weight, self.bias, self.stride, (top, left), self.dilation, self.groups)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


class SameStem(d2.BasicStem):
    """Detectron2's stem with "SAME" max pooling; its convolution is replaced by :func:`use_same_padding`, as all others."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / 4), ceil(W / 4))."""
        x = F.relu_(self.conv1(x))
        top, left = (same_padding(size, kernel=3, stride=2)[0] for size in x.shape[-2:])
        # ceil_mode lets the last window overlap the right and bottom edge, which equals padding there with -inf.
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=(top, left), ceil_mode=True)


def use_same_padding(network: nn.Module) -> int:
    """Replace every Detectron2 convolution for which "SAME" can differ, those with a stride and more than one tap, in place.

    Returns:
        The number of convolutions replaced. Max pooling is the stem's: build :class:`SameStem` in place of ``BasicStem``.
    """
    parents = [
        (module, name, child)
        for module in network.modules()
        for name, child in module.named_children()
        if isinstance(child, d2.Conv2d) and max(child.stride) > 1 and max(child.kernel_size) > 1
    ]
    for module, name, conv in parents:
        setattr(module, name, SameConv2d.from_conv(conv))
    return len(parents)
