"""Images to label maps, on disk and back. Imports neither torch nor Detectron2, so that worker processes start fast."""

from detcon_d2.io.images import ImageReadError, read_image
from detcon_d2.io.specs import is_dataset_spec, list_images
from detcon_d2.masks.cells import NO_REGION, label_map_to_cells
from detcon_d2.masks.generators.registry import REGION_GENERATOR_REGISTRY, build_generator, grid_label_map
from detcon_d2.masks.store.formats import create_store, open_store
from detcon_d2.masks.store.png import read_label_map
from detcon_d2.masks.store.png_folder import LabelMapStore

__all__ = ["NO_REGION", "REGION_GENERATOR_REGISTRY", "ImageReadError", "LabelMapStore", "build_generator", "create_store"]
__all__ += ["grid_label_map", "is_dataset_spec", "label_map_to_cells", "list_images", "open_store", "read_image", "read_label_map"]
