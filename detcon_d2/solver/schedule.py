"""From epochs and batch size to iterations and learning rate.

Pretraining's schedule is Detectron2's ``build_lr_scheduler`` with ``WarmupCosineLR``, ``WARMUP_FACTOR 0.0`` and ``RESCALE_INTERVAL True``:
linear from 0 over SOLVER.WARMUP_ITERS, then a cosine to 0 at SOLVER.MAX_ITER (method.md, "Optimisation"). MoCo's cosine moves once per
epoch, which Detectron2 has no schedule for.
"""

from dataclasses import dataclass
from fractions import Fraction

import torch
from fvcore.common.param_scheduler import CosineParamScheduler, ParamScheduler, PolynomialDecayParamScheduler

from detcon_d2 import d2

_POLY_POWER = 0.9


class PolynomialTo(ParamScheduler):
    """(1 - end) (1 - t)^0.9 + end at the fraction t of the training: fvcore's polynomial, but with a last value other than 0."""

    def __init__(self, end: float):
        """``end``: last value, in [0, 1]."""
        self._end, self._decay = end, PolynomialDecayParamScheduler(1.0, _POLY_POWER)

    def __call__(self, where: float) -> float:
        return (1 - self._end) * self._decay(where) + self._end


def build_finetuning_lr_scheduler(cfg: "d2.CfgNode", optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """Detectron2's schedule, or "WarmupPolyLR" of its DeepLab project, which ends at SOLVER.BASE_LR_END.

    Raises ValueError: a BASE_LR_END that is not between 0 and BASE_LR.
    """
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME != "WarmupPolyLR":
        return d2.build_lr_scheduler(cfg, optimizer)
    if not 0 <= solver.BASE_LR_END <= solver.BASE_LR:
        raise ValueError(f"SOLVER.BASE_LR_END is {solver.BASE_LR_END}; expected a value from 0 to SOLVER.BASE_LR {solver.BASE_LR}.")
    decay, length = PolynomialTo(solver.BASE_LR_END / solver.BASE_LR), min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0)
    warmup = d2.WarmupParamScheduler(decay, solver.WARMUP_FACTOR, length, solver.WARMUP_METHOD, solver.RESCALE_INTERVAL)
    return d2.LRMultiplier(optimizer, warmup, max_iter=solver.MAX_ITER)


