"""From label maps to pooled features.

Letters: N images, (H, W) pixels, (h, w) feature cells, P = h * w, C channels, M sampled regions per view. All functions run on the CPU and
on CUDA, there without a host synchronisation. ``detcon_d2.masks.cells`` makes cells of single numpy label maps.
"""

import torch

from detcon_d2.masks.cells import NO_REGION


def downsample_label_map(label_map: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The most frequent id of each cell, ties to the lowest id (method.md, "Masks" 2), in O(N * H * W) memory.

    Pixel (y, x) belongs to cell (y * h // H, x * w // W), so H and W need not be multiples of h and w.

    Args:
        label_map: (N, H, W), an integer dtype, ids in 0..65535. Checked on the CPU only, where it costs no synchronisation.
        size: (h, w), at most (H, W).

    Returns:
        (N, h, w) int64 on the same device.

    Raises ValueError for another shape, dtype, an id out of range or a size out of range.
    """
    _check_label_map(label_map, size)
    n, height, width = label_map.shape
    cells = size[0] * size[1]
    y = torch.arange(height, device=label_map.device) * size[0] // height
    x = torch.arange(width, device=label_map.device) * size[1] // width
    cell = (y[:, None] * size[1] + x).flatten()
    ids = label_map.flatten(1).long()
    # The histogram is faster where ids are few, but its size waits for the device.
    few = not ids.is_cuda and cells * (_top_region(ids) + 2) <= height * width
    reduce = _most_frequent_by_histogram if few else _most_frequent_by_sort
    return reduce(ids, cell, cells).view(n, *size)


def ids_from_draws(cell_ids: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """For a draw u the floor(u * n)-th of the n existing ids of the view, in ascending order (method.md, "Masks" 3).

    Args:
        cell_ids: (N, h, w), an integer dtype, ids in 0..65535; an id exists if it has a cell, 65535 never does.
        draws: (N, M) floating, in [0, 1); the product u * n is taken in float64.

    Returns:
        (N, M) int64; a row of 65535 for a view without any region.

    Raises ValueError for other shapes.
    """
    if cell_ids.ndim != 3 or draws.ndim != 2 or len(cell_ids) != len(draws):
        raise ValueError(f"cell_ids has shape {tuple(cell_ids.shape)}, draws {tuple(draws.shape)}; expected (N, h, w) and (N, M).")
    ids = cell_ids.flatten(1).long().sort(dim=1).values
    exists = distinct_regions(ids)
    count = exists.sum(1, keepdim=True)
    # Existing ids move to the front of their row; everything else goes to a last column that no draw reaches.
    column = torch.where(exists, exists.cumsum(1) - 1, ids.shape[1])
    front = ids.new_full((len(ids), ids.shape[1] + 1), NO_REGION).scatter(1, column, ids)
    index = (draws.double() * count).long()
    return front.gather(1, index.minimum(count - 1).clamp(min=0))


def sample_mask_ids(cell_ids: torch.Tensor, num_samples: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """M = ``num_samples`` ids per view, uniform over its existing ids, with replacement: see :func:`ids_from_draws`.

    The random numbers come from ``generator``, on any device; by default from torch's own for the device of ``cell_ids``.
    """
    device = cell_ids.device if generator is None else generator.device
    draws = torch.rand(len(cell_ids), num_samples, generator=generator, device=device)
    return ids_from_draws(cell_ids, draws.to(cell_ids.device))


def pool_masked_features(features: torch.Tensor, cell_ids: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Mean of the feature cells that carry each id; zeros for an id without cells (method.md, "Masks" 4).

    Args:
        features: (N, C, h, w) floating, any memory format.
        cell_ids: (N, h, w), an integer dtype.
        ids: (N, M), an integer dtype; 65535 is an id like any other here.

    Returns:
        (N, M, C), float64 for float64 features, otherwise float32, under autocast too.

    Raises ValueError for shapes that do not fit together.
    """
    n, _, *size = features.shape
    if cell_ids.shape != (n, *size) or ids.ndim != 2 or len(ids) != n:
        raise ValueError(
            f"features have shape {tuple(features.shape)}, cell_ids {tuple(cell_ids.shape)}, ids {tuple(ids.shape)}; "
            "expected (N, C, h, w), (N, h, w) and (N, M): downsample the label map to the size of the features."
        )
    with torch.autocast(features.device.type, enabled=False):
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        members = (cell_ids.flatten(1)[:, None, :] == ids[:, :, None]).to(features.dtype)
        weights = members / members.sum(-1, keepdim=True).clamp(min=1)
        return torch.bmm(weights, features.flatten(2).transpose(1, 2))


def distinct_regions(sorted_ids: torch.Tensor) -> torch.Tensor:
    """(N, P) bool: marks the first of each run of equal ids, 65535 excepted, in ``sorted_ids`` (N, P), ascending in each row."""
    first = torch.ones_like(sorted_ids, dtype=torch.bool)
    first[:, 1:] = sorted_ids[:, 1:] != sorted_ids[:, :-1]
    return first & (sorted_ids != NO_REGION)


def _most_frequent_by_histogram(ids: torch.Tensor, cell: torch.Tensor, cells: int) -> torch.Tensor:
    """(N, P) ids from (N, H * W) pixels; memory grows with the highest region id."""
    bins = _top_region(ids) + 2
    squeezed = ids.clamp(max=bins - 1)
    first_bin = (torch.arange(len(ids), device=ids.device)[:, None] * cells + cell) * bins
    histogram = torch.bincount((first_bin + squeezed).flatten(), minlength=len(ids) * cells * bins)
    # Of several maxima argmax gives the first: the lowest id.
    found = histogram.view(len(ids), cells, bins).argmax(-1)
    return torch.where(found == bins - 1, NO_REGION, found)


def _most_frequent_by_sort(ids: torch.Tensor, cell: torch.Tensor, cells: int) -> torch.Tensor:
    """(N, P) ids from (N, H * W) pixels, without a host synchronisation: the longest run of equal (cell, id) in sorted order."""
    span = NO_REGION + 1
    keys = (cell * span + ids).sort(dim=1).values
    position = torch.arange(keys.shape[1], device=keys.device).expand_as(keys)
    is_start = torch.ones_like(keys, dtype=torch.bool)
    is_start[:, 1:] = keys[:, 1:] != keys[:, :-1]
    rank_in_run = position - torch.where(is_start, position, 0).cummax(1).values
    # One number that is largest for the longest run and, among equal lengths, for the lowest id.
    score = rank_in_run * span + (NO_REGION - keys % span)
    best = score.new_zeros(len(ids), cells).scatter_reduce(1, keys // span, score, "amax")
    return NO_REGION - best % span


def _top_region(ids: torch.Tensor) -> int:
    """The highest id below 65535; -1 if there is none."""
    return int(torch.where(ids == NO_REGION, -1, ids).max())


def _check_label_map(label_map: torch.Tensor, size: tuple[int, int]) -> None:
    if label_map.ndim != 3 or label_map.numel() == 0:
        raise ValueError(f"label_map has shape {tuple(label_map.shape)}; expected (N, H, W), none of them 0.")
    if label_map.is_floating_point() or label_map.is_complex() or label_map.dtype == torch.bool:
        raise ValueError(f"label_map has dtype {label_map.dtype}; expected an integer one.")
    if not (1 <= size[0] <= label_map.shape[1] and 1 <= size[1] <= label_map.shape[2]):
        raise ValueError(f"size is {tuple(size)}; expected at least (1, 1) and at most the label map's {tuple(label_map.shape[1:])}.")
    if not label_map.is_cuda:
        low, high = (int(bound) for bound in label_map.long().aminmax())
        if low < 0 or high > NO_REGION:
            raise ValueError(f"label_map has ids from {low} to {high}; expected 0..{NO_REGION - 1}, or {NO_REGION} for no region.")
