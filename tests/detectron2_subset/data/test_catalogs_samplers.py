"""Catalogs, lists as data sets, samplers and filtered records behave as documented on both backends."""

import itertools
import random

import numpy as np
import pytest
import torch

NAME = "detcon_test_set"


@pytest.fixture
def data(backend):
    """The module data; afterwards both catalogs forget the names of the tests."""
    data = backend.get("data")
    yield data
    for catalog in (data.DatasetCatalog, data.MetadataCatalog):
        for name in (NAME, NAME + "_2"):
            catalog.pop(name, None)


def test_data_sets_are_registered_loaded_and_removed_by_name(data):
    data.DatasetCatalog.register(NAME, lambda: [{"file_name": "a"}])
    assert data.DatasetCatalog.get(NAME) == [{"file_name": "a"}]
    assert NAME in data.DatasetCatalog and NAME in data.DatasetCatalog.list()
    for name, function in ((NAME, lambda: []), ("not_a_function", [])):
        with pytest.raises(AssertionError):
            data.DatasetCatalog.register(name, function)
    data.DatasetCatalog.remove(NAME)
    with pytest.raises(KeyError, match=NAME):
        data.DatasetCatalog.get(NAME)


def test_metadata_are_set_once_and_read_like_attributes_or_a_dict(data):
    metadata = data.MetadataCatalog.get(NAME).set(a=1)
    metadata.thing_classes = ["cat"]
    metadata.thing_classes = ["cat"]
    assert data.MetadataCatalog.get(NAME) is metadata and NAME in data.MetadataCatalog.list()
    assert metadata.as_dict() == {"name": NAME, "a": 1, "thing_classes": ["cat"]}
    assert metadata.get("a") == 1 and metadata.get("c", 5) == 5
    with pytest.raises(AssertionError):
        metadata.thing_classes = ["dog"]
    with pytest.raises(AttributeError, match="stuff_classes"):
        _ = metadata.stuff_classes


@pytest.mark.parametrize("serialize", [True, False])
def test_items_of_a_list_are_copies(data, serialize):
    source = [{"ids": [i]} for i in range(4)]
    items = data.DatasetFromList(source, serialize=serialize)
    assert len(items) == 4 and [items[i] for i in range(4)] == source and items[-1] == source[-1]
    items[0]["ids"].append(9)
    assert items[0] == source[0] == {"ids": [0]}
    with pytest.raises(IndexError):
        items[4]


def take(sampler, count):
    return list(itertools.islice(iter(sampler), count))


def as_process(backend, monkeypatch, rank: int, world_size: int) -> None:
    comm = backend.get("utils.comm")
    monkeypatch.setattr(comm, "get_rank", lambda: rank)
    monkeypatch.setattr(comm, "get_world_size", lambda: world_size)


def test_training_runs_through_all_indices_and_processes_share_one_stream(backend, monkeypatch):
    sampler = backend.get("data.samplers").TrainingSampler
    whole = take(sampler(7, seed=3), 42)
    assert all(sorted(whole[start : start + 7]) == list(range(7)) for start in range(0, 42, 7)) and whole[:7] != whole[7:14]
    for rank in range(3):
        as_process(backend, monkeypatch, rank, 3)
        assert take(sampler(7, seed=3), 14) == whole[rank::3]
    for size, error in ((0, ValueError), (5.0, TypeError)):
        with pytest.raises(error):
            sampler(size)


@pytest.mark.parametrize(("size", "world_size"), [(10, 3), (2, 4), (8, 4)])
def test_inference_shares_are_consecutive_and_disjoint(backend, monkeypatch, size, world_size):
    shares = []
    for rank in range(world_size):
        as_process(backend, monkeypatch, rank, world_size)
        sampler = backend.get("data.samplers").InferenceSampler(size)
        shares.append(list(sampler))
        assert len(sampler) == len(shares[-1])
    assert list(itertools.chain(*shares)) == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1 and len(shares[0]) == max(map(len, shares))


def test_one_seed_gives_the_same_indices_and_worker_seeds_on_both_backends(subset, real):
    results = []
    for one in (subset, real):
        np.random.seed(0)
        streams = [take(one.get("data.samplers").TrainingSampler(1000, seed=seed), 2500) for seed in (11, None)]
        torch.manual_seed(5)
        one.get("data.build").worker_init_reset_seed(3)
        results.append((streams, random.random(), np.random.rand(), torch.rand(()).item()))
    assert results[0] == results[1]


def annotated(*crowd: int) -> dict:
    return {"annotations": [{"iscrowd": value, "category_id": 0} for value in crowd]}


def test_images_without_usable_annotations_are_filtered_on_request(data):
    data.DatasetCatalog.register(NAME, lambda: [annotated(0, 1), annotated(), annotated(1)])
    data.DatasetCatalog.register(NAME + "_2", lambda: [{"file_name": "a"}, {"file_name": "b"}])
    data.MetadataCatalog.get(NAME).thing_classes = ["cat"]
    assert data.get_detection_dataset_dicts(NAME) == [annotated(0, 1)]
    assert len(data.get_detection_dataset_dicts([NAME], filter_empty=False)) == 3
    assert len(data.get_detection_dataset_dicts(NAME + "_2")) == 2, "records without annotations are not filtered"


def test_data_sets_must_exist_have_images_and_agree_in_their_classes(data):
    contents = {NAME: []}
    data.DatasetCatalog.register(NAME, lambda: contents[NAME])
    with pytest.raises(KeyError):
        data.get_detection_dataset_dicts("no_such_set")
    for contents[NAME] in ([], [annotated(1)]):
        with pytest.raises(AssertionError):
            data.get_detection_dataset_dicts(NAME)
    data.DatasetCatalog.register(NAME + "_2", lambda: [annotated(0)])
    data.MetadataCatalog.get(NAME).thing_classes, data.MetadataCatalog.get(NAME + "_2").thing_classes = ["cat"], ["dog"]
    with pytest.raises(ValueError, match="thing_classes"):
        data.get_detection_dataset_dicts([NAME, NAME + "_2"], filter_empty=False)