@dataclass(frozen=True)
class HeldPerEpoch(ParamScheduler):
    """A schedule that keeps, within each epoch, its value at the start of that epoch: 1/2 (1 + cos(pi e / E)) for MoCo's cosine.

    Attributes:
        schedule: a function of the progress in [0, 1].
        max_iter: T > 0.
        epoch_length: iterations per epoch, of any fraction.
        epochs: E.
    """

    schedule: ParamScheduler
    max_iter: int
    epoch_length: Fraction
    epochs: float

    def __call__(self, where: float) -> float:
        """The value at ``where``, iteration / T."""
        return self.schedule(min(round(where * self.max_iter) // self.epoch_length / self.epochs, 1.0))


def build_pretraining_lr_scheduler(cfg: "d2.CfgNode", optimizer: torch.optim.Optimizer, num_images: int) -> "d2.LRMultiplier":
    """Detectron2's schedule of a resolved config; with DETCON.SOLVER.LR_PER_EPOCH a cosine that is held within each epoch.

    Raises ValueError: LR_PER_EPOCH with another schedule or a warm-up.
    """
    solver, keys = cfg.SOLVER, cfg.DETCON.SOLVER
    if not keys.LR_PER_EPOCH:
        return d2.build_lr_scheduler(cfg, optimizer)
    if solver.LR_SCHEDULER_NAME != "WarmupCosineLR" or solver.WARMUP_ITERS:
        raise ValueError(
            f"DETCON.SOLVER.LR_PER_EPOCH is True with {solver.LR_SCHEDULER_NAME} and {solver.WARMUP_ITERS} iterations of warm-up; expected "
            "WarmupCosineLR without a warm-up. Set DETCON.SOLVER.WARMUP_EPOCHS and SOLVER.WARMUP_ITERS to 0, or LR_PER_EPOCH to False."
        )
    epoch_length = Fraction(num_images, solver.IMS_PER_BATCH)
    cosine = CosineParamScheduler(1.0, solver.BASE_LR_END / solver.BASE_LR)
    held = HeldPerEpoch(cosine, solver.MAX_ITER, epoch_length, keys.EPOCHS or float(solver.MAX_ITER / epoch_length))
    return d2.LRMultiplier(optimizer, held, max_iter=solver.MAX_ITER)


def resolve_schedule(cfg: "d2.CfgNode", num_images: int) -> list[str]:
    """Set SOLVER's learning rate and iterations from DETCON.SOLVER's BASE_LR_256, EPOCHS, WARMUP_EPOCHS and STEP_EPOCHS, in place.

    BASE_LR = BASE_LR_256 * IMS_PER_BATCH / 256; MAX_ITER = floor(EPOCHS * num_images / IMS_PER_BATCH), WARMUP_ITERS and STEPS likewise.
    If a key of DETCON.SOLVER is 0, the key of SOLVER keeps its value.

    Returns:
        Lines for the log that explain the result.

    Raises:
        ValueError: for an empty batch or data set, a negative key, a run without iterations, or a warm-up that is not shorter than the run.
    """
    solver, detcon, batch = cfg.SOLVER, cfg.DETCON.SOLVER, cfg.SOLVER.IMS_PER_BATCH
    if batch <= 0 or num_images <= 0:
        raise ValueError(f"SOLVER.IMS_PER_BATCH is {batch} with {num_images} images in DATASETS.TRAIN; expected both to be > 0.")
    for key in ("BASE_LR_256", "EPOCHS", "WARMUP_EPOCHS"):
        if not detcon[key] >= 0:
            raise ValueError(f"DETCON.SOLVER.{key} is {detcon[key]}; expected a number >= 0.")
    rate = f"Learning rate {solver.BASE_LR:g} from SOLVER.BASE_LR."
    if detcon.BASE_LR_256:
        solver.BASE_LR = detcon.BASE_LR_256 * batch / 256
        rate = f"Learning rate {solver.BASE_LR:g} = {detcon.BASE_LR_256:g} x {batch} / 256."
    return [rate, _resolve_length(solver, detcon, num_images)]


def _resolve_length(solver: "d2.CfgNode", detcon: "d2.CfgNode", num_images: int) -> str:
    batch = solver.IMS_PER_BATCH

    def iterations(epochs: float) -> int:
        # Exact for the decimal number in the config: in floating point, 0.29 * 100 is 28.999...
        return int(Fraction(str(epochs)) * num_images // batch)

    for key, epochs in (("MAX_ITER", detcon.EPOCHS), ("WARMUP_ITERS", detcon.WARMUP_EPOCHS)):
        if epochs:
            solver[key] = iterations(epochs)
    if detcon.STEP_EPOCHS:
        solver.STEPS = tuple(map(iterations, detcon.STEP_EPOCHS))
    if solver.MAX_ITER <= 0:
        raise ValueError(
            f"A run of {detcon.EPOCHS:g} epochs of {num_images} images at batch {batch} has {solver.MAX_ITER} iterations; "
            "expected at least 1. Raise DETCON.SOLVER.EPOCHS, lower SOLVER.IMS_PER_BATCH, or set EPOCHS to 0 and set SOLVER.MAX_ITER."
        )
    if solver.WARMUP_ITERS >= solver.MAX_ITER:
        raise ValueError(
            f"The warm-up of {solver.WARMUP_ITERS} iterations takes the whole run of {solver.MAX_ITER}: the learning rate would never "
            "reach its peak. Lower DETCON.SOLVER.WARMUP_EPOCHS (or set it to 0 and set SOLVER.WARMUP_ITERS), or train longer."
        )
    epochs = detcon.EPOCHS or solver.MAX_ITER * batch / num_images
    warmup = f"{solver.WARMUP_ITERS} iterations" + (f" ({detcon.WARMUP_EPOCHS:g} epochs)" if detcon.WARMUP_EPOCHS else "")
    return f"{epochs:g} epochs of {num_images} images at batch {batch} = {solver.MAX_ITER} iterations, warm-up {warmup}."
