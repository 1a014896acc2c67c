"""Configs by name, as in ``detectron2.model_zoo``. For checkpoints by name, ``detcon://``, see :mod:`detcon_d2.checkpoint.zoo`."""

from detcon_d2.model_zoo.model_zoo import find_config, get_config, get_config_file

__all__ = ["find_config", "get_config", "get_config_file"]
