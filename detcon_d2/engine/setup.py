"""From a config file to a resolved, checked config. Keys that depend on machine or data set are set here; each change is printed."""

import argparse
import difflib
import functools
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch

from detcon_d2 import d2
from detcon_d2.config import add_detcon_config
from detcon_d2.data import count_classes, load_training_records, records_digest
from detcon_d2.data.reading import BadImages, reading_from_config
from detcon_d2.io.atomic import remove_unfinished
from detcon_d2.io.config_files import merge_config_file
from detcon_d2.io.lock import hold_folder, release_folders
from detcon_d2.methods import pretraining_class, pretraining_names
from detcon_d2.modeling.backbone import backbone_padding
from detcon_d2.solver import resolve_schedule

logger = logging.getLogger(__name__)

# Keys that may be "SyncBN" -> the norm that replaces it on several CPU processes, in pretraining and in detectors. The box and mask heads
# need naiveSyncBN_N because the number of boxes differs between processes.
PRETRAINING_NORMS = {"MODEL.RESNETS.NORM": "naiveSyncBN", "DETCON.HEAD_NORM": "naiveSyncBN"}
DETECTOR_NORMS = {
    "MODEL.RESNETS.NORM": "naiveSyncBN",
    "MODEL.FPN.NORM": "naiveSyncBN",
    "MODEL.ROI_BOX_HEAD.NORM": "naiveSyncBN_N",
    "MODEL.ROI_MASK_HEAD.NORM": "naiveSyncBN_N",
    "MODEL.SEM_SEG_HEAD.NORM": "naiveSyncBN",
}
# Keys whose values are easily given as a bare text.
_LISTS_OF_TEXTS = ("DATASETS.TRAIN", "DATASETS.TEST", "DETCON.MASKS.ROOTS")

LEARNING_RATE = "a number > 0: with 0 nothing is learned"
"""What a learning rate must be."""


class SharedError(ValueError):
    """A mistake that every process of the job has seen and raises; one of them reports it."""


def load_config(config_file: str, opts: list[str]) -> "d2.CfgNode":
    """Detectron2's defaults, this package's keys, the file, then ``KEY VALUE`` pairs.

    Raises ValueError for an unknown key, with the most similar known one, a value of another type, or a file that is not plain YAML.
    """
    cfg = d2.get_cfg()
    add_detcon_config(cfg)
    known = sorted(_keys(cfg))
    try:
        if config_file:
            merge_config_file(cfg, config_file)
        cfg.merge_from_list(_whole_numbers_as_floats(cfg, opts))
    except (KeyError, AssertionError) as error:
        # yacs writes "Non-existent config key: A.B" for files and "Non-existent key: A.B" for overrides.
        message = str(error.args[0])
        if "Non-existent" not in message:
            raise ValueError(f"Cannot read the overrides {' '.join(opts)}: {message} Expected KEY VALUE pairs.") from None
        key = message.split()[-1]
        near = difflib.get_close_matches(key, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"Unknown config key {key} in {config_file or 'the command line'} or its overrides.{hint}") from None
    except ValueError as error:
        raise ValueError(_explain_type(str(error))) from None
    return cfg


def setup_pretraining(args: argparse.Namespace) -> tuple["d2.CfgNode", list[dict]]:
    """:func:`setup_job` of a pretraining method."""

    def resolve(cfg: "d2.CfgNode") -> tuple[list[dict], list[str]]:
        world_size = d2.comm.get_world_size()
        check_pretraining_config(cfg, world_size)
        lines = resolve_norms(cfg, world_size)
        records = load_training_records(cfg, regions=pretraining_class(cfg.MODEL.META_ARCHITECTURE).Samples.uses_regions)
        lines += resolve_schedule(cfg, len(records))
        lines += resolve_probe(cfg, records)
        for doubt in pretraining_class(cfg.MODEL.META_ARCHITECTURE).doubts(cfg, len(records)):
            logger.warning(doubt)
        return records, lines

    return setup_job(args, resolve, records_digest)


def setup_job(
    args: argparse.Namespace, resolve: Callable[["d2.CfgNode"], tuple[list[dict], list[str]]], digest: Callable[[list[dict]], str]
) -> tuple["d2.CfgNode", list[dict]]:
    """The frozen config and the training records; logging, seeds and ``config.yaml`` in OUTPUT_DIR are set up.

    Args:
        args: of Detectron2's ``default_argument_parser``.
        resolve: changes a config in place, checks it, and returns the records and the lines to print; does not communicate.
        digest: hash of the records, which must be the same in all processes.

    Raises:
        ValueError: for anything in config, data or weights that cannot work, with what to change. If one process finds a mistake (for
            example, the data is missing on its machine), all processes raise.
    """
    cfg, records, lines, error = None, [], [], None
    try:
        cfg = load_config(args.config_file, args.opts)
        if d2.comm.is_main_process():
            _take_output_dir(Path(cfg.OUTPUT_DIR))
        d2.setup_logger(cfg.OUTPUT_DIR, distributed_rank=d2.comm.get_rank(), name="detcon_d2")
        lines = [f"Detectron2 backend: {d2.describe_backend()}", *resolve_device(cfg), *resolve_precision(cfg)]
        records, more = resolve(cfg)
        lines += [*more, *reading_from_config(cfg).describe(records)]
    except (ValueError, OSError) as found:
        error = str(found)
    errors = {rank: text for rank, text in enumerate(d2.comm.all_gather(error)) if text is not None}
    if errors:
        raise SharedError(error or "\n".join(f"process {rank}: {text}" for rank, text in errors.items()))
    digests = d2.comm.all_gather((len(records), digest(records)))
    if len(set(digests)) > 1:
        raise SharedError(f"The processes see different training images (count, hash): {digests}. Give every machine the same data set.")
    cfg.freeze()
    d2.default_setup(cfg, args)
    for line in lines:
        logger.info(line)
    return cfg, records


