"""The weights that pretraining starts from: a checkpoint of any known style, into the encoder, all of it or none."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from detcon_d2 import d2
from detcon_d2.checkpoint.compatibility import disagreements, is_learnt
from detcon_d2.checkpoint.convert.key_maps import BRANCHES
from detcon_d2.checkpoint.convert.readers import read_checkpoint
from detcon_d2.checkpoint.safe_load.files import load_checkpoint_file


def is_pretraining_checkpoint(path: str) -> bool:
    """Whether the file of MODEL.WEIGHTS has the names of a pretraining model, which the checkpointer reads; its content is held.

    Raises:
        FileNotFoundError: no such file.
        UnsafeCheckpointError: a file that is no safe checkpoint.
    """
    local = _local(path)
    if not os.path.isfile(local):
        raise FileNotFoundError(f"MODEL.WEIGHTS is {path}, which does not exist.")
    content = load_checkpoint_file(local, hold=True)
    state = content.get("model", content) if isinstance(content, Mapping) else {}
    return isinstance(state, Mapping) and any(str(key).startswith(f"{BRANCHES['online']}stem.") for key in state)


def load_encoder(encoder: nn.Module, cfg: "d2.CfgNode", path: str) -> str:
    """Load the backbone of a checkpoint that the converter knows into ``encoder``, in place.

    Stages of the file that come after the last one of the encoder are left out.

    Returns the line to log: style, tensors, and what was left out.

    Raises ValueError: no known style; tensors that are missing or do not fit; or the config disagrees with the file (each key, found and
        expected), unless DETCON.CHECK_WEIGHTS is False and the tensors fit.
    """
    backbone = read_checkpoint(_local(path))
    metadata = backbone.spec.metadata() | backbone.metadata
    wrong = disagreements(cfg, metadata)
    expected = encoder.state_dict()
    built = {_part(key) for key in expected}
    tensors = {key: tensor for key, tensor in backbone.tensors.items() if _part(key) in built}
    unfit = [key for key in {**expected, **tensors} if _shape(expected, key) != _shape(tensors, key)]
    if unfit or (wrong and cfg.DETCON.CHECK_WEIGHTS):
        listed = " ".join(wrong.values()) or f"{len(unfit)} tensors have another shape, such as {unfit[0]}."
        raise ValueError(f"The config does not fit MODEL.WEIGHTS {path} ({backbone.spec.describe()}): {listed} Set these keys as expected.")
    encoder.load_state_dict(tensors)
    dropped = ", ".join(dict.fromkeys([*backbone.dropped.values(), *(_part(key) for key in backbone.tensors.keys() - tensors.keys())]))
    ignored = "".join(f" Started nevertheless, because DETCON.CHECK_WEIGHTS is False: {line}" for line in wrong.values())
    return (
        f"MODEL.WEIGHTS {path}: style {backbone.style}, {len(tensors)} of {len(expected)} tensors of the encoder loaded "
        f"({backbone.spec.describe()}); left out: {dropped or 'nothing'}.{ignored}"
    )


def describe_own(missing_keys: Sequence[str], path: str) -> str:
    """The line to log after a pretraining checkpoint was loaded, given the model's keys that it did not have in their shape.

    Raises ValueError: tensors of the encoder are among them: features would be random.
    """
    missing = [key for key in missing_keys if is_learnt(key)]
    lost = [key for key in missing if key.startswith(BRANCHES["online"])]
    if lost:
        raise ValueError(f"MODEL.WEIGHTS {path} lacks {len(lost)} tensors of the encoder that this config builds, such as {lost[0]}.")
    new = ", ".join(dict.fromkeys(key.partition(".")[0] for key in missing)) or "nothing"
    return f"MODEL.WEIGHTS {path}: style detcon_d2, all tensors of the encoder loaded; not in the file: {new}."


def _local(path: str) -> str:
    return d2.PathManager.get_local_path(path.partition("?")[0])


def _part(key: str) -> str:
    """The stem, or the stage."""
    return key.partition(".")[0]


def _shape(state: Mapping[str, Any], key: str) -> Any:
    return state[key].shape if key in state else None
