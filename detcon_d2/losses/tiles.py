"""Contrastive cross-entropy of the rows of one view against all targets. The matrix of the logits is computed in tiles.

Letters: N images of this process, K images of all processes, M sampled regions per view, D embedding dimensions.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch

# The released code normalises with x * rsqrt(max(sum(x^2), 1e-12)); F.normalize differs for norms between 1e-12 and 1e-6.
_MIN_NORM = 1e-6
# Logits within +-60 need no shift before exp: float32 can represent the sum of a million exp(60), and a single exp(-60).
_MAX_UNSHIFTED = 60.0
# Rows per thread and columns of a tile on a CPU: a smaller tile stays in a faster cache, but the threads wait for each other more often.
# A tile has at most _CPU_BYTES. It has at least _CPU_MIN_ROWS, because products of fewer rows take longer per row.
_CPU_ROWS, _CPU_COLUMNS, _CPU_BYTES, _CPU_MIN_ROWS = 1024, 1024, 64 << 20, 256
_GPU_BYTES = 512 << 20
# Devices on which rows without a loss are not computed. On other devices the host would have to wait for the number of these rows.
_SKIPPING_DEVICES = ("cpu",)


class Relations(NamedTuple):
    """Positives and excluded columns of the rows of one view. Only the columns of a row's own image need masks; the columns of all
    other images are negatives.

    Attributes:
        weight: (N, M) >= 0, weight of the row's loss.
        labels: (N, M, M), weights of the other view's columns as positives; they sum to 1 in each row of weight > 0.
        removed: for view 1 and view 2 (N, M, M) bool, columns that are excluded from the denominator, or None if there are none. A row
            of weight > 0 keeps at least one column.
    """

    weight: torch.Tensor
    labels: torch.Tensor
    removed: tuple[torch.Tensor | None, torch.Tensor | None]


def tiled_cross_entropy(
    pred: torch.Tensor,
    targets: torch.Tensor,
    counted: torch.Tensor,
    relations: Relations,
    *,
    view: int,
    first: int,
    temperature: float,
    tile: tuple[int, int] | None = None,
) -> torch.Tensor:
    """``sum_r weight_r * (log sum_j exp l_rj - sum_j labels_rj l_rj)`` with ``l_rj = <pred_r / |pred_r|, target_j> / temperature``.

    Each tile of logits is added to the row sums and to the gradients that are needed, and is then discarded: memory is O(tile).
    Gradients to the targets need the whole sum of a row first, so with them memory is O(tile's rows * 2 * K * M). The backward pass
    only scales the gradients that the forward pass has computed. Rows of weight 0 have loss 0 and gradient 0, even if they contain
    NaN.

    Args:
        pred: (N, M, D) float32 or float64, not normalised.
        targets: (2, K, M, D) like ``pred``: views 1 and 2, normalised, 0 where not ``counted``.
        counted: (2, K, M) bool, False for columns that no denominator contains.
        relations: its floating-point tensors have the dtype of ``pred``.
        view: 0 or 1, the view of ``pred``.
        first: the N images of ``pred`` are first .. first + N - 1 of the K.
        temperature: > 0.
        tile: (rows, images) of a tile; by default :func:`default_tile`.

    Returns:
        Scalar like ``pred``. Differentiable once with respect to ``pred`` and ``targets``; create_graph raises RuntimeError.
    """
    if not torch.is_grad_enabled():
        pred, targets = pred.detach(), targets.detach()
    tile = tile or default_tile(targets)
    return _TiledCrossEntropy.apply(pred.contiguous(), targets.contiguous(), counted, relations, view, first, temperature, tile)


def default_tile(targets: torch.Tensor) -> tuple[int, int]:
    """(rows, images) of a tile. On a CPU a tile fits its caches. On a GPU a tile has all images, and as many rows as fit in 512 MiB or in
    a sixteenth of the memory, whichever is smaller: not of the free memory, so that a resumed run adds up in the same order.

    Args:
        targets: (2, K, M, D).
    """
    _, num_images, m, _ = targets.shape
    row_bytes = 2 * num_images * m * targets.element_size()
    if targets.device.type == "cpu":
        images = min(num_images, max(1, _CPU_COLUMNS // m))
        held_bytes = row_bytes if targets.requires_grad else images * m * targets.element_size()
        return max(_CPU_MIN_ROWS, min(_CPU_ROWS * torch.get_num_threads(), _CPU_BYTES // held_bytes)), images
    budget = _GPU_BYTES
    if targets.device.type == "cuda":
        budget = min(budget, torch.cuda.get_device_properties(targets.device).total_memory // 16)
    return max(1, budget // row_bytes), num_images


def clamped_norm(x: torch.Tensor) -> torch.Tensor:
    """``sqrt(max(sum(x^2), 1e-12))`` over the last axis, which is kept with size 1; the released code divides by it to normalise."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=_MIN_NORM)


class _TiledCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pred, targets, counted, relations: Relations, view: int, first: int, temperature: float, tile: tuple[int, int]):
        weight, labels, _ = relations
        length = clamped_norm(pred)
        query = (pred * (1 / (length * temperature))).masked_fill_(weight.unsqueeze(2) == 0, 0)
        other_view = 1 - view, slice(first, first + len(pred))
        positive = labels @ targets[other_view]
        expected = torch.zeros_like(pred) if ctx.needs_input_grad[0] else None
        grad_targets = torch.zeros_like(targets) if ctx.needs_input_grad[1] else None
        tiles = _Tiles(query, targets, counted, relations, first, tile, shift=1 / temperature > _MAX_UNSHIFTED)
        loss = tiles.logsumexp(expected, grad_targets) - torch.linalg.vecdot(query, positive)

        grad_pred = None
        if expected is not None:
            grad_pred = expected.sub_(positive)
            # The gradient of the normalisation has no component along the row, unless the row is shorter than the smallest norm.
            radial = torch.linalg.vecdot(query, grad_pred).unsqueeze(2).mul_(temperature**2).masked_fill_(length <= _MIN_NORM, 0)
            grad_pred.addcmul_(query, radial, value=-1).mul_(weight.unsqueeze(2) / (length * temperature))
        if grad_targets is not None:
            grad_targets[other_view].baddbmm_(labels.transpose(1, 2), query * weight.unsqueeze(2), alpha=-1)
            grad_targets.mul_(counted.unsqueeze(3))
        ctx.save_for_backward(grad_pred, grad_targets)
        return (weight * loss).sum()

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple:
        if torch.is_grad_enabled():
            raise RuntimeError("detcon_loss has no second derivatives: its gradients are constants. Use it without create_graph=True.")
        return (*(None if gradient is None else gradient * grad for gradient in ctx.saved_tensors), *[None] * 6)


