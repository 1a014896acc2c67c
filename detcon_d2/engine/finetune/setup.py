"""From a detector's config file to a resolved, checked config and training records, with a printed line for whatever was changed."""

import argparse
import logging
import os
from collections.abc import Collection

import torch

from detcon_d2 import d2
from detcon_d2.checkpoint import check_weights
from detcon_d2.config import backbone_padding
from detcon_d2.engine.finetune.data import AUGMENTATIONS, load_detection_records
from detcon_d2.engine.setup import DETECTOR_NORMS, load_config, prepare_together, resolve_device, resolve_norms, resolve_precision
from detcon_d2.methods.registry import pretraining_names

logger = logging.getLogger(__name__)

_PERIODS = ("SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.WARMUP_ITERS", "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD")


def setup_finetuning(args: argparse.Namespace) -> tuple["d2.CfgNode", list[dict]]:
    """The frozen config and the training records; logging, seeds and ``config.yaml`` in OUTPUT_DIR are set up.

    Args:
        args: of Detectron2's ``default_argument_parser``; with ``eval_only`` no training data is read, and the records are empty.

    Raises:
        ValueError: for anything in config, data or weights that cannot work, with what to change.
    """
    cfg, records, lines = prepare_together(lambda: _prepare(args))
    counts = d2.comm.all_gather(len(records))
    if len(set(counts)) > 1:
        raise ValueError(f"The processes see different numbers of training images: {counts}. Give every machine the same data set.")
    d2.default_setup(cfg, args)
    for line in lines:
        logger.info(line)
    return cfg, records


