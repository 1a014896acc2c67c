"""Two processes that make the label maps of a folder, killed at random moments: ``killed_runs.py IMAGES OUTPUT FORMAT SEED KILLS``.

A process of its own, because it forks, which the tests' one with its threads cannot.
"""

import os
import random
import signal
import sys
import time

import cv2
import numpy as np

from detcon_d2.io.specs import list_images
from detcon_d2.masks.generate import generate
from detcon_d2.masks.generators.registry import GridRegions
from detcon_d2.masks.store.formats import create_store

# Of an image, at least.
SECONDS = 0.005


class SlowRegions(GridRegions):
    """A grid of a size that is drawn from the image's own randomness."""

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray:
        time.sleep(SECONDS)
        return GridRegions(size=int(rng.integers(1, 30)))(image, rng, record)


def run(images: str, output: str, file_format: str, part: tuple[int, int] | None = None) -> None:
    """Make what is missing, or a part of it."""
    spec = f"folder:{images}"
    store = create_store(output, SlowRegions(), spec, file_format, images_per_file=20)
    generate(list_images(spec), SlowRegions(), store, progress=False, part=part)


def start(*arguments: object) -> int:
    """The process id of a run. Only forked processes run: one that is killed could hold locks of libraries that this one uses."""
    child = os.fork()
    if child == 0:
        # A forked process has OpenCV's pool without its threads, and would wait for them.
        cv2.setNumThreads(1)
        run(*arguments)
        os._exit(0)
    return child


def run_to_the_end(*arguments: object) -> None:
    """Run without a kill."""
    status = os.waitpid(start(*arguments), 0)[1]
    assert status == 0, status


def main(images: str, output: str, file_format: str, seed: str, kills: str) -> None:
    """Prints how many images were done after each kill; ends with a run that is left alone."""
    draw = random.Random(int(seed))
    run_to_the_end(images, f"{output}_whole", file_format)
    store = create_store(output, SlowRegions(), f"folder:{images}", file_format, images_per_file=20)
    count, total = 0, len(list_images(f"folder:{images}"))
    for _ in range(int(kills)):
        children = [start(images, output, file_format, (index, 2)) for index in range(2)]
        # A kill follows progress, not the clock, so that it meets work in progress on a busy machine too.
        target = min(total, count + draw.randint(0, total // 4))
        while len(type(store)(output).keys()) < target:
            time.sleep(SECONDS)
        time.sleep(draw.uniform(0, 2 * SECONDS))
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        count = len(type(store)(output).keys())
        print(count, flush=True)
    run_to_the_end(images, output, file_format)


if __name__ == "__main__":
    main(*sys.argv[1:])