def _take_output_dir(folder: Path) -> None:
    """Hold only this folder, and remove what a killed run has left in it: unfinished files and half a line of metrics."""
    release_folders()
    hold_folder(folder)
    for place in (folder, folder / "kmeans"):
        remove_unfinished(place)
    metrics = folder / "metrics.json"
    if metrics.is_file():
        with metrics.open("rb+") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)


def check_pretraining_config(cfg: "d2.CfgNode", world_size: int) -> None:
    """Refuse a config that would fail later or, worse, train something other than what the user meant.

    Raises ValueError: names each wrong key, the value found and what is expected.
    """
    compiler = cfg.DETCON.COMPILE
    compilers = torch.compiler.list_backends if compiler else lambda *_: []  # listing them imports the compiler, which takes seconds
    architecture, backbone = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.BACKBONE.NAME
    method, ema = pretraining_class(architecture), cfg.DETCON.EMA
    clip, optimizer = cfg.SOLVER.CLIP_GRADIENTS.ENABLED, cfg.DETCON.SOLVER.OPTIMIZER
    checks = [
        (method is not None, "MODEL.META_ARCHITECTURE", architecture, f"one of {', '.join(pretraining_names())}"),
        (backbone in d2.BACKBONE_REGISTRY, "MODEL.BACKBONE.NAME", backbone, f"one of {', '.join(sorted(dict(d2.BACKBONE_REGISTRY)))}"),
        (cfg.INPUT.FORMAT == "RGB", "INPUT.FORMAT", cfg.INPUT.FORMAT, "'RGB', the order that pretraining and its pixel statistics use"),
        (cfg.SEED >= 0, "SEED", cfg.SEED, "a number >= 0, which determines images, augmentation and sampled regions"),
        (not (clip and optimizer == "LARS"), "SOLVER.CLIP_GRADIENTS.ENABLED", clip, "False with LARS, which rescales the gradients"),
        (0 <= ema.MOMENTUM <= 1, "DETCON.EMA.MOMENTUM", ema.MOMENTUM, "a number in [0, 1]"),
        (ema.SCHEDULE in ("cosine", "constant"), "DETCON.EMA.SCHEDULE", ema.SCHEDULE, "'cosine' or 'constant'"),
        (cfg.DETCON.SOLVER.BASE_LR_256 > 0 or cfg.SOLVER.BASE_LR > 0, "SOLVER.BASE_LR", cfg.SOLVER.BASE_LR, LEARNING_RATE),
        (not compiler or compiler in compilers(()), "DETCON.COMPILE", compiler, f"'', or one of {', '.join(compilers())}"),
        *(method.check_config(cfg) if method else []),
    ]
    check_config(cfg, world_size, checks)


def check_config(cfg: "d2.CfgNode", world_size: int, checks: Iterable[tuple[bool, str, object, str]]) -> None:
    """Raise a ValueError for all ``checks`` that fail, and for those that pretraining and fine-tuning share.

    A check is (whether it is fulfilled, key, value found, what is expected).
    """
    batch, period, dtype = cfg.SOLVER.IMS_PER_BATCH, cfg.DETCON.LOG_PERIOD, cfg.DETCON.SOLVER.AMP_DTYPE
    saving, on_cpu = cfg.SOLVER.CHECKPOINT_PERIOD, cfg.MODEL.DEVICE == "cpu" or not torch.cuda.is_available()
    fp16_on_cpu = cfg.SOLVER.AMP.ENABLED and dtype == "fp16" and on_cpu
    checks = [
        *checks,
        (batch > 0 and batch % world_size == 0, "SOLVER.IMS_PER_BATCH", batch, f"a positive multiple of the {world_size} processes"),
        (dtype in ("bf16", "fp16"), "DETCON.SOLVER.AMP_DTYPE", dtype, "'bf16' or 'fp16'"),
        (not fp16_on_cpu, "DETCON.SOLVER.AMP_DTYPE", dtype, "'bf16' on the CPU, or SOLVER.AMP.ENABLED False"),
        (period > 0, "DETCON.LOG_PERIOD", period, "a number of iterations >= 1"),
        (saving >= 0, "SOLVER.CHECKPOINT_PERIOD", saving, "a number of iterations, or 0 for the end only"),
        (cfg.DETCON.LOADER_TIMEOUT >= 0, "DETCON.LOADER_TIMEOUT", cfg.DETCON.LOADER_TIMEOUT, "seconds, or 0 to wait without end"),
    ]
    wrong = [f"{key} is {found!r}; expected {expected}." for fulfilled, key, found, expected in checks if not fulfilled]
    if wrong:
        raise ValueError("\n".join(wrong))
    backbone_padding(cfg)
    reading_from_config(cfg)
    BadImages(cfg.DETCON.ON_BAD_IMAGE)


