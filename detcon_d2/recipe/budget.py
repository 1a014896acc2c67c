"""How long a step takes here, and what fits into the budget."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from detcon_d2.quickstart.commands import python_arguments, python_environ
from detcon_d2.quickstart.results import read_series
from detcon_d2.recipe.config import Choice

ITERATIONS = 12
"""Of a calibration; the first three are not counted."""
DETECTOR_BATCH = 8
"""Images per iteration of the detector."""
_KEPT = 0.9  # of the budget: machines are not equally fast all the time
_FINE_TUNING = 0.15  # of the budget at most, for each of the two detectors
_FEW_ITERATIONS, _EPOCHS = 300, 25
_MOST_EPOCHS = 1000.0


class Speed(NamedTuple):
    """Seconds of an iteration, and seconds that the command takes besides: starting, data sets, saving."""

    iteration: float
    start: float


class Plan(NamedTuple):
    """What fits: epochs of pretraining, iterations of the detector, and the seconds of each part by its name."""

    epochs: float
    iterations: int
    seconds: dict[str, float]


def calibration_words(config: str, folder: Path, options: Sequence[str] = ()) -> tuple[str, ...]:
    """The command line of the first iterations of a config: loader, step and all."""
    return (
        *("tools/train_net.py", "--config-file", config, "OUTPUT_DIR", str(folder), *options),
        *("SOLVER.MAX_ITER", str(ITERATIONS), "DETCON.SOLVER.EPOCHS", "0.0", "SOLVER.STEPS", "()", "SOLVER.CHECKPOINT_PERIOD", "0"),
        *("SOLVER.WARMUP_ITERS", "1", "DETCON.SOLVER.WARMUP_EPOCHS", "0.0", "DETCON.LOG_PERIOD", "1"),
        *("DETCON.HELD_OUT.DATASETS", "()"),
    )


def iteration_seconds(folder: Path) -> float:
    """Of a calibration that has finished."""
    return read_series(folder / "metrics.json")["time"][-1][1]


def calibrate(config: Path, folder: Path, options: Sequence[str] = ()) -> Speed:
    """Runs the first iterations of a config: loader, step and all. Raises ValueError, with the end of its output, if it fails."""
    words = python_arguments(calibration_words(str(config), folder, options))
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *words], env=python_environ(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"The calibration of {config} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    wall = time.perf_counter() - start
    iteration = iteration_seconds(folder)
    return Speed(iteration, max(wall - ITERATIONS * iteration, 0.0))


def plan(
    hours: float,
    images: int,
    batch: int,
    pretraining: Speed,
    masks: float,
    detector: Speed | None = None,
    labelled: int = 0,
    tested: int = 0,
) -> Plan:
    """Share the hours: masks first, then both detectors as long as they gain from it, and the rest for pretraining.

    Args:
        hours: of this machine.
        images: to pretrain on; ``batch`` of them in an iteration.
        pretraining, detector: speeds; None: no detector.
        masks: seconds for the label maps of all images.
        labelled, tested: images of the detector's training and test set.
    """
    total = hours * 3600 * _KEPT
    seconds, iterations = {"label maps": masks}, 0
    if detector is not None:
        wanted = max(_FEW_ITERATIONS, round(_EPOCHS * labelled / DETECTOR_BATCH))
        # An image of the test set costs about half of a training image, and PreciseBN's 20 batches a third.
        fixed = detector.start + (tested / DETECTOR_BATCH / 2 + 20 / 3) * detector.iteration
        iterations = max(min(wanted, int((_FINE_TUNING * total - fixed) / detector.iteration)), 20)
        for name in ("detector, random", "detector, pretrained"):
            seconds[name] = fixed + iterations * detector.iteration
    left = total - sum(seconds.values()) - pretraining.start
    epochs = left / pretraining.iteration * batch / images
    if epochs < 1:
        epoch = images / batch * pretraining.iteration
        needed = (total - left + 5 * epoch) / 3600 / _KEPT
        raise ValueError(
            f"{hours:g} hours leave {max(left, 0):.0f} s for pretraining, less than an epoch ({epoch:.0f} s); expected "
            f"at least {needed:.2f} hours, for 5 epochs."
        )
    epochs = float(min(_MOST_EPOCHS, int(epochs)))
    seconds["pretraining"] = pretraining.start + epochs * images / batch * pretraining.iteration
    return Plan(epochs, iterations, seconds)


def schedule_of_pretraining(epochs: float, images: int, batch: int, most: int, speed: str) -> list[Choice]:
    """Length, batch and rates; ``most`` is the batch where there are enough images."""
    steps = max(int(epochs * images / batch), 1)
    warmup = min(30, max(steps // 10, 1))
    return [
        Choice("SOLVER.IMS_PER_BATCH", batch, f"{images} images: at least four batches an epoch, at most {most} in a batch"),
        Choice("SOLVER.BASE_LR", 1e-3 * batch / most, f"AdamW, 1e-3 for a batch of {most}, in proportion for {batch}"),
        Choice("DETCON.SOLVER.EPOCHS", epochs, speed),
        Choice("DETCON.SOLVER.WARMUP_EPOCHS", round(warmup * batch / images, 4), f"{warmup} of {steps} iterations"),
        Choice("SOLVER.CHECKPOINT_PERIOD", max(steps // 10, 1), "ten times: what a stopped run loses at most"),
    ]


def schedule_of_detector(iterations: int, labelled: int, speed: str) -> list[Choice]:
    """Length and batch; the rate is that of the base."""
    steps = (iterations * 7 // 10, iterations * 9 // 10)
    return [
        Choice("SOLVER.IMS_PER_BATCH", DETECTOR_BATCH, "that of the learning rate"),
        Choice("SOLVER.MAX_ITER", iterations, f"{iterations * DETECTOR_BATCH / labelled:.0f} epochs of {labelled} images; {speed}"),
        Choice("SOLVER.STEPS", steps, "the learning rate drops at 70 and 90 %"),
        Choice("SOLVER.WARMUP_ITERS", min(50, max(iterations // 6, 1)), "a sixth, at most 50"),
        Choice("SOLVER.CHECKPOINT_PERIOD", max(iterations // 3, 1), "what a stopped run loses at most"),
    ]
