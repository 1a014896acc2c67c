"""Does a fine-tuning config fit its weights? This is checked before anything is built: a mismatch costs AP and causes no error."""

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from detcon_d2 import d2
from detcon_d2.checkpoint.convert.key_maps import BRANCHES, grouped
from detcon_d2.checkpoint.convert.pyramid import CHANNELS, NORM
from detcon_d2.checkpoint.convert.pyramid import KEYS as PYRAMID_KEYS
from detcon_d2.checkpoint.convert.spec import BATCH_NORMS, IMAGE_KEYS, KEYS, BackboneSpec
from detcon_d2.checkpoint.metadata import network_metadata, with_defaults
from detcon_d2.checkpoint.safe_load.files import load_checkpoint_file

# Prefix in a detector -> the part's name in the log, for the parts of Mask R-CNN that no backbone checkpoint has.
_PARTS = {
    "backbone.fpn_": "FPN",
    "backbone.top_block.": "FPN",
    "proposal_generator.": "RPN",
    "roi_heads.res5.norm.": "norm after res5",
    "roi_heads.box_": "box head",
    "roi_heads.mask_": "mask head",
    "roi_heads.keypoint_": "keypoint head",
    "sem_seg_head.": "segmentation head",
}
# Constants from the config, and a counter that no computation reads.
_NOT_LEARNT = ("pixel_mean", "pixel_std", "num_batches_tracked")


def check_weights(cfg: "d2.CfgNode", path: str) -> list[str]:
    """Compare a fine-tuning config with the metadata of its weights, without building a model.

    Args:
        cfg: the resolved config, with DetCon's keys.
        path: MODEL.WEIGHTS: a file, a name that Detectron2's PathManager resolves, or "" for random initialisation.

    Returns:
        Lines to log; those that ask for attention begin with "Warning:".

    Raises:
        FileNotFoundError: no such file.
        ValueError: the config disagrees (each key, found and expected), unless DETCON.CHECK_WEIGHTS is False; or the file is a pretraining
            checkpoint that has not been converted, or no checkpoint; or the backbone has no such DETCON.BACKBONE.PADDING.
    """
    if not path:
        return ["MODEL.WEIGHTS is empty: the whole model is newly initialised."]
    local = d2.PathManager.get_local_path(path.partition("?")[0])
    if not os.path.isfile(local):
        raise FileNotFoundError(f"MODEL.WEIGHTS is {path}, which does not exist.")
    checkpoint = load_checkpoint_file(local, hold=True)
    checkpoint = checkpoint if isinstance(checkpoint, dict) else {}
    state = checkpoint.get("model", checkpoint)
    if isinstance(state, Mapping) and any(isinstance(key, str) and key.startswith(tuple(BRANCHES.values())) for key in state):
        raise ValueError(
            f"MODEL.WEIGHTS {path} is a pretraining checkpoint (keys 'encoder.*'), which a detector cannot read. Convert it first:\n"
            f"  {shlex.join(['python', 'tools/convert_to_d2.py', path, os.path.splitext(path)[0] + '_d2.pkl'])}"
        )
    metadata, frozen = checkpoint.get("metadata"), cfg.MODEL.BACKBONE.FREEZE_AT
    if not isinstance(metadata, dict) or "depth" not in metadata:
        found = network_metadata(cfg)
        settings = {key: value for _, key, value in _compared(cfg)} | {KEYS[name]: found[name] for name in ("depth", "norm")}
        listed = ", ".join(f"{key} {value!r}" for key, value in (settings | {"MODEL.BACKBONE.FREEZE_AT": frozen}).items())
        return [f"Warning: {path} has no metadata, so nothing was compared. Check by hand that it was trained with {listed}."]
    metadata = with_defaults(metadata)
    wrong = disagreements(cfg, metadata)
    if wrong and cfg.DETCON.CHECK_WEIGHTS:
        raise ValueError(_refusal(path, wrong, metadata))
    epochs = f", {metadata['epochs']:.4g} epochs" if isinstance(metadata.get("epochs"), int | float) else ""
    encoder = f"{metadata.get('method', 'unknown method')}, {metadata.get('encoder', 'unknown')} encoder"
    lines = [f"MODEL.WEIGHTS {path}: {encoder}{epochs}, ResNet-{metadata['depth']}.{'' if wrong else ' The config agrees with it.'}"]
    lines += [f"Warning: {line} Started nevertheless, because DETCON.CHECK_WEIGHTS is False." for line in wrong.values()]
    unknown = [f"{key} {value!r}" for name, key, value in _compared(cfg) if name not in metadata]
    if unknown:
        lines.append(f"Warning: {path} does not report all settings of its training. Check by hand: {', '.join(unknown)}.")
    res5 = isinstance(state, Mapping) and any(str(key).startswith("backbone.bottom_up.res5.") for key in state)
    if res5 and cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN" and "res5" not in cfg.MODEL.RESNETS.OUT_FEATURES:
        lines.append(f"res5 of {path} becomes roi_heads.res5, since MODEL.RESNETS.OUT_FEATURES ends at res4.")
    if frozen > 0:
        lines.append(f"Warning: MODEL.BACKBONE.FREEZE_AT is {frozen}; expected 0: layers that stay frozen cost self-supervised weights AP.")
    return lines


