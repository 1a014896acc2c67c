"""The config in a checkpoint: a resumed run reports every key that has changed, and refuses those that make it another run."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from detcon_d2 import d2
from detcon_d2.checkpoint.metadata import refused_resume

logger = logging.getLogger(__name__)

_MAY_CHANGE = (
    # Where things are, on what they run, and what is observed. All other keys, also those of later versions, must stay. The metadata
    # compares the images themselves, so their folders may move.
    *("VERSION", "OUTPUT_DIR", "VIS_PERIOD", "TEST", "MODEL.WEIGHTS", "MODEL.DEVICE", "CUDNN_BENCHMARK", "DATASETS", "DETCON.MASKS.ROOTS"),
    *("DATALOADER.NUM_WORKERS", "DETCON.LOADER_TIMEOUT", "DETCON.ON_BAD_IMAGE", "DETCON.CHANNELS_LAST", "DETCON.COMPILE"),
    *("SOLVER.CHECKPOINT_PERIOD", "DETCON.SOLVER.MAX_TO_KEEP", "DETCON.SOLVER.STRICT_RESUME", "DETCON.LOG_PERIOD", "DETCON.TEST"),
    *("DETCON.DATA.MAX_PIXELS", "DETCON.DATA.MAX_LEFT_OUT", "DETCON.CHECK_WEIGHTS", "DETCON.FINETUNE.PROTOCOL"),
)
"""Keys, or nodes of keys, that a resumed run may change."""
_SYNCHRONISED = ("BN", "SyncBN", "naiveSyncBN", "naiveSyncBN_N")
"""Norms that replace each other with the number of processes and the device."""


class RunConfig:
    """The checkpointable ``config``: the resolved config as YAML. Checkpoints of earlier versions do not have it."""

    def __init__(self, cfg: "d2.CfgNode"):
        """
        Args:
            cfg: resolved; with DETCON.SOLVER.STRICT_RESUME False no change is refused.
        """
        self._text = cfg.dump()
        self._strict = cfg.DETCON.SOLVER.STRICT_RESUME

    def state_dict(self) -> dict[str, str]:
        """The config, to be saved."""
        return {"yaml": self._text}

    def load_state_dict(self, found: Mapping[str, str]) -> None:
        """Compare with the config of the checkpoint. Keys that only one of them has are those of another version, and not compared.

        Raises:
            ValueError: listing each key that must stay fixed and does not, found and expected.
        """
        before, now = (dict(_leaves(yaml.safe_load(text))) for text in (found["yaml"], self._text))
        changed = [(key, before[key], now[key]) for key in now if key in before and not _is_same(before[key], now[key])]
        fixed = [change for change in changed if not _may_change(change[0])]
        if fixed and self._strict:
            raise refused_resume(fixed)
        for key, old, new in changed:
            logger.info("Changed since the checkpoint: %s %r -> %r.", key, old, new)


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def differing_settings(configs: Sequence[str]) -> dict[str, list[Any]]:
    """The keys that not all of the configs (YAML) have alike, each with its value in every one of them, None where it has none. Keys that
    a resumed run may change are left out: they say where and how a run was made."""
    known = [dict(_leaves(yaml.safe_load(text))) for text in configs]
    values = {key: [settings.get(key) for settings in known] for key in sorted(set().union(*known))}
    return {key: found for key, found in values.items() if not _may_change(key) and not all(_is_same(found[0], one) for one in found)}


def _may_change(key: str) -> bool:
    return f"{key}.".startswith(tuple(f"{node}." for node in _MAY_CHANGE))


def _is_same(before: Any, now: Any) -> bool:
    return before == now or (before in _SYNCHRONISED and now in _SYNCHRONISED)
