"""From the config file of a detector to a resolved, checked config and training records; each change of the config is printed as a line."""

import argparse
import os
from collections.abc import Collection

from torch import nn

from detcon_d2 import d2
from detcon_d2.checkpoint import DetConCheckpointer, check_weights, read_metadata
from detcon_d2.engine.finetune.best import check_best
from detcon_d2.engine.finetune.data import annotations_digest, load_detection_records, look_at_data_sets
from detcon_d2.engine.finetune.semantic import check_semantic, is_semantic
from detcon_d2.engine.setup import DETECTOR_NORMS, LEARNING_RATE, check_config, resolve_norms, setup_job
from detcon_d2.methods import pretraining_names

_PERIODS = ("SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.WARMUP_ITERS", "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD")


def setup_finetuning(args: argparse.Namespace) -> tuple["d2.CfgNode", list[dict]]:
    """:func:`~detcon_d2.engine.setup.setup_job` of a detector. With ``args.eval_only`` no training data is read: the records are empty."""

    def resolve(cfg: "d2.CfgNode") -> tuple[list[dict], list[str]]:
        world_size = d2.comm.get_world_size()
        lines = resolve_world_size(cfg, world_size)
        lines += resolve_batch(cfg, set(args.opts[::2]))
        lines += resolve_steps(cfg)
        check_finetuning_config(cfg, world_size)
        lines += resolve_norms(cfg, world_size, DETECTOR_NORMS)
        resuming = args.resume and DetConCheckpointer(nn.Module(), cfg.OUTPUT_DIR).has_checkpoint()
        if not (args.eval_only or resuming):
            lines += check_weights(cfg, cfg.MODEL.WEIGHTS)
        train = () if args.eval_only else cfg.DATASETS.TRAIN
        must_fit = args.eval_only or resuming
        classes = _checkpoint_classes(cfg, args.resume)
        lines += look_at_data_sets(cfg, train, cfg.DATASETS.TEST, classes, must_fit)
        return [] if args.eval_only else load_detection_records(cfg), lines

    return setup_job(args, resolve, annotations_digest)


def _checkpoint_classes(cfg: "d2.CfgNode", resume: bool) -> list[str]:
    """Names of the classes of the checkpoint that the run starts from; empty if unknown. A missing file is reported elsewhere."""
    last = DetConCheckpointer(nn.Module(), cfg.OUTPUT_DIR)
    resumed = resume and last.has_checkpoint()
    path = (
        last.get_checkpoint_file() if resumed else cfg.MODEL.WEIGHTS and d2.PathManager.get_local_path(cfg.MODEL.WEIGHTS.partition("?")[0])
    )
    metadata = read_metadata(path) if path and os.path.isfile(path) else None
    return list((metadata or {}).get("classes") or ())


def check_finetuning_config(cfg: "d2.CfgNode", world_size: int) -> None:
    """Refuse a config that would fail later or train something other than what the user meant.

    Raises ValueError: names each wrong key, the value found and what is expected.
    """
    check_backend(cfg)
    finetune, architecture, sampler = cfg.DETCON.FINETUNE, cfg.MODEL.META_ARCHITECTURE, cfg.DATALOADER.SAMPLER_TRAIN
    augmentation, fraction = finetune.AUGMENTATION, finetune.LABEL_FRACTION
    detector = f"'GeneralizedRCNN', or for pretraining one of {', '.join(pretraining_names())}"
    checks = [
        (architecture in d2.META_ARCH_REGISTRY, "MODEL.META_ARCHITECTURE", architecture, detector),
        (sampler == "TrainingSampler", "DATALOADER.SAMPLER_TRAIN", sampler, "'TrainingSampler'"),
        (augmentation in ("default", "scale_jitter"), "DETCON.FINETUNE.AUGMENTATION", augmentation, "'default' or 'scale_jitter'"),
        (0 < fraction <= 1, "DETCON.FINETUNE.LABEL_FRACTION", fraction, "a number in (0, 1]"),
        (0 <= cfg.DETCON.DATA.MAX_LEFT_OUT <= 1, "DETCON.DATA.MAX_LEFT_OUT", cfg.DETCON.DATA.MAX_LEFT_OUT, "a share in [0, 1]"),
        (cfg.SOLVER.BASE_LR > 0, "SOLVER.BASE_LR", cfg.SOLVER.BASE_LR, LEARNING_RATE),
        *check_best(cfg),
        *(check_semantic(cfg) if is_semantic(cfg) else []),
        (not cfg.TEST.AUG.ENABLED, "TEST.AUG.ENABLED", True, "False: test-time augmentation is not supported here"),
    ]
    check_config(cfg, world_size, checks)


