"""Random seeds."""

import logging
import os
import random

import numpy as np
import torch


def seed_all_rng(seed: int | None = None) -> None:
    """Seed Python's, numpy's and torch's global generators with ``seed``; None draws a seed from the system and logs it."""
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "little")
        logging.getLogger("detectron2.utils.env").info(f"Using a generated random seed {seed}")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    # Seen by processes started from here on.
    os.environ["PYTHONHASHSEED"] = str(seed)
