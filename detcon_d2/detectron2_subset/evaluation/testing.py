"""Results of an evaluation: nested dicts of numbers, task -> metric -> score."""

import logging
from collections.abc import Mapping
from typing import Any

_logger = logging.getLogger("detectron2.evaluation.testing")


def print_csv_format(results: Mapping[str, Mapping[str, float]]) -> None:
    """Log the main metrics of each task as comma-separated values, without the metrics of single categories (names with a "-")."""
    for task, metrics in results.items():
        main = {name: value for name, value in metrics.items() if "-" not in name}
        _logger.info(f"copypaste: Task: {task}")
        _logger.info(f"copypaste: {','.join(main)}")
        _logger.info(f"copypaste: {','.join(f'{value:.4f}' for value in main.values())}")


def flatten_results_dict(results: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a": {"b": 1}}`` -> ``{"a/b": 1}``, at every depth."""
    flat = {}
    for key, value in results.items():
        inner = flatten_results_dict(value) if isinstance(value, Mapping) else None
        flat.update({key: value} if inner is None else {f"{key}/{name}": number for name, number in inner.items()})
    return flat
