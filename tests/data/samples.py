"""Mappers and loaders of a config without a model. With the default stride of 1 pixel, the cells of a view are its whole label map."""

from detcon_d2 import d2
from detcon_d2.data import PretrainingMapper, build_pretraining_loader, load_training_records
from detcon_d2.data.loader import BatchLoader
from detcon_d2.methods.odin import LearnedRegions
from detcon_d2.views.samplers import RegionViews


def samples_of(cfg: "d2.CfgNode", stride: int = 1) -> RegionViews:
    """What DetCon's models ask the loader for."""
    learned = LearnedRegions.build(cfg, {cfg.DETCON.IN_FEATURE: d2.ShapeSpec(channels=1, stride=1)})
    if learned is None:
        return RegionViews.from_config(cfg, stride)
    return RegionViews.from_config(cfg, None, whole_image=learned.whole_image_of_samples)


def mapper_of(cfg: "d2.CfgNode", stride: int = 1) -> PretrainingMapper:
    return PretrainingMapper.from_config(cfg, samples_of(cfg, stride))


def loader_of(cfg: "d2.CfgNode", records: list[dict] | None = None, stride: int = 1, **arguments: object) -> BatchLoader:
    records = load_training_records(cfg) if records is None else records
    return build_pretraining_loader(cfg, records, samples_of(cfg, stride), **arguments)
