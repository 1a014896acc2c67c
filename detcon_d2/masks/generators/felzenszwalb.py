"""Felzenszwalb-Huttenlocher regions, at one scale or several: ``skimage.segmentation.felzenszwalb`` in every label, several times as fast.

Felzenszwalb and Huttenlocher, Efficient graph-based image segmentation, IJCV 2004. The method is chaotic: if one cost differs in its last
bit, regions can change all over the image. So all costs must equal those of scikit-image bit by bit. If the compiled smoothing does not do
that here (another processor or SciPy), scikit-image's is used. Sorting the edges takes half of the time. scikit-image sorts indices with
``numpy.argsort``, and the order of equal costs depends on it. Here packed numbers are sorted, which is faster but orders equal costs
differently. ``felzenszwalb_kernels.segment`` detects whether that can change the regions, which is rare in photographs; if so, the image is
segmented again in the order of ``numpy.argsort``.

Without numba, scikit-image does the work: the result is the same, only slower. It also does it for images that are not uint8 RGB.
"""

import functools
import logging
import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import parent_process
from types import ModuleType

import numpy as np
import skimage  # loads its parts on first use, so that training does not pay for them

from detcon_d2.masks.generators.base import RegionGenerator, parameter, to_label_map

# Of each large array; enough for photographs of 1,500 x 1,500 pixels.
_KEPT_BYTES = 1 << 26
_log = logging.getLogger(__name__)
_SIGMA_HELP = "standard deviation of the smoothing before, pixels"
_MIN_SIZE_HELP = "smaller regions are merged into neighbours, pixels"


def felzenszwalb(image: np.ndarray, scale: float, sigma: float, min_size: int) -> np.ndarray:
    """Regions of an image at one scale, int64 (H, W): see :func:`felzenszwalb_scales`."""
    return felzenszwalb_scales(image, [scale], sigma, [min_size])[0]


def felzenszwalb_scales(image: np.ndarray, scales: Sequence[float], sigma: float, min_sizes: Sequence[int]) -> np.ndarray:
    """Regions of an image at several scales, which share the smoothing, the costs and the sort.

    Args:
        image: (H, W) or (H, W, C), any dtype of scikit-image, at least one pixel.
        scales: larger means larger regions.
        sigma: standard deviation of the smoothing, pixels; >= 0.
        min_sizes: for each scale: smaller regions are merged, pixels.

    Returns:
        int64 (len(scales), H, W), regions 0..n-1 in reading order of their first pixels: ``skimage.segmentation.felzenszwalb`` with these
        parameters.
    """
    kernels, pairs = _kernels(), zip(scales, min_sizes, strict=True)
    if kernels is not None and image.dtype == np.uint8 and image.shape[2:] == (3,) and image.size <= 3 * kernels.MAX_PIXELS:
        values = skimage.util.img_as_float64(image)
        if values.flags.c_contiguous:
            return _compiled(kernels, values, pairs, sigma)
    return np.stack([skimage.segmentation.felzenszwalb(image, scale=scale, sigma=sigma, min_size=size) for scale, size in pairs])


def implementation() -> str:
    """What is used in this process, "numba" or "scikit-image". The first call compiles, or loads what was compiled before."""
    return "scikit-image" if _kernels() is None else "numba"


@dataclass(frozen=True, kw_only=True)
class FelzenszwalbRegions(RegionGenerator):
    """Felzenszwalb-Huttenlocher regions, the paper's default: ``skimage.segmentation.felzenszwalb`` at full resolution [C].

    When called, it raises ValueError for more than 65,535 regions.
    """

    name = "fh"
    scale: float = parameter(1000.0, "larger means larger regions", above=0)
    sigma: float = parameter(0.8, _SIGMA_HELP, at_least=0)
    min_size: int = parameter(1000, _MIN_SIZE_HELP, at_least=1)

    prepare = staticmethod(implementation)

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray:
        return to_label_map(felzenszwalb(image, **self.params()))

    def advice(self, height: int, width: int) -> str | None:
        """A tenth of the image's area as scale and a fiftieth as min_size (about ten regions on 32 px CIFAR images), or a third of the
        current values if that is less."""
        return f"--scale {_smaller([self.scale], height * width / 10)} --min-size {_smaller([self.min_size], height * width / 50)}"