def resolve_device(cfg: "d2.CfgNode") -> list[str]:
    """Use the CPU if there is no CUDA; returns the lines to print."""
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
        return ["No CUDA here: MODEL.DEVICE cuda -> cpu."]
    return []


def resolve_precision(cfg: "d2.CfgNode") -> list[str]:
    """Switch bf16 off where it has no instructions and is many times slower than float32; returns the lines to print."""
    if not cfg.SOLVER.AMP.ENABLED or cfg.DETCON.SOLVER.AMP_DTYPE != "bf16":
        return []
    if cfg.MODEL.DEVICE.split(":")[0] == "cpu":
        fast, place, advice = has_fast_bf16(), "CPU", "float32 is several times as fast."
    else:
        fast, place = torch.cuda.is_bf16_supported(including_emulation=False), "GPU"
        advice = "it would only be emulated. DETCON.SOLVER.AMP_DTYPE fp16 is fast here."
    if fast:
        return []
    cfg.SOLVER.AMP.ENABLED = False
    return [f"This {place} has no instructions for bf16: SOLVER.AMP.ENABLED True -> False, {advice}"]


def has_fast_bf16() -> bool:
    """Whether bf16 makes convolutions and matrix products of this CPU faster: oneDNN finds AVX-512 or Arm's bf16 extension."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def resolve_norms(cfg: "d2.CfgNode", world_size: int, norms: Mapping[str, str] = PRETRAINING_NORMS) -> list[str]:
    """Replace SyncBN by a norm that works with this number of processes and device, and has the same outputs and gradients.

    ``norms`` has the replacement of each key on several CPU processes; for one process, the norm becomes BN. Returns the lines to print.
    """
    if world_size > 1 and cfg.MODEL.DEVICE != "cpu":
        return []
    reason = "one process" if world_size == 1 else "torch's SyncBatchNorm needs CUDA"
    lines = []
    for key, replacement in norms.items():
        *path, last = key.split(".")
        node = functools.reduce(lambda node, name: node[name], path, cfg)
        if node[last] == "SyncBN":
            node[last] = "BN" if world_size == 1 else replacement
            lines.append(f"{key} SyncBN -> {node[last]} ({reason}).")
    return lines


def resolve_probe(cfg: "d2.CfgNode", records: list[dict]) -> list[str]:
    """Set DETCON.PROBE.NUM_CLASSES from the labels of the data set if it is 0; returns the lines to print."""
    probe = cfg.DETCON.PROBE
    if not probe.ENABLED:
        return []
    classes = count_classes(records)
    if classes == 0:
        probe.ENABLED = False
        return ["No class labels in the data: no online probe."]
    if probe.NUM_CLASSES and probe.NUM_CLASSES < classes:
        raise ValueError(f"DETCON.PROBE.NUM_CLASSES is {probe.NUM_CLASSES}, but the data has {classes} classes; set it to 0 or {classes}.")
    probe.NUM_CLASSES = probe.NUM_CLASSES or classes
    return [f"Online linear probe over {probe.NUM_CLASSES} classes."]


def _whole_numbers_as_floats(cfg: "d2.CfgNode", opts: list[str]) -> list[str]:
    """yacs reads 100 as an int and refuses it for a key such as EPOCHS, whose default is a float."""
    opts = list(opts)
    for index in range(1, len(opts), 2):
        value = functools.reduce(lambda node, name: node.get(name) if isinstance(node, dict) else None, opts[index - 1].split("."), cfg)
        if isinstance(value, float) and re.fullmatch(r"[+-]?\d+", opts[index]):
            opts[index] += ".0"
    return opts


def _explain_type(message: str) -> str:
    """yacs names two types where a list of data sets or folders is one bare text; how it is written is more useful."""
    match = re.fullmatch(
        r"Type mismatch \(<class '(?:tuple|list)'> vs\. <class 'str'>\).* vs\. (.*)\) for config key: (\S+)", message, re.S
    )
    if not match or match[2] not in _LISTS_OF_TEXTS:
        return message
    one = match[1].strip("()[], '\"")
    return f"{match[2]} is {match[1]}; expected a list of texts, each in quotes and with a comma after it: {match[2]} '(\"{one}\",)'"


def _keys(node: "d2.CfgNode", prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, d2.CfgNode):
            yield from _keys(value, f"{prefix}{key}.")
