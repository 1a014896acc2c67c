"""Images to label maps, on disk and back. Imports neither torch nor Detectron2, so that worker processes stay light."""

from detcon_d2.io.images import ImageReadError, read_image
from detcon_d2.io.specs import is_source_spec, list_images
from detcon_d2.masks.cells import NO_REGION, ids_from_draws, label_map_to_cells
from detcon_d2.masks.generators.registry import REGION_GENERATOR_REGISTRY, build_generator, grid_label_map
from detcon_d2.masks.store.storage import LabelMapStore, read_label_map
from detcon_d2.masks.store.stores import open_store

__all__ = [
    "NO_REGION",
    "REGION_GENERATOR_REGISTRY",
    "ImageReadError",
    "LabelMapStore",
    "build_generator",
    "grid_label_map",
    "ids_from_draws",
    "is_source_spec",
    "label_map_to_cells",
    "list_images",
    "open_store",
    "read_image",
    "read_label_map",
]
