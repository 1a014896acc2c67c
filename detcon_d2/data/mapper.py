"""From a record to the sample that the model gets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detcon_d2 import d2
from detcon_d2.data.label_maps import LabelMapSource
from detcon_d2.data.reading import reading_from_config
from detcon_d2.io.images import PLAIN, Reading
from detcon_d2.io.names import printable
from detcon_d2.io.tiles import read_record, record_name
from detcon_d2.masks.generators.registry import build_generator
from detcon_d2.views.position import Stream, position_rng
from detcon_d2.views.samplers import SampleMaker


@dataclass(frozen=True)
class PretrainingMapper:
    """Reads an image and, where the method wants them, its regions, and lets the method's sample maker do the rest.

    It is a pure function of record and position: workers and processes share nothing.

    Attributes:
        samples: makes the sample of an image.
        label_maps: the regions of a record; None where the samples need none.
        fast: whether to read images by the fast reader, which decodes JPEGs to 8 bits with a slightly different rounding.
        reading: how images are read.
    """

    samples: SampleMaker
    label_maps: LabelMapSource | None
    fast: bool
    reading: Reading = PLAIN

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode", samples: SampleMaker) -> "PretrainingMapper":
        """Reads DETCON.MASKS, DETCON.DATA, DETCON.AUG.MODE and SEED.

        Raises ValueError for values outside their ranges, with key, found and expected.
        """
        masks = cfg.DETCON.MASKS
        if cfg.INPUT.FORMAT != "RGB":
            raise ValueError(f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}; expected 'RGB', the order of the views and of MODEL.PIXEL_MEAN.")
        label_maps = None
        if samples.needs_label_map:
            grid = build_generator("grid", size=masks.GRID) if masks.SOURCE == "grid" else None
            label_maps = LabelMapSource(grid, masks.LAYER, cfg.SEED)
        return cls(samples, label_maps, fast=cfg.DETCON.AUG.MODE == "fast", reading=reading_from_config(cfg))

    def read(self, record: dict, position: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Image or tile uint8 (H, W, 3) RGB and label map uint16 (H, W) at a position of the run; None where the samples need none.

        Raises:
            ImageReadError: naming an image that cannot be read.
            ValueError: a label map of another size.
        """
        image = read_record(record, self.reading, fast=self.fast)
        return image, self.label_maps(record, image, position) if self.label_maps else None

    def __call__(self, record: dict, position: int) -> dict:
        """The sample of one image at one position of the run.

        Args:
            record: dataset dict with ``file_name``, ``image_id`` and, for regions from files, ``label_map_file_name``; for samples with a
                partner or frames, that of :class:`Companions`. It is not changed.
            position: k >= 0.

        Returns:
            What the sample maker returns (``views``, a list of dicts), with ``file_name`` (and the name of the tile), ``image_id``,
            ``width`` and ``height`` of the image or tile in pixels, ``position``, ``index`` of the record, and ``label`` where it has one.
        """
        image, label_map = self.read(record, position)
        height, width = image.shape[:2]
        partner = (read_record(record["partner"], self.reading, fast=self.fast),) if self.samples.needs_partner else ()
        others = [read_record(one, self.reading, fast=self.fast) for one in record["frames"][1:]] if self.samples.needs_frames else []
        frames = {"frames": [image, *others]} if self.samples.needs_frames else {}
        sample = self.samples(image, label_map, position, *partner, **frames) | {"width": width, "height": height, "position": position}
        sample["file_name"] = record_name(record)
        if partner and "label" in record["partner"]:
            sample["partner_label"] = record["partner"]["label"]
        return sample | {key: record[key] for key in ("image_id", "label", "index") if key in record}


class Companions:
    """The other images that come with an image at one position of a run: a partner, or frames of its clip.

    Every call takes the next random numbers, so that another image that takes the place of an unreadable one has companions of its own.
    """

    def __init__(self, samples: SampleMaker, seed: int, position: int, partners: np.ndarray | None = None):
        """``samples`` says what is needed; ``seed`` and ``position`` >= 0; ``partners`` are those of :meth:`SampleMaker.partners`."""
        self._samples, self._partners = samples, partners
        self._partner_rng, self._frame_rng = (position_rng(seed, position, stream) for stream in (Stream.PARTNER, Stream.FRAMES))

    def __call__(self, records: Sequence[dict], index: int) -> dict:
        """A copy of the record ``index``, with ``partner``: a random other one of the partners (itself, if there is no other). Where frames
        are needed, it is that of a random frame of the clip, with ``frames``: it and those after it, n at equal random gaps."""
        record = records[index]
        if self._samples.needs_partner:
            record = record | {"partner": records[self._partner_of(index)]}
        if self._samples.needs_frames:
            frames = [records[one] for one in sample_frames(record["clip"], self._samples, self._frame_rng)]
            record = record | frames[0] | {"frames": frames}
        return record

    def _partner_of(self, index: int) -> int:
        place = int(np.searchsorted(self._partners, index))
        itself = place < len(self._partners) > 1 and self._partners[place] == index
        number = int(self._partner_rng.integers(len(self._partners) - itself))
        return int(self._partners[number + (itself and number >= place)])


def sample_frames(clip: tuple[int, int], samples: SampleMaker, rng: np.random.Generator) -> range:
    """The indices of ``samples.needs_frames`` frames of a clip at equal gaps: a uniform gap of those in ``samples.frame_gaps`` that fit
    into the clip, then a uniform start.

    Args:
        clip: index of its first frame, and the one after its last.
        samples: passed :func:`check_frames`.
        rng: of the stream FRAMES.
    """
    steps, (least, most) = samples.needs_frames - 1, samples.frame_gaps
    fits = (clip[1] - clip[0] - 1) // steps
    gap = int(rng.integers(least, min(most or fits, fits), endpoint=True))
    first = clip[0] + int(rng.integers(clip[1] - clip[0] - steps * gap))
    return range(first, first + steps * gap + 1, gap)


def check_frames(records: Sequence[dict], samples: SampleMaker) -> None:
    """Raise ValueError, with what was found, if the records cannot give the frames that the samples need."""
    if not samples.needs_frames:
        return
    least = (samples.needs_frames - 1) * samples.frame_gaps[0] + 1
    for record in records:
        if "clip" not in record:
            raise ValueError(
                f"DATASETS.TRAIN has images such as {printable(record['key'])}, which are no frames of a clip; expected clips alone, as "
                "the method looks at several frames of one: video:/path to folders of numbered frames."
            )
        if "tile" in record:
            raise ValueError("DETCON.DATA.TILES cuts frames into tiles; expected 0, as the method looks at several frames of a clip.")
        if (length := record["clip"][1] - record["clip"][0]) < least:
            raise ValueError(
                f"The clip of {printable(record['key'])} has {length} frames; expected at least {least}: {samples.needs_frames} at gaps of "
                f"{samples.frame_gaps[0]} or more. Remove the clip, extract more frames per second, or lower the least gap of the method."
            )