def check_backend(cfg: "d2.CfgNode") -> None:
    """Raise a ValueError that names the key and the class if a part of the config is in Detectron2, but not in the subset."""
    architecture, heads = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS.NAME
    needed = [("MODEL.META_ARCHITECTURE", architecture, "SemanticSegmentor")] if architecture == "SemanticSegmentor" else []
    if architecture == "GeneralizedRCNN" and heads in ("Res5ROIHeads", "build_res5_norm_roi_heads"):
        needed.append(("MODEL.ROI_HEADS.NAME", heads, "Res5ROIHeads"))
    for key, value, name in needed:
        try:
            getattr(d2, name)
        except AttributeError as error:
            raise ValueError(f"{key} is {value!r}: {error}") from None


def resolve_world_size(cfg: "d2.CfgNode", world_size: int) -> list[str]:
    """SOLVER.REFERENCE_WORLD_SIZE, as in Detectron2: the batch of each process stays; learning rate and schedule are rescaled.

    Returns the line to print, if anything changed. Raises ValueError if IMS_PER_BATCH is not a multiple of the reference world size.
    """
    reference, batch = cfg.SOLVER.REFERENCE_WORLD_SIZE, cfg.SOLVER.IMS_PER_BATCH
    if reference in (0, world_size):
        return []
    if batch % reference:
        raise ValueError(f"SOLVER.IMS_PER_BATCH is {batch}; expected a multiple of SOLVER.REFERENCE_WORLD_SIZE {reference}.")
    factor = world_size / reference
    before = _describe(cfg)
    cfg.SOLVER.IMS_PER_BATCH = round(batch * factor)
    # Without this, resolve_batch() would rescale for the same change once more.
    cfg.DETCON.FINETUNE.REFERENCE_IMS_PER_BATCH = round(cfg.DETCON.FINETUNE.REFERENCE_IMS_PER_BATCH * factor)
    _rescale(cfg, factor, given=())
    cfg.SOLVER.REFERENCE_WORLD_SIZE = world_size
    return [f"{world_size} processes instead of REFERENCE_WORLD_SIZE {reference}: {before} -> {_describe(cfg)}."]


def resolve_batch(cfg: "d2.CfgNode", given: Collection[str]) -> list[str]:
    """Linear rescaling if SOLVER.IMS_PER_BATCH is not DETCON.FINETUNE.REFERENCE_IMS_PER_BATCH (Goyal et al. 2017, section 2.1).

    ``given`` are keys of the command line, which are not rescaled. Returns the line to print, if anything changed.
    """
    reference, batch = cfg.DETCON.FINETUNE.REFERENCE_IMS_PER_BATCH, cfg.SOLVER.IMS_PER_BATCH
    if reference in (0, batch) or batch <= 0:
        return []
    before = _describe(cfg)
    _rescale(cfg, batch / reference, given)
    kept = sorted(set(given) & {"SOLVER.BASE_LR", *_PERIODS})
    note = f" (as given: {', '.join(kept)})" if kept else ""
    return [f"Batch {batch} instead of REFERENCE_IMS_PER_BATCH {reference}: {before} -> {_describe(cfg)}{note}."]


def resolve_steps(cfg: "d2.CfgNode") -> list[str]:
    """Remove SOLVER.STEPS that are not below SOLVER.MAX_ITER; returns the line to print, if anything changed."""
    before, end = tuple(cfg.SOLVER.STEPS), cfg.SOLVER.MAX_ITER
    cfg.SOLVER.STEPS = tuple(step for step in before if step < end)
    return [] if cfg.SOLVER.STEPS == before else [f"SOLVER.STEPS {before} -> {cfg.SOLVER.STEPS}: MAX_ITER is {end}."]


def _rescale(cfg: "d2.CfgNode", factor: float, given: Collection[str]) -> None:
    """Multiply the learning rate by ``factor`` and divide iterations by it, except for the keys in ``given``."""

    def rescaled(iterations: int) -> int:
        # A period of 0 means never, and rounding must not produce it.
        return iterations and max(round(iterations / factor), 1)

    if "SOLVER.BASE_LR" not in given:
        cfg.SOLVER.BASE_LR *= factor
    for section, name in (key.split(".") for key in _PERIODS if key not in given):
        value = cfg[section][name]
        cfg[section][name] = tuple(map(rescaled, value)) if isinstance(value, tuple | list) else rescaled(value)


def _describe(cfg: "d2.CfgNode") -> str:
    solver = cfg.SOLVER
    return (
        f"IMS_PER_BATCH {solver.IMS_PER_BATCH}, BASE_LR {solver.BASE_LR:g}, MAX_ITER {solver.MAX_ITER}, "
        f"STEPS {tuple(solver.STEPS)}, WARMUP_ITERS {solver.WARMUP_ITERS}"
    )
