"""Loaders batch, shuffle, group and share as documented on every backend present, and alike on both."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from tests.detectron2_subset.detections import NAME, assert_same_item, registered, same_draws, small_config, write_data_set

WIDE, HIGH = {"width": 4, "height": 3}, {"width": 3, "height": 4}


@pytest.fixture
def data(backend):
    return backend.get("data")


@pytest.fixture
def data_set(backend, tmp_path):
    with registered(backend, write_data_set(tmp_path)) as name:
        yield name


def as_it_is(record: dict) -> dict:
    return record


def numbered(*shapes: dict) -> list[dict]:
    return [{"image_id": index, **shape} for index, shape in enumerate(shapes)]


def first_ids(loader, count: int) -> list[list[int]]:
    return [[item["image_id"] for item in batch] for batch in itertools.islice(iter(loader), count)]


def in_order(backend, size: int):
    return backend.get("data.samplers").TrainingSampler(size, shuffle=False)


def test_training_batches_come_from_the_config(backend, data, data_set):
    batches = list(itertools.islice(iter(data.build_detection_train_loader(small_config(backend))), 6))
    assert all(len(batch) == 2 for batch in batches)
    assert all(len({item["width"] > item["height"] for item in batch}) == 1 for batch in batches)
    assert all(item["image"].dtype == torch.uint8 and len(item["instances"]) > 0 for batch in batches for item in batch)


def test_an_epoch_shows_every_image_once(backend, data, data_set):
    loader = data.build_detection_train_loader(small_config(backend, "DATALOADER.ASPECT_RATIO_GROUPING", False), mapper=as_it_is)
    assert sorted(itertools.chain(*first_ids(loader, 4))) == list(range(8))


def test_arguments_replace_the_config(backend, data):
    records = numbered(*[WIDE] * 6)
    loader = data.build_detection_train_loader(small_config(backend), mapper=as_it_is, dataset=records, total_batch_size=3)
    assert all(len(batch) == 3 for batch in first_ids(loader, 2))
    plain = data.build_detection_train_loader(records, mapper=None, sampler=in_order(backend, 6), total_batch_size=2)
    assert first_ids(plain, 4) == [[0, 1], [2, 3], [4, 5], [0, 1]]


def test_the_seed_of_the_config_fixes_the_order(backend, data):
    records = numbered(*[WIDE] * 20)

    def order(seed: int) -> list[list[int]]:
        return first_ids(data.build_detection_train_loader(small_config(backend, "SEED", seed), mapper=as_it_is, dataset=records), 10)

    assert order(3) == order(3) != order(4)


def test_wide_and_high_images_are_not_mixed(backend):
    grouped = backend.get("data.common").AspectRatioGroupedDataset(numbered(HIGH, WIDE, HIGH, WIDE, {"width": 3, "height": 3}), 2)
    assert first_ids(grouped, 9) == [[0, 2], [1, 3]]
    # The square one waited and goes with those that are not wide.
    assert first_ids(grouped, 1) == [[4, 0]]


@pytest.mark.parametrize(("chunk", "expected"), [(1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 1, 3, 4, 6])])
def test_workers_take_turns(backend, data, chunk, expected):
    items = data.ToIterableDataset(list(range(8)), in_order(backend, 8), shard_chunk_size=chunk)
    assert list(itertools.islice(iter(DataLoader(items, batch_size=None, num_workers=2)), 6)) == expected


def test_a_sharded_sampler_is_left_alone(backend, data):
    items = data.ToIterableDataset(list(range(4)), in_order(backend, 4), shard_sampler=False)
    assert list(itertools.islice(iter(DataLoader(items, batch_size=None, num_workers=2)), 6)) == [0, 0, 1, 1, 2, 2]


def test_iterable_data_sets_are_made_of_map_style_ones_and_samplers(backend, data):
    with pytest.raises(AssertionError):
        data.ToIterableDataset([1, 2], [0, 1])
    items = data.ToIterableDataset([1, 2], in_order(backend, 2))
    with pytest.raises(AssertionError):
        data.ToIterableDataset(items, in_order(backend, 2))


def test_batches_do_not_depend_on_the_number_of_workers(backend, data):
    records = numbered(*[WIDE] * 12)

    def batches(workers: int) -> list[list[int]]:
        loader = data.build_detection_train_loader(
            records,
            mapper=as_it_is,
            sampler=in_order(backend, 12),
            total_batch_size=3,
            aspect_ratio_grouping=False,
            num_workers=workers,
        )
        return first_ids(loader, 5)

    assert batches(0) == batches(2) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11], [0, 1, 2]]


def test_the_batch_is_divided_among_processes(backend, data, monkeypatch):
    build = backend.get("data.build")
    monkeypatch.setattr(build, "get_world_size", lambda: 2)
    records = numbered(*[WIDE] * 6)
    assert len(first_ids(data.build_detection_train_loader(records, mapper=as_it_is, total_batch_size=6), 1)[0]) == 3
    for size in (5, 0):
        with pytest.raises(AssertionError, match=f"batch size \\({size}\\)"):
            data.build_detection_train_loader(records, mapper=as_it_is, total_batch_size=size)


def test_batches_can_be_collated(backend, data):
    records = numbered(*[WIDE] * 4)
    loader = data.build_detection_train_loader(
        records, mapper=as_it_is, sampler=in_order(backend, 4), total_batch_size=2, aspect_ratio_grouping=False, collate_fn=len
    )
    assert next(iter(loader)) == 2
    assert list(data.build_detection_test_loader(records, mapper=as_it_is, batch_size=3, collate_fn=len)) == [3, 1]


def test_records_that_the_mapper_leaves_out_are_replaced(backend, data):
    loader = data.build_detection_train_loader(
        numbered(*[WIDE] * 9), mapper=lambda record: record if record["image_id"] % 3 else None, total_batch_size=3
    )
    assert all(number % 3 for batch in first_ids(loader, 6) for number in batch)


def test_a_mapped_data_set_travels_to_other_processes(data):
    mapped = pickle.loads(pickle.dumps(data.MapDataset(data.DatasetFromList([1, 2]), str)))
    assert [mapped[0], mapped[1]] == ["1", "2"]


def test_test_loaders_give_every_image_once_and_alone(backend, data, data_set):
    loader = data.build_detection_test_loader(small_config(backend), NAME)
    batches = list(loader)
    assert len(loader) == 8 and [item["image_id"] for (item,) in batches] == list(range(8))
    assert all("instances" not in item and min(item["image"].shape[1:]) <= 48 for (item,) in batches)
    assert [len(batch) for batch in data.build_detection_test_loader(numbered(*[WIDE] * 5), mapper=as_it_is, batch_size=2)] == [2, 2, 1]


def test_test_loaders_keep_images_without_annotations(backend, data):
    data.DatasetCatalog.register(NAME, lambda: [{"file_name": "a", "annotations": []}, {"file_name": "b", "annotations": []}])
    try:
        assert len(data.build_detection_test_loader(small_config(backend), [NAME], mapper=as_it_is)) == 2
        with pytest.raises(AssertionError, match="No valid data"):
            data.build_detection_train_loader(small_config(backend))
        assert len(data.get_detection_dataset_dicts(NAME, filter_empty=False)) == 2
    finally:
        data.DatasetCatalog.remove(NAME)


def test_unknown_samplers_are_refused(backend, data, data_set):
    with pytest.raises(ValueError, match="NoSuchSampler"):
        data.build_detection_train_loader(small_config(backend, "DATALOADER.SAMPLER_TRAIN", "NoSuchSampler"))


def test_rare_classes_are_repeated(backend):
    sampler = backend.get("data.samplers").RepeatFactorTrainingSampler
    records = [{"annotations": [{"category_id": category} for category in one]} for one in ([0, 1], [0], [0], [], [0, 2, 2])]
    factors = sampler.repeat_factors_from_category_frequency(records, 0.5)
    assert factors.tolist() == pytest.approx([2.5**0.5, 1, 1, 1, 2.5**0.5])
    assert sampler.repeat_factors_from_category_frequency(records, 0.5, sqrt=False).tolist() == [2.5, 1, 1, 1, 2.5]


def test_an_epoch_holds_indices_as_often_as_their_factor_says(backend):
    sampler = backend.get("data.samplers").RepeatFactorTrainingSampler(torch.tensor([1.0, 2.25, 0.0]), shuffle=False, seed=0)
    stream = list(itertools.islice(iter(sampler), 13000))
    assert 2 not in stream and stream.count(1) / stream.count(0) == pytest.approx(2.25, abs=0.05)


def histogram(backend, log_lines, names: list[str]) -> list[str]:
    lines = log_lines("detectron2.data.build")
    annotations = [{"category_id": 0}, {"category_id": 0, "iscrowd": 1}, {"category_id": len(names) - 1, "iscrowd": 0}]
    for _ in range(2):
        backend.get("data.build").print_instances_class_histogram([{"annotations": annotations}], names)
    return lines


def test_the_histogram_of_classes_is_logged_once_and_without_crowds(backend, log_lines):
    (line,) = histogram(backend, log_lines, [f"the zebra of {backend.name}", "b"])
    assert "all 2 categories" in line
    assert [cell.strip() for cell in line.splitlines()[3].split("|")][1:5] == ["the zebra o..", "1", "b", "1"]


def test_categories_without_a_name_are_refused(backend):
    with pytest.raises(AssertionError, match="2 classes"):
        backend.get("data.build").print_instances_class_histogram([{"annotations": [{"category_id": 5}]}], ["a", "b"])


@pytest.mark.parametrize("count", [2, 3, 4, 11])
def test_both_backends_print_the_same_histogram(subset, real, log_lines, count):
    names = [f"a class of {count} with a long name, {index}"[index:] for index in range(count)]
    (ours,) = histogram(subset, log_lines, names)
    (theirs,) = histogram(real, log_lines, names)
    assert ours == theirs


def test_both_backends_repeat_alike_for_the_same_seed(subset, real):
    factors = torch.rand(50, generator=torch.Generator().manual_seed(0)) * 3
    streams = [
        list(itertools.islice(iter(one.get("data.samplers").RepeatFactorTrainingSampler(factors, seed=7)), 500)) for one in (subset, real)
    ]
    assert streams[0] == streams[1]


LOADERS = [
    [],
    ["SEED", 4, "INPUT.CROP.ENABLED", True],
    ["DATALOADER.ASPECT_RATIO_GROUPING", False, "DATALOADER.NUM_WORKERS", 2, "INPUT.MASK_FORMAT", "bitmask"],
    ["DATALOADER.NUM_WORKERS", 2],
    ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "DATALOADER.REPEAT_THRESHOLD", 2.0, "MODEL.MASK_ON", False],
]


def training_items(backend, options: list, count: int) -> list[dict]:
    loader = backend.get("data").build_detection_train_loader(small_config(backend, *options))
    return list(itertools.chain(*itertools.islice(iter(loader), count)))


@pytest.mark.parametrize("options", LOADERS)
def test_both_backends_give_the_same_training_batches(subset, real, tmp_path, options):
    path = write_data_set(tmp_path)
    with registered(subset, path), registered(real, path):
        pairs = same_draws(subset, real, lambda one: training_items(one, options, 6))
    assert len(pairs) == 12 and sum(assert_same_item(*pair) for pair in pairs) > 12


def test_both_backends_give_the_same_test_images(subset, real, tmp_path):
    path = write_data_set(tmp_path)
    with registered(subset, path), registered(real, path):
        pairs = same_draws(
            subset, real, lambda one: [item for (item,) in one.get("data").build_detection_test_loader(small_config(one), NAME)]
        )
    assert len(pairs) == 8
    for pair in pairs:
        assert_same_item(*pair)


def test_both_backends_give_the_same_training_batches_of_real_images(subset, real, shared_dir):
    folder = shared_dir / "data" / "coco_subset"
    path, images = str(folder / "instances.json"), folder / "images"
    with registered(subset, path, images), registered(real, path, images):
        pairs = same_draws(subset, real, lambda one: training_items(one, ["INPUT.MIN_SIZE_TRAIN", (160, 192)], 8))
    assert sum(assert_same_item(*pair) for pair in pairs) > 30


def test_one_random_number_seeds_a_sampler_without_a_seed_on_both_backends(subset, real):
    draws = []
    for one in (subset, real):
        np.random.seed(0)
        loader = one.get("data").build_detection_train_loader(numbered(*[WIDE] * 9), mapper=as_it_is, total_batch_size=3)
        draws.append((first_ids(loader, 4), np.random.rand()))
    assert draws[0] == draws[1]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(numbered(WIDE))


def test_the_subset_says_which_loaders_it_lacks(subset):
    data = subset.get("data")
    for build in (data.build_detection_test_loader, lambda *a, **k: data.build_detection_train_loader(*a, total_batch_size=1, **k)):
        with pytest.raises(NotImplementedError, match="install detectron2"):
            build(Stream(), mapper=as_it_is)
    with pytest.raises(NotImplementedError, match="install detectron2"):
        data.build_detection_train_loader(numbered(WIDE), mapper=as_it_is, total_batch_size=1, collate_fn=len)
