"""The global random number generators: kept while something must not move them, and saved with checkpoints for an exact resume."""

import logging
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from detcon_d2 import d2

logger = logging.getLogger(__name__)

States = dict[str, torch.Tensor]


def generator_states() -> States:
    """The states of torch's, numpy's and Python's global generators, and of the current CUDA device's if CUDA is in use."""
    _, keys, position, has_normal, normal = np.random.get_state()
    _, internal, normal_of_python = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        # float64 holds their 32-bit words exactly.
        "numpy": torch.tensor([*keys.tolist(), position, has_normal, normal], dtype=torch.float64),
        "python": torch.tensor([*internal, math.nan if normal_of_python is None else normal_of_python], dtype=torch.float64),
        **({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {}),
    }


def set_generator_states(states: States) -> None:
    """Restore what :func:`generator_states` returned."""
    torch.set_rng_state(states["torch"])
    *keys, position, has_normal, normal = states["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), int(position), int(has_normal), normal))
    *internal, normal_of_python = states["python"].tolist()
    random.setstate((3, tuple(map(int, internal)), None if math.isnan(normal_of_python) else normal_of_python))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


@contextmanager
def kept_generators() -> Iterator[None]:
    """What happens inside does not move the generators."""
    states = generator_states()
    try:
        yield
    finally:
        set_generator_states(states)


class GeneratorsHook(d2.HookBase):
    """Collects the generators of all processes before a checkpoint is saved; it comes before the checkpointer, in every process.

    A checkpoint that is saved at another time does not have them.
    """

    def __init__(self, period: int):
        """
        Args:
            period: iterations between checkpoints; 0: only the last iteration and those of signals.
        """
        self._period = period
        self._collected: dict[str, Any] = {}
        self._found: list[dict[str, Any]] = []

    def after_step(self) -> None:
        """Collect if a checkpoint of this iteration follows."""
        done = self.trainer.iter + 1
        if self.trainer.stop_agreed or done == self.trainer.max_iter or (self._period > 0 and done % self._period == 0):
            own = {"generators": generator_states(), "waiting": self.trainer.waiting_states()}
            self._collected = {"iteration": self.trainer.iter, "processes": d2.comm.all_gather(own)}

    def resumed_state(self) -> dict[str, Any] | None:
        """``generators`` and ``waiting`` of this process in the resumed checkpoint; None, which is logged, if it does not have them."""
        if len(self._found) == d2.comm.get_world_size():
            return self._found[d2.comm.get_rank()]
        logger.warning(
            "The checkpoint has the random number generators of %d processes, and this run %d: flips and sampled proposals start anew.",
            *(len(self._found), d2.comm.get_world_size()),
        )
        return None

    def state_dict(self) -> dict[str, Any]:
        """What was collected in this iteration."""
        return self._collected if self._collected.get("iteration") == self.trainer.iter else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep what a checkpoint has."""
        self._found = state["processes"]
