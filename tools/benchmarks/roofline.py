"""The least time of a computation as it stands: each operator bound by its products or by its memory, whichever takes longer."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

# Operators that leave memory as it is, and those that write their first argument without reading it.
_ALLOCATING = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")
_OVERWRITING = ("copy_", "fill_", "zero_")


class Operator(NamedTuple):
    """One call of an operator.

    Attributes:
        name: of PyTorch's, as "aten::mm".
        flops: floating-point operations of its products and convolutions.
        nbytes: of the tensors that it has to read and to write, each once.
    """

    name: str
    flops: int
    nbytes: int


def count_operators(function: Callable[[], object]) -> list[Operator]:
    """Run a function and list the operators that work on tensors, those of backward passes with them, in their order.

    Views are left out. A tensor counts once, however often a kernel reads it, and whole, even if it reads a part.
    """
    with FlopCounterMode(display=False) as flops, _OperatorRecorder(flops) as recorder:
        function()
    return recorder.operators


def roofline_seconds(operators: Iterable[Operator], peak: float, bandwidth: float) -> float:
    """The roofline of Williams et al. (2009), operator by operator.

    Args:
        operators: one after the other.
        peak: operations/s.
        bandwidth: bytes/s of the memory. Tensors that stay in a cache from one operator to the next can be faster than this.
    """
    return sum(max(operator.flops / peak, operator.nbytes / bandwidth) for operator in operators)


class _OperatorRecorder(TorchDispatchMode):
    def __init__(self, flops: FlopCounterMode):
        super().__init__()
        self.operators: list[Operator] = []
        self._flops = flops

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        before = self._flops.get_total_flops()
        result = func(*args, **(kwargs or {}))
        if nbytes := _moved_bytes(func, args, kwargs or {}, result):
            self.operators.append(Operator(func._schema.name, self._flops.get_total_flops() - before, nbytes))
        return result


def _moved_bytes(func: Any, args: tuple, kwargs: dict, result: Any) -> int:
    schema, name = func._schema, func._schema.name.removeprefix("aten::")
    if name in _ALLOCATING:
        return 0
    values = list(args) + [kwargs.get(argument.name) for argument in schema.arguments[len(args) :]]
    arguments = list(zip(schema.arguments, values, strict=True))
    read = [value for argument, value in arguments[name in _OVERWRITING :] if not argument.is_out]
    written = [value for argument, value in arguments if argument.is_write]
    inputs, outputs = _tensors(read), _tensors(written)
    known = {tensor.untyped_storage().data_ptr() for tensor in _tensors(values)}
    made = [tensor for tensor in _tensors(result) if tensor.untyped_storage().data_ptr() not in known]
    return sum(map(_nbytes, inputs + outputs + made)) if outputs or made else 0


def _tensors(values: Any) -> list[torch.Tensor]:
    """Each tensor once."""
    return list({id(leaf): leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)}.values())


def _nbytes(tensor: torch.Tensor) -> int:
    """Of memory: an expanded tensor has less of it than elements."""
    return min(tensor.nbytes, tensor.untyped_storage().nbytes())