class _Tiles:
    """The logits of the rows of one view, in tiles."""

    def __init__(self, query, targets, counted, relations: Relations, first: int, tile: tuple[int, int], shift: bool):
        n, m, _ = query.shape
        self.query, self.weight, self.removed = query.flatten(0, 1), relations.weight.flatten(), relations.removed
        self.targets, self.counts = targets, counted.to(query.dtype)
        self.first, self.shift, (self.tile_rows, self.tile_images) = first, shift, tile
        self.rows, self.row_offsets = None, list(range(0, n * m + 1, m))
        if query.device.type in _SKIPPING_DEVICES and not self.weight.all():
            self.rows = self.weight.nonzero().squeeze(1)
            self.row_offsets = [0, *(relations.weight > 0).sum(1).cumsum(0).tolist()]

    def logsumexp(self, expected: torch.Tensor | None, grad_targets: torch.Tensor | None) -> torch.Tensor:
        """(N, M), 0 for rows that are not computed. Writes the mean target under each row's softmax to ``expected`` (N, M, D) and adds
        the gradient of the weighted sum over the rows to ``grad_targets`` (2, K, M, D); both must contain zeros."""
        result = torch.zeros_like(self.weight)
        for start in range(0, self.row_offsets[-1], self.tile_rows):
            rows = slice(start, start + self.tile_rows)
            rows = rows if self.rows is None else self.rows[rows]
            query, weight = self.query[rows], self.weight[rows]
            mean = None if expected is None else expected.flatten(0, 1)[rows]
            # All columns of a row of weight 0 may be removed; its sum begins at 1, so that its logarithm is finite.
            sums = (weight == 0).to(query.dtype)
            peak = self._peak(start, query) if self.shift else torch.zeros_like(sums)
            exponentials = []
            for view, images, logits in self._tiles(start, query, hold=grad_targets is not None):
                if self.shift:
                    logits.sub_(peak.unsqueeze(1))
                sums.addmv_(logits.exp_(), self.counts[view, images].flatten())
                if mean is not None:
                    mean.addmm_(logits, self.targets[view, images].flatten(0, 1))
                if grad_targets is not None:
                    exponentials.append((view, images, logits))
            result[rows] = sums.log().add_(peak)
            if mean is not None:
                expected.flatten(0, 1)[rows] = mean.div_(sums.unsqueeze(1))
            scaled = query * (weight / sums).unsqueeze(1)
            for view, images, exponential in exponentials:
                grad_targets[view, images].flatten(0, 1).addmm_(exponential.T, scaled)
        return result.view(len(self.row_offsets) - 1, -1)

    def _peak(self, start: int, query: torch.Tensor) -> torch.Tensor:
        peaks = [logits.amax(1) for _, _, logits in self._tiles(start, query)]
        return torch.stack(peaks).amax(0).clamp_(min=torch.finfo(query.dtype).min)

    def _tiles(self, start: int, query: torch.Tensor, hold: bool = False) -> Iterator[tuple[int, slice, torch.Tensor]]:
        """(view, images, logits) of each tile of the rows from number ``start`` on; without ``hold`` all tiles share the same memory."""
        _, num_images, m, _ = self.targets.shape
        buffer = query.new_empty(len(query) * min(self.tile_images, num_images) * m)
        for view in range(2):
            for first in range(0, num_images, self.tile_images):
                images = slice(first, min(first + self.tile_images, num_images))
                columns = self.targets[view, images].flatten(0, 1)
                buffer = torch.empty_like(buffer) if hold else buffer
                logits = torch.mm(query, columns.T, out=buffer[: len(query) * len(columns)].view(len(query), -1))
                self._remove(logits, start, view, images)
                yield view, images, logits

    def _remove(self, logits: torch.Tensor, start: int, view: int, images: slice) -> None:
        """Write -inf to the removed columns of the rows' own images and, if a maximum follows, to all columns that are not counted."""
        if self.shift:
            logits.masked_fill_(self.counts[view, images].flatten() == 0, -torch.inf)
        removed, m = self.removed[view], self.targets.shape[2]
        if removed is None:
            return
        limits = (min(max(image - self.first, 0), len(removed)) for image in (images.start, images.stop))
        low, high = (min(max(self.row_offsets[limit], start), start + len(logits)) for limit in limits)
        if low < high:
            index = torch.arange(low, high, device=logits.device)
            rows = index if self.rows is None else self.rows[low:high]
            own = index - start, rows // m + (self.first - images.start)
            blocks = logits.view(len(logits), -1, m)
            blocks[own] = blocks[own].masked_fill_(removed.flatten(0, 1)[rows], -torch.inf)