def describe_missing(missing_keys: Sequence[str]) -> str:
    """One line on the parts of a detector that its weights did not have.

    Args:
        missing_keys: the model's keys that were not in the checkpoint (``DetConCheckpointer.missing_keys``).

    Raises ValueError: tensors of the backbone are among them, listing the keys: features would be random.
    """
    keys = [key for key in missing_keys if is_learnt(key)]
    parts = {key: next((name for prefix, name in _PARTS.items() if key.startswith(prefix)), None) for key in keys}
    backbone = [key for key in keys if parts[key] is None and key.startswith(("backbone.", "roi_heads.res5."))]
    if backbone:
        raise ValueError(
            f"MODEL.WEIGHTS lacks {len(backbone)} tensors of the backbone:\n  " + "\n  ".join(grouped(backbone)) + "\n"
            "Weights of DetCon pretraining are converted by tools/convert_to_d2.py; of others, the names must be those of Detectron2."
        )
    names = list(dict.fromkeys(parts[key] or key.partition(".")[0] for key in keys))
    return f"newly initialised, as expected: {', '.join(names)}" if names else "every parameter comes from MODEL.WEIGHTS"


def is_learnt(key: str) -> bool:
    """Whether a key of a model is one that training changes."""
    return not key.endswith(_NOT_LEARNT) and ".cell_anchors." not in key


def disagreements(cfg: "d2.CfgNode", metadata: Mapping[str, Any]) -> dict[str, str]:
    """Config key -> message, for every key that contradicts the metadata; what the metadata do not report is not compared."""
    # The kind of norm is compared below: a fine-tuned detector may have any trained BatchNorm.
    expected, found = BackboneSpec.from_metadata({**metadata, "norm": "BN"}), BackboneSpec.from_config(cfg)
    pairs = {key: (value, metadata[name]) for name, key, value in _compared(cfg) if name in metadata}
    pairs = {key: pair for key, pair in pairs.items() if not _equal(*pair)}
    if found.depth != expected.depth:
        pairs[KEYS["depth"]] = found.depth, expected.depth
    else:
        channels = found.channels
        pairs |= {f"MODEL.RESNETS.{k}": (channels[k], value) for k, value in expected.channels.items() if channels[k] != value}
    if found.last_stage > expected.last_stage:
        pairs[KEYS["last_stage"]] = list(cfg.MODEL.RESNETS.OUT_FEATURES), list(expected.stage_names)
    if "fpn" in cfg.MODEL.BACKBONE.NAME and (pyramid := {name: metadata[name] for name in PYRAMID_KEYS if name in metadata}):
        # The pyramid was pretrained, too. Detectron2 would leave out tensors of other shapes.
        width, norm = cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FPN.NORM
        if width != pyramid[CHANNELS]:
            pairs[PYRAMID_KEYS[CHANNELS]] = width, pyramid[CHANNELS]
        if norm != pyramid[NORM] and not {norm, pyramid[NORM]} <= {*BATCH_NORMS}:
            pairs[PYRAMID_KEYS[NORM]] = norm, pyramid[NORM]
    if found.norm not in (*BATCH_NORMS, metadata.get("norm")):
        # FrozenBN keeps statistics that fit pretraining only: training diverges within iterations.
        pairs[KEYS["norm"]] = found.norm, "SyncBN"
    return {key: f"{key} is {value!r}; expected {wanted!r}." for key, (value, wanted) in pairs.items()}


def _compared(cfg: "d2.CfgNode") -> list[tuple[str, str, Any]]:
    """Name in the metadata, config key and the config's value, of what is compared as it is."""
    found = network_metadata(cfg)
    # Basic blocks have no 1x1 convolution to put the stride in.
    names = (*IMAGE_KEYS, "padding", *(("stride_in_1x1",) if found["depth"] >= 50 else ()))
    return [(name, (IMAGE_KEYS | KEYS)[name], found[name]) for name in names]


def _equal(found: Any, expected: Any) -> bool:
    """Pixel statistics to a thousandth of a grey level, everything else exactly."""
    if isinstance(expected, list):
        return len(found) == len(expected) and all(abs(a - b) < 1e-3 for a, b in zip(found, expected, strict=True))
    return found == expected


def _refusal(path: str, wrong: Mapping[str, str], metadata: Mapping[str, Any]) -> str:
    lines = "".join(f"\n  {line}" for line in wrong.values())
    if KEYS["norm"] in wrong:
        lines += (
            "\nStatistics of self-supervised weights must adapt: without a trained BatchNorm (SyncBN, BN, naiveSyncBN) training diverges."
        )
    if KEYS["padding"] in wrong and metadata["padding"] == "same":
        lines += "\nOnly MODEL.BACKBONE.NAME build_detcon_resnet_fpn_backbone has that padding; its parameters are those of Detectron2's."
    return (
        f"The config does not fit MODEL.WEIGHTS {path}:{lines}\n"
        "Set these keys as expected; the YAML that tools/convert_to_d2.py wrote next to the weights has them. "
        "DETCON.CHECK_WEIGHTS False starts nevertheless."
    )
