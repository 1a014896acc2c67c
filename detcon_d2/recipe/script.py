"""The chain as a shell script that continues where it was stopped."""

import os
import shlex
import sys
from pathlib import Path

from detcon_d2.io.atomic import write_bytes_atomically
from detcon_d2.masks.command_lines import flag_of
from detcon_d2.masks.generators.base import RegionGenerator, write_value
from detcon_d2.quickstart.commands import PACKAGE_ROOT

_SCRIPT = """#!/bin/sh
# Written by detcon_d2 recipe. Usage: sh run.sh [SEED]; the default seed is 0. Run it again to continue: finished steps are skipped.
set -eu
cd {folder}
export PYTHONPATH={root}${{PYTHONPATH:+:$PYTHONPATH}}
seed=${{1:-0}}
out=seed_$seed
python=${{PYTHON:-{python}}}
detcon_d2() {{ echo "\\$ detcon_d2 $*"; "$python" -m detcon_d2 "$@"; }}

# Label maps, once for all seeds
{masks}
[ -f views.png ] || detcon_d2 visualize_views --config-file pretrain.yaml --output views.png

# Pretraining, and its encoder as a backbone of Detectron2
[ -f "$out/pretrain/model_final.pth" ] || detcon_d2 train_net --config-file pretrain.yaml --resume SEED "$seed" OUTPUT_DIR "$out/pretrain"
[ -f "$out/backbone.pth" ] || detcon_d2 convert_to_d2 "$out/pretrain/model_final.pth" "$out/backbone.pth"
"""
_DETECTOR = """
# The same detector from random weights and from the pretrained ones
for weights in random pretrained; do
    file=
    [ $weights = random ] || file=$out/backbone.pth
    [ -f "$out/$weights/results.json" ] || detcon_d2 train_net --config-file detector.yaml --resume \\
        MODEL.WEIGHTS "$file" SEED "$seed" OUTPUT_DIR "$out/$weights"
done
detcon_d2 recipe --results .
"""


def write_script(folder: Path, spec: str, generator: RegionGenerator, workers: int, detector: bool) -> str:
    """Write ``run.sh``; returns its text. The label maps go to ``masks`` in the folder."""
    flags = [word for name, value in generator.params().items() for word in (flag_of(generator.name, name), write_value(value))]
    words = ["generate_masks", spec, "masks", "--generator", generator.name, *flags, "--workers", str(workers)]
    text = _SCRIPT.format(
        folder=shlex.quote(os.path.abspath(folder)),
        root=shlex.quote(str(PACKAGE_ROOT)),
        python=shlex.quote(sys.executable),
        masks=f"[ -f masks.finished ] || {{ detcon_d2 {shlex.join(words)}; touch masks.finished; }}",
    )
    text += _DETECTOR if detector else ""
    write_bytes_atomically(folder / "run.sh", text.encode())
    return text
