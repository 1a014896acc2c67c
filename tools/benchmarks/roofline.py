"""The least time that a computation can take on this machine: each operator limited by its products or by the memory (a roofline)."""

import statistics
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

# Operators that do not touch memory, and operators that write their first argument without reading it.
_ALLOCATING = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")
_OVERWRITING = ("copy_", "fill_", "zero_")
# Sides of the square matrices whose fastest product is the peak. Smaller products are repeated up to the operations of the largest one.
_PEAK_SIDES = (1024, 2048, 4096)
# Size of the array whose copy measures the memory's bandwidth; larger than caches.
_COPIED_BYTES = 2**29


class Operator(NamedTuple):
    """One call of an operator.

    Attributes:
        name: PyTorch's name, such as "aten::mm".
        flops: floating-point operations of its products and convolutions.
        nbytes: size of the tensors that it has to read and to write, each counted once.
    """

    name: str
    flops: int
    nbytes: int


def count_operators(function: Callable[[], object]) -> list[Operator]:
    """Run a function and list the operators that work on tensors, including those of backward passes, in their order.

    Views are not listed. A tensor counts once, however often a kernel reads it, and with its whole size even if only a part is read.
    """
    with FlopCounterMode(display=False) as flops, _OperatorRecorder(flops) as recorder:
        function()
    return recorder.operators


def roofline_seconds(operators: Iterable[Operator], peak: float, bandwidth: float) -> float:
    """The roofline of Williams et al. (2009), summed over the operators.

    Args:
        operators: executed one after another.
        peak: operations/s.
        bandwidth: bytes/s of the memory. Tensors that stay in a cache between two operators can be faster.
    """
    return sum(max(operator.flops / peak, operator.nbytes / bandwidth) for operator in operators)


def product_functions(device: str, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """Square matrix products of several sizes; all functions make the same number of operations."""

    def repeat(side: int) -> Callable[[], object]:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

        def run() -> None:
            for _ in range((max(_PEAK_SIDES) // side) ** 3):
                a @ b

        return run

    return {f"product of {side}": repeat(side) for side in _PEAK_SIDES}


def peak_of(seconds: list[list[float]]) -> float:
    """Operations/s of the fastest of the :func:`product_functions`, from the times of each."""
    return 2 * max(_PEAK_SIDES) ** 3 / min(map(statistics.median, seconds))


def copy_function(device: str) -> Callable[[], object]:
    """Copies an array from one place in the device's memory to another."""
    source = torch.zeros(_COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def bandwidth_of(seconds: list[float]) -> float:
    """Bytes/s read and written by the :func:`copy_function`, from its times."""
    return 2 * _COPIED_BYTES / statistics.median(seconds)


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
    """Bytes that a call reads and writes; 0 for a view or an allocation."""
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
    """All tensors in the values, each once."""
    return list({id(leaf): leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)}.values())


def _nbytes(tensor: torch.Tensor) -> int:
    """Size in memory, which for an expanded tensor is smaller than its elements need."""
    return min(tensor.nbytes, tensor.untyped_storage().nbytes())
