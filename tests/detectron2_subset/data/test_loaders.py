"""Loaders batch, group and share images as documented on both backends, and alike."""

import itertools

import pytest

from tests.detectron2_subset.coco_dataset import assert_same_item, registered, same_seed, small_config, write_dataset

WIDE, HIGH = {"width": 4, "height": 3}, {"width": 3, "height": 4}


def as_it_is(record: dict) -> dict:
    return record


def numbered(*shapes: dict) -> list[dict]:
    return [{"image_id": index, **shape} for index, shape in enumerate(shapes)]


def first_ids(loader, count: int) -> list[list[int]]:
    return [[item["image_id"] for item in batch] for batch in itertools.islice(iter(loader), count)]


def train_loader(backend, records, total_batch_size, **options):
    sampler = backend.get("data.samplers").TrainingSampler(len(records), seed=3)
    options = {"mapper": as_it_is, "sampler": sampler, "num_workers": 0, **options}
    return backend.get("data").build_detection_train_loader(records, total_batch_size=total_batch_size, **options)


def test_wide_and_high_images_are_not_mixed_and_every_image_comes(backend):
    batches = first_ids(train_loader(backend, numbered(*[WIDE, HIGH] * 6), 3), 40)
    assert all(len({number % 2 for number in batch}) == 1 for batch in batches)
    assert set(itertools.chain(*batches)) == set(range(12))
    grouped = backend.get("data.common").AspectRatioGroupedDataset(numbered(HIGH, WIDE, HIGH, WIDE, {"width": 3, "height": 3}), 2)
    assert first_ids(grouped, 9) == [[0, 2], [1, 3]]
    # The square image waited, and belongs to those that are not wide.
    assert first_ids(grouped, 1) == [[4, 0]]


def test_without_grouping_an_epoch_has_every_image_once_with_any_number_of_workers(backend):
    batches = [first_ids(train_loader(backend, numbered(*[WIDE] * 12), 3, aspect_ratio_grouping=False, num_workers=n), 6) for n in (0, 2)]
    assert batches[0] == batches[1] and sorted(itertools.chain(*batches[0][:4])) == list(range(12))


def test_the_batch_is_divided_among_processes(backend, monkeypatch):
    monkeypatch.setattr(backend.get("data.build"), "get_world_size", lambda: 2)
    records = numbered(*[WIDE] * 6)
    assert len(first_ids(train_loader(backend, records, 6), 1)[0]) == 3
    for size in (5, 0):
        with pytest.raises(AssertionError, match=f"batch size \\({size}\\)"):
            train_loader(backend, records, size)


def test_test_loaders_give_every_image_once_and_alone(backend):
    loader = backend.get("data").build_detection_test_loader(numbered(*[WIDE] * 5), mapper=as_it_is)
    assert len(loader) == 5 and first_ids(loader, 9) == [[0], [1], [2], [3], [4]]


LOADERS = [
    {},
    {"aspect_ratio_grouping": False, "num_workers": 2, "config": ["INPUT.MASK_FORMAT", "bitmask"]},
    {"num_workers": 2, "config": ["INPUT.CROP.ENABLED", True]},
]


@pytest.mark.parametrize("options", LOADERS)
@pytest.mark.parametrize("photographs", [False, True])
def test_both_backends_give_the_same_training_batches(subset, real, tmp_path, request, options, photographs):
    folder = request.getfixturevalue("shared_dir") / "data" / "coco_subset" if photographs else tmp_path
    path, images = (folder / "instances.json", folder / "images") if photographs else (write_dataset(tmp_path), tmp_path)

    def items(backend) -> list[dict]:
        mapper = backend.get("data").DatasetMapper(small_config(backend, *options.get("config", [])), True)
        with registered(backend, path, images):
            records = backend.get("data").get_detection_dataset_dicts("detcon_test_coco_dataset")
        kwargs = {key: value for key, value in options.items() if key != "config"}
        return list(itertools.chain(*itertools.islice(iter(train_loader(backend, records, 2, mapper=mapper, **kwargs)), 6)))

    pairs = same_seed(subset, real, items)
    assert len(pairs) == 12 and sum(assert_same_item(*pair) for pair in pairs) > 12