def _prepare(args: argparse.Namespace) -> tuple["d2.CfgNode", list[dict], list[str]]:
    world_size = d2.comm.get_world_size()
    cfg = load_config(args.config_file, args.opts)
    d2.setup_logger(cfg.OUTPUT_DIR, distributed_rank=d2.comm.get_rank(), name="detcon_d2")
    lines = [f"Detectron2 backend: {d2.describe_backend()}"]
    lines += resolve_device(cfg)
    lines += resolve_precision(cfg)
    lines += resolve_world_size(cfg, world_size)
    lines += resolve_batch(cfg, set(args.opts[::2]))
    lines += resolve_steps(cfg)
    check_finetuning_config(cfg, world_size)
    lines += resolve_norms(cfg, world_size, DETECTOR_NORMS)
    resuming = args.resume and os.path.isfile(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint"))
    if not (args.eval_only or resuming):
        lines += check_weights(cfg, cfg.MODEL.WEIGHTS)
    records = [] if args.eval_only else load_detection_records(cfg)
    cfg.freeze()
    return cfg, records, lines


def check_finetuning_config(cfg: "d2.CfgNode", world_size: int) -> None:
    """Refuse what would fail later or train something else than meant.

    Raises:
        ValueError: naming key, found, expected.
    """
    finetune, solver = cfg.DETCON.FINETUNE, cfg.SOLVER
    architecture, batch, dtype = cfg.MODEL.META_ARCHITECTURE, solver.IMS_PER_BATCH, cfg.DETCON.SOLVER.AMP_DTYPE
    fp16_on_cpu = solver.AMP.ENABLED and dtype == "fp16" and not torch.cuda.is_available()
    sampler, augmentation, fraction = cfg.DATALOADER.SAMPLER_TRAIN, finetune.AUGMENTATION, finetune.LABEL_FRACTION
    checks = [
        (
            architecture in d2.META_ARCH_REGISTRY,
            "MODEL.META_ARCHITECTURE",
            architecture,
            f"'GeneralizedRCNN', or to pretrain one of {', '.join(pretraining_names())}",
        ),
        (batch > 0 and batch % world_size == 0, "SOLVER.IMS_PER_BATCH", batch, f"a positive multiple of the {world_size} processes"),
        (dtype in ("bf16", "fp16"), "DETCON.SOLVER.AMP_DTYPE", dtype, "'bf16' or 'fp16'"),
        (not fp16_on_cpu, "DETCON.SOLVER.AMP_DTYPE", dtype, "'bf16' on the CPU, or SOLVER.AMP.ENABLED False"),
        (sampler == "TrainingSampler", "DATALOADER.SAMPLER_TRAIN", sampler, "'TrainingSampler'"),
        (augmentation in AUGMENTATIONS, "DETCON.FINETUNE.AUGMENTATION", augmentation, " or ".join(map(repr, AUGMENTATIONS))),
        (0 < fraction <= 1, "DETCON.FINETUNE.LABEL_FRACTION", fraction, "a number in (0, 1]"),
        (not cfg.TEST.AUG.ENABLED, "TEST.AUG.ENABLED", True, "False: there is no test-time augmentation here"),
        (cfg.DETCON.LOG_PERIOD > 0, "DETCON.LOG_PERIOD", cfg.DETCON.LOG_PERIOD, "a number of iterations >= 1"),
    ]
    wrong = [f"{key} is {found!r}; expected {expected}." for ok, key, found, expected in checks if not ok]
    if wrong:
        raise ValueError("\n".join(wrong))
    backbone_padding(cfg)


def resolve_world_size(cfg: "d2.CfgNode", world_size: int) -> list[str]:
    """SOLVER.REFERENCE_WORLD_SIZE, with Detectron2's meaning: the batch of one process stays, and learning rate and schedule follow.

    Returns:
        the line to print, if anything changed.

    Raises:
        ValueError: IMS_PER_BATCH is no multiple of the reference world size.
    """
    reference, batch = cfg.SOLVER.REFERENCE_WORLD_SIZE, cfg.SOLVER.IMS_PER_BATCH
    if reference in (0, world_size):
        return []
    if batch % reference:
        raise ValueError(f"SOLVER.IMS_PER_BATCH is {batch}; expected a multiple of SOLVER.REFERENCE_WORLD_SIZE {reference}.")
    factor = world_size / reference
    before = _describe(cfg)
    cfg.SOLVER.IMS_PER_BATCH = round(batch * factor)
    # Both rules would otherwise answer the same change.
    cfg.DETCON.FINETUNE.REFERENCE_IMS_PER_BATCH = round(cfg.DETCON.FINETUNE.REFERENCE_IMS_PER_BATCH * factor)
    _rescale(cfg, factor, given=())
    cfg.SOLVER.REFERENCE_WORLD_SIZE = world_size
    return [f"{world_size} processes in place of REFERENCE_WORLD_SIZE {reference}: {before} -> {_describe(cfg)}."]


def resolve_batch(cfg: "d2.CfgNode", given: Collection[str]) -> list[str]:
    """Linear rescaling where SOLVER.IMS_PER_BATCH is not DETCON.FINETUNE.REFERENCE_IMS_PER_BATCH (Goyal et al. 2017, section 2.1).

    Args:
        cfg: changed in place.
        given: keys of the command line, which stay as they are.

    Returns:
        the line to print, if anything changed.
    """
    reference, batch = cfg.DETCON.FINETUNE.REFERENCE_IMS_PER_BATCH, cfg.SOLVER.IMS_PER_BATCH
    if reference in (0, batch) or batch <= 0:
        return []
    before = _describe(cfg)
    _rescale(cfg, batch / reference, given)
    kept = sorted(set(given) & {"SOLVER.BASE_LR", *_PERIODS})
    note = f" (as given: {', '.join(kept)})" if kept else ""
    return [f"Batch {batch} in place of REFERENCE_IMS_PER_BATCH {reference}: {before} -> {_describe(cfg)}{note}."]


def resolve_steps(cfg: "d2.CfgNode") -> list[str]:
    """Leave out the SOLVER.STEPS that a shorter SOLVER.MAX_ITER never reaches; returns the line to print, if anything changed."""
    before, end = tuple(cfg.SOLVER.STEPS), cfg.SOLVER.MAX_ITER
    cfg.SOLVER.STEPS = tuple(step for step in before if step < end)
    return [] if cfg.SOLVER.STEPS == before else [f"SOLVER.STEPS {before} -> {cfg.SOLVER.STEPS}: MAX_ITER is {end}."]


def _rescale(cfg: "d2.CfgNode", factor: float, given: Collection[str]) -> None:
    """Learning rate times ``factor``, iterations by ``factor``, but for the keys in ``given``."""
    if "SOLVER.BASE_LR" not in given:
        cfg.SOLVER.BASE_LR *= factor
    for key in _PERIODS:
        if key in given:
            continue
        section, name = key.split(".")
        value = cfg[section][name]
        many = isinstance(value, tuple | list)
        # A period of 0 means never, and must not come about by rounding.
        scaled = tuple(one and max(round(one / factor), 1) for one in (value if many else (value,)))
        cfg[section][name] = scaled if many else scaled[0]


def _describe(cfg: "d2.CfgNode") -> str:
    solver = cfg.SOLVER
    return (
        f"IMS_PER_BATCH {solver.IMS_PER_BATCH}, BASE_LR {solver.BASE_LR:g}, MAX_ITER {solver.MAX_ITER}, "
        f"STEPS {tuple(solver.STEPS)}, WARMUP_ITERS {solver.WARMUP_ITERS}"
    )
