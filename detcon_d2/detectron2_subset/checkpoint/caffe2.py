"""Names of the parameters of a ResNet in the model zoo of Caffe2 (MSRA's ``R-50.pkl`` and similar files)."""

import re
from collections.abc import Mapping
from typing import Any

_BLOB = re.compile(r"(?:res(?P<stage>\d+)_(?P<block>\d+)_branch(?P<branch>1|2[abc])|(?:res_)?conv1)_(?P<kind>w|b|bn_(?:s|b|rm|riv))")
_BRANCHES = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
# In spite of its name, "riv" (running inverse variance) contains the variance itself.
_KINDS = {
    "w": "weight",
    "b": "bias",
    "bn_s": "norm.weight",
    "bn_b": "norm.bias",
    "bn_rm": "norm.running_mean",
    "bn_riv": "norm.running_var",
}


def rename_caffe2_blob(name: str) -> str:
    """``res2_0_branch2a_bn_s`` -> ``res2.0.conv1.norm.weight``, ``conv1_w`` -> ``stem.conv1.weight``; other names do not change."""
    match = _BLOB.fullmatch(name)
    if match is None:
        return name
    layer = f"res{match['stage']}.{match['block']}.{_BRANCHES[match['branch']]}" if match["stage"] else "stem.conv1"
    return f"{layer}.{_KINDS[match['kind']]}"


def read_caffe2_blobs(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint with the blobs of a Caffe2 file (under "blobs" or bare), without momenta. Its names are matched by suffix."""
    blobs = {name: blob for name, blob in content.get("blobs", content).items() if not name.endswith("_momentum")}
    return {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}
