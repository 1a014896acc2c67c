"""Random seeds."""

import logging
import os
import random

import numpy as np
import torch


def seed_all_rng(seed: int | None = None) -> None:
    """Seed the global generators of Python, numpy and torch; None takes a seed from the operating system and logs it."""
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "little")
        logging.getLogger("detectron2.utils.env").info(f"Using a generated random seed {seed}")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    # Python reads this variable at start-up: it affects the processes that this one starts.
    os.environ["PYTHONHASHSEED"] = str(seed)