@dataclass(frozen=True, kw_only=True)
class FelzenszwalbScales(RegionGenerator):
    """Felzenszwalb-Huttenlocher regions at several scales, a layer for each, in little more time than one; see ``DETCON.MASKS.LAYER``.

    ``min_sizes`` has a value for each scale, or one for all; without a value it is the scales themselves, as in the paper. When called, it
    raises ValueError for more than 65,535 regions.
    """

    name = "fh_scales"
    scales: tuple[float, ...] = parameter((250.0, 500.0, 1000.0), "one layer of label maps for each, larger means larger regions", above=0)
    sigma: float = parameter(0.8, _SIGMA_HELP, at_least=0)
    min_sizes: tuple[int, ...] = parameter((), f"{_MIN_SIZE_HELP}; one per scale, or one for all (default: each scale itself)", at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = self.min_sizes or tuple(max(1, round(scale)) for scale in self.scales)
        object.__setattr__(self, "min_sizes", sizes * len(self.scales) if len(sizes) == 1 else sizes)
        if not self.scales or len(self.min_sizes) != len(self.scales):
            self._refuse("scales, min_sizes", "at least one scale, and one min_size for all or as many as scales")

    @property
    def layers(self) -> int:
        return len(self.scales)

    prepare = staticmethod(implementation)

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray:
        return to_label_map(felzenszwalb_scales(image, **self.params()))

    def advice(self, height: int, width: int) -> str | None:
        """That of :class:`FelzenszwalbRegions` for the largest scale, and the same fractions of the others."""
        return f"--scales {_smaller(self.scales, height * width / 10)} --min-sizes {_smaller(self.min_sizes, height * width / 50)}"


def _smaller(values: Sequence[float], largest: float) -> str:
    """The values times one factor, at most 1 / 3, that makes none of them larger than ``largest``; rounded to one digit, at least 1."""
    factor = min(1 / 3, largest / max(values))
    return ",".join(f"{max(1.0, float(f'{value * factor:.1g}')):g}" for value in values)


@functools.cache
def _kernels() -> ModuleType | None:
    """The compiled functions, or None if they cannot be used; the main process logs which."""
    log = _log.log if parent_process() is None else lambda *_: None
    try:
        kernels = _tested_kernels()
    except Exception as error:  # whatever the reason is, scikit-image gives the same regions
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        text = "Felzenszwalb-Huttenlocher by scikit-image, several times slower than with numba (pip install 'detcon_d2[fast]'; a folder"
        log(logging.WARNING, text + " for its cache: NUMBA_CACHE_DIR), which cannot be used: %s", reason)
        return None
    log(logging.INFO, "Felzenszwalb-Huttenlocher by numba %s, the same regions as scikit-image %s", version("numba"), skimage.__version__)
    return kernels


def _tested_kernels() -> ModuleType:
    import numba  # takes half a second

    if numba.config.DISABLE_JIT:
        raise RuntimeError("NUMBA_DISABLE_JIT is set")
    from detcon_d2.masks.generators import felzenszwalb_kernels as kernels

    noise = np.random.default_rng(0).integers(0, 256, (31, 37, 3)).astype(np.uint8)
    values = skimage.util.img_as_float64(noise)
    if not all(map(np.array_equal, _parts(_costs(kernels, values)), _parts(_numpys_costs(values)))):
        raise RuntimeError(f"its costs are not those of NumPy {np.__version__}")
    expected = skimage.segmentation.felzenszwalb(noise, scale=0.1, sigma=0.8, min_size=5)
    if not np.array_equal(_compiled(kernels, values, [(0.1, 5)], 0.8)[0], expected):
        raise RuntimeError(f"its regions are not those of scikit-image {skimage.__version__}")
    return kernels


_memory = threading.local()


def _scratch(name: str, dtype: type, *shape: int) -> np.ndarray:
    """An uninitialised array, valid until the next call with this name in this thread. Its memory is used again: page faults of new memory
    would take a sixth of the time."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = getattr(_memory, name, None)
    if memory is None or len(memory) < size:
        memory = np.empty(size, np.uint8)
        if size <= _KEPT_BYTES:
            setattr(_memory, name, memory)
    return memory[:size].view(dtype).reshape(shape)


def _compiled(kernels: ModuleType, image: np.ndarray, pairs: Iterable[tuple[float, int]], sigma: float) -> np.ndarray:
    """:func:`felzenszwalb_scales` of an image float64 (H, W, 3), C-contiguous; ``pairs``: (scale, min_size)."""
    smooth = functools.partial(_own_blur, kernels) if _same_blur(kernels, float(sigma)) else _blur
    costs = _costs(kernels, smooth(image, float(sigma)))
    as_here, as_numpy = functools.cache(lambda: _sorted(kernels, costs)), functools.cache(lambda: _as_numpy_sorts(costs))

    def segment(scale: float, min_size: int) -> np.ndarray:
        arguments = (*image.shape[:2], float(scale) / 255.0, int(min_size))
        labels, exact = kernels.segment(*as_here(), *arguments)
        return labels if exact else kernels.segment(*as_numpy(), *arguments)[0]

    return np.stack([segment(scale, min_size) for scale, min_size in pairs])


def _parts(edges: np.ndarray) -> list[np.ndarray]:
    """The existing edges, in the order of scikit-image, of an array (4, H, W) for all directions and pixels."""
    return [edges[0, :, :-1], edges[1, :-1], edges[2, :-1, :-1], edges[3, :-1, :-1]]


def _sorted(kernels: ModuleType, costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Costs in ascending order, and their edges."""
    count = sum(part.size for part in _parts(costs))
    keys, sorted_costs = _scratch("keys", np.uint64, count), _scratch("sorted_costs", np.float64, count)
    sorted_edges = _scratch("sorted_edges", np.uint32, count)
    kernels.sort_keys(costs, keys)
    keys.sort()
    kernels.in_order(keys, costs, sorted_costs, sorted_edges)
    return sorted_costs, sorted_edges


def _as_numpy_sorts(costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`_sorted`, with equal costs in the order of scikit-image."""
    pixels = np.arange(costs[0].size, dtype=np.uint32).reshape(costs[0].shape)
    edges = np.stack([pixels + np.uint32(direction << 26) for direction in range(4)])
    flat = np.concatenate([part.ravel() for part in _parts(costs)])
    order = np.argsort(flat)
    return flat[order], np.concatenate([part.ravel() for part in _parts(edges)])[order]


@functools.cache
def _same_blur(kernels: ModuleType, sigma: float) -> bool:
    noise = np.random.default_rng(0).random((31, 37, 3))
    return np.array_equal(_own_blur(kernels, noise, sigma), _blur(noise, sigma))


def _own_blur(kernels: ModuleType, image: np.ndarray, sigma: float) -> np.ndarray:
    # The response of the filter to an impulse is its weights.
    radius = int(4.0 * sigma + 0.5)
    weights = skimage.filters.gaussian(np.eye(1, 2 * radius + 1, radius)[0], sigma=sigma, mode="constant")[radius:]
    out = _scratch("blurred", np.float64, *image.shape)
    kernels.blur(image, weights, out)
    return out


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """The smoothing of scikit-image before segmentation, float64 (H, W, 3)."""
    return skimage.filters.gaussian(image, sigma=[sigma, sigma, 0], mode="reflect", channel_axis=-1)


def _costs(kernels: ModuleType, image: np.ndarray) -> np.ndarray:
    """Costs of all edges of a smoothed image, as in ``felzenszwalb_kernels.edge_costs``."""
    out = _scratch("costs", np.float64, 4, *image.shape[:2])
    kernels.edge_costs(image, out)
    return out


def _numpys_costs(image: np.ndarray) -> np.ndarray:
    """As :func:`_costs`, by the operations of scikit-image, for any number of channels."""
    pairs = (image[:, 1:], image[:, :-1]), (image[1:], image[:-1]), (image[1:, 1:], image[:-1, :-1]), (image[1:, :-1], image[:-1, 1:])
    costs = np.zeros((4, *image.shape[:2]))
    for part, (first, second) in zip(_parts(costs), pairs):
        part[:] = np.sqrt(np.sum((first - second) * (first - second), axis=-1))
    return costs
