"""From a record to the sample that the model gets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detcon_d2 import d2
from detcon_d2.data.label_maps import LabelMapSource
from detcon_d2.data.reading import reading_from_config
from detcon_d2.io.images import PLAIN, Reading
from detcon_d2.io.tiles import read_record, record_name
from detcon_d2.masks.generators.registry import build_generator
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
                partner, :func:`with_partner`'s. It is not changed.
            position: k >= 0.

        Returns:
            What the sample maker returns (``views``, a list of dicts), with ``file_name`` (and the name of the tile), ``image_id``,
            ``width`` and ``height`` of the image or tile in pixels, ``position``, ``index`` of the record, and ``label`` where it has one.
        """
        image, label_map = self.read(record, position)
        height, width = image.shape[:2]
        partner = (read_record(record["partner"], self.reading, fast=self.fast),) if self.samples.needs_partner else ()
        sample = self.samples(image, label_map, position, *partner) | {"width": width, "height": height, "position": position}
        sample["file_name"] = record_name(record)
        if partner and "label" in record["partner"]:
            sample["partner_label"] = record["partner"]["label"]
        return sample | {key: record[key] for key in ("image_id", "label", "index") if key in record}


def with_partner(records: Sequence[dict], index: int, rng: np.random.Generator, partners: np.ndarray) -> dict:
    """A copy of the record ``index`` with a random other one as ``partner``; itself, if there is no other.

    ``partners`` are the sorted indices of those that may be one; ``rng`` is of the stream PARTNER.
    """
    place = int(np.searchsorted(partners, index))
    itself = place < len(partners) and partners[place] == index and len(partners) > 1
    number = int(rng.integers(len(partners) - itself))
    return records[index] | {"partner": records[int(partners[number + (itself and number >= place)])]}
