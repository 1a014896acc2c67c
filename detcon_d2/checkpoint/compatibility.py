"""Does a fine-tuning config fit its weights? This is checked before anything is built: a mismatch costs AP and causes no error."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from detcon_d2 import d2
from detcon_d2.checkpoint.convert.key_maps import BRANCHES, grouped
from detcon_d2.checkpoint.convert.spec import BATCH_NORMS, IMAGE_KEYS, KEYS, BackboneSpec
from detcon_d2.checkpoint.metadata import network_metadata, with_defaults
from detcon_d2.checkpoint.safe_load.files import load_checkpoint_file

# Prefix in a detector -> the part's name in the log, for the parts of Mask R-CNN that no backbone checkpoint has.
_PARTS = {
    "backbone.fpn_": "FPN",
    "backbone.top_block.": "FPN",
    "proposal_generator.": "RPN",
    "roi_heads.box_": "box head",
    "roi_heads.mask_": "mask head",
    "roi_heads.keypoint_": "keypoint head",
}
# Constants from the config, and a counter that no computation reads.
_NOT_LEARNT = ("pixel_mean", "pixel_std", "num_batches_tracked")


class Disagreement(NamedTuple):
    """A config key whose value is not what the weights were trained with."""

    key: str
    found: Any
    expected: Any

    def __str__(self) -> str:
        return f"{self.key} is {self.found!r}; expected {self.expected!r}."


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
    checkpoint = load_checkpoint_file(local)
    checkpoint = checkpoint if isinstance(checkpoint, dict) else {}
    _check_converted(checkpoint.get("model", checkpoint), path)
    metadata = checkpoint.get("metadata")
    if not isinstance(metadata, dict) or "depth" not in metadata:
        return [_by_hand(cfg, path)]
    metadata = with_defaults(metadata)
    found = disagreements(cfg, metadata)
    if found and cfg.DETCON.CHECK_WEIGHTS:
        raise ValueError(_refusal(path, found))
    lines = [f"Warning: {item} Started nevertheless, because DETCON.CHECK_WEIGHTS is False." for item in found]
    lines += _unknown(cfg, metadata, path)
    if cfg.MODEL.BACKBONE.FREEZE_AT > 0:
        frozen = cfg.MODEL.BACKBONE.FREEZE_AT
        lines.append(f"Warning: MODEL.BACKBONE.FREEZE_AT is {frozen}; expected 0: layers that stay frozen cost self-supervised weights AP.")
    agreed = "" if found else " The config agrees with it."
    return [f"MODEL.WEIGHTS {path}: {_summary(metadata)}.{agreed}", *lines]


def disagreements(cfg: "d2.CfgNode", metadata: Mapping[str, Any]) -> list[Disagreement]:
    """Every key of the config that contradicts the metadata; what the metadata do not report is not compared."""
    # The kind of norm is compared below: a fine-tuned detector may have any trained BatchNorm.
    expected, found = BackboneSpec.from_metadata({**metadata, "norm": "BN"}), BackboneSpec.from_config(cfg)
    pairs = [Disagreement(key, value, metadata[name]) for name, key, value in _compared(cfg) if name in metadata]
    wrong = [pair for pair in pairs if not _equal(pair.found, pair.expected)]
    if found.depth != expected.depth:
        wrong.append(Disagreement(KEYS["depth"], found.depth, expected.depth))
    else:
        channels = found.channels
        wrong += [Disagreement(f"MODEL.RESNETS.{k}", channels[k], value) for k, value in expected.channels.items() if channels[k] != value]
    if found.last_stage > expected.last_stage:
        wrong.append(Disagreement(KEYS["last_stage"], list(cfg.MODEL.RESNETS.OUT_FEATURES), list(expected.stage_names)))
    if found.norm not in (*BATCH_NORMS, metadata.get("norm")):
        # FrozenBN keeps statistics that fit pretraining only: training diverges within iterations.
        wrong.append(Disagreement(KEYS["norm"], found.norm, "SyncBN"))
    return wrong


def describe_missing(missing_keys: Sequence[str]) -> str:
    """One line on the parts of a detector that its weights did not have.

    Args:
        missing_keys: the model's keys that were not in the checkpoint (``DetConCheckpointer.missing_keys``).

    Raises:
        ValueError: tensors of the backbone are among them, listing the keys: features would be random.
    """
    keys = [key for key in missing_keys if not key.endswith(_NOT_LEARNT) and ".cell_anchors." not in key]
    parts = {key: next((name for prefix, name in _PARTS.items() if key.startswith(prefix)), None) for key in keys}
    backbone = [key for key in keys if parts[key] is None and key.startswith("backbone.")]
    if backbone:
        raise ValueError(
            f"MODEL.WEIGHTS lacks {len(backbone)} tensors of the backbone:\n  " + "\n  ".join(grouped(backbone)) + "\n"
            "Weights of DetCon pretraining are converted by tools/convert_to_d2.py; of others, the names must be those of Detectron2."
        )
    names = list(dict.fromkeys(parts[key] or key.partition(".")[0] for key in keys))
    return f"newly initialised, as expected: {', '.join(names)}" if names else "every parameter comes from MODEL.WEIGHTS"


def _check_converted(state: Any, path: str) -> None:
    if isinstance(state, Mapping) and any(isinstance(key, str) and key.startswith(tuple(BRANCHES.values())) for key in state):
        raise ValueError(
            f"MODEL.WEIGHTS {path} is a pretraining checkpoint (keys 'encoder.*'), which a detector cannot read. Convert it first:\n"
            f"  python tools/convert_to_d2.py {path} {os.path.splitext(path)[0]}_d2.pkl"
        )


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


def _refusal(path: str, found: list[Disagreement]) -> str:
    lines = "\n".join(f"  {item}" for item in found)
    frozen = any(item.key == "MODEL.RESNETS.NORM" for item in found)
    same = any(item.key == "DETCON.BACKBONE.PADDING" and item.expected == "same" for item in found)
    reason = "\nStatistics of self-supervised weights must adapt: without a trained BatchNorm (SyncBN, BN, naiveSyncBN) training diverges."
    builder = "\nOnly MODEL.BACKBONE.NAME build_detcon_resnet_fpn_backbone has that padding; its parameters are those of Detectron2's."
    return (
        f"The config does not fit MODEL.WEIGHTS {path}:\n{lines}{reason if frozen else ''}{builder if same else ''}\n"
        "Set these keys as expected; the YAML that tools/convert_to_d2.py wrote next to the weights has them. "
        "DETCON.CHECK_WEIGHTS False starts nevertheless."
    )


def _unknown(cfg: "d2.CfgNode", metadata: Mapping[str, Any], path: str) -> list[str]:
    unknown = [f"{key} {found!r}" for name, key, found in _compared(cfg) if name not in metadata]
    return [f"Warning: {path} does not report all settings of its training. Check by hand: {', '.join(unknown)}."] if unknown else []


def _by_hand(cfg: "d2.CfgNode", path: str) -> str:
    found, frozen = network_metadata(cfg), ("MODEL.BACKBONE.FREEZE_AT", cfg.MODEL.BACKBONE.FREEZE_AT)
    settings = [(key, value) for _, key, value in _compared(cfg)] + [(KEYS[name], found[name]) for name in ("depth", "norm")] + [frozen]
    listed = ", ".join(f"{key} {value!r}" for key, value in settings)
    return f"Warning: {path} has no metadata, so nothing was compared. Check by hand that it was trained with {listed}."


def _summary(metadata: Mapping[str, Any]) -> str:
    epochs = f", {metadata['epochs']:.4g} epochs" if isinstance(metadata.get("epochs"), int | float) else ""
    return f"{metadata.get('method', 'unknown method')}, {metadata.get('encoder', 'unknown')} encoder{epochs}, ResNet-{metadata['depth']}"
