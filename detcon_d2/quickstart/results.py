"""Scalars of a run, read back from the ``metrics.json`` of Detectron2's JSONWriter."""

import json
import math
from collections import defaultdict
from pathlib import Path

from detcon_d2.io.charts import Points


def read_series(path: str | Path) -> dict[str, Points]:
    """Every finite scalar of a ``metrics.json``, by name.

    A resumed run writes some iterations again: the last line written counts. Lines that a kill cut short are skipped.

    Raises:
        ValueError: no line can be read; names the file and what was expected.
    """
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        row = _parse(line)
        for name, value in row.items():
            if name != "iteration" and isinstance(value, int | float) and math.isfinite(value):
                values[name][row["iteration"]] = float(value)
    if not values:
        raise ValueError(f"{path}: found no line with figures; expected JSON lines with an iteration each, as training writes them.")
    return {name: sorted(points.items()) for name, points in values.items()}


def _parse(line: str) -> dict:
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) and isinstance(row.get("iteration"), int) else {}
