"""Catalogs, lists as data sets, samplers and records behave as documented on every backend present, and alike on both."""

import itertools
import random

import numpy as np
import pytest
import torch


@pytest.fixture
def data(backend):
    return backend.get("data")


@pytest.fixture
def name(data):
    """A data set name that is free, and forgotten afterwards."""
    yield "detcon_test_set"
    for catalog in (data.DatasetCatalog, data.MetadataCatalog):
        catalog.pop("detcon_test_set", None)


def test_registered_data_sets_are_loaded_by_name(data, name):
    data.DatasetCatalog.register(name, lambda: [{"file_name": "a"}])
    assert data.DatasetCatalog.get(name) == [{"file_name": "a"}]
    assert name in data.DatasetCatalog and name in data.DatasetCatalog.list()
    with pytest.raises(AssertionError):
        data.DatasetCatalog.register(name, lambda: [])
    data.DatasetCatalog.remove(name)
    with pytest.raises(KeyError, match=name):
        data.DatasetCatalog.get(name)


def test_registering_needs_a_function(data):
    with pytest.raises(AssertionError):
        data.DatasetCatalog.register("not_a_function", [])


def test_metadata_can_be_set_once(data, name):
    metadata = data.MetadataCatalog.get(name)
    metadata.thing_classes = ["cat"]
    metadata.thing_classes = ["cat"]
    assert data.MetadataCatalog.get(name) is metadata and metadata.name == name
    with pytest.raises(AssertionError):
        metadata.thing_classes = ["dog"]
    with pytest.raises(AttributeError, match="stuff_classes"):
        _ = metadata.stuff_classes


def test_metadata_reads_like_a_dict(data, name):
    metadata = data.MetadataCatalog.get(name).set(a=1, b=2)
    assert metadata.as_dict() == {"name": name, "a": 1, "b": 2}
    assert metadata.get("a") == 1 and metadata.get("c", 5) == 5
    assert name in data.MetadataCatalog.list()


@pytest.mark.parametrize("serialize", [True, False])
def test_items_of_a_list_are_copies(data, serialize):
    source = [{"ids": [i]} for i in range(4)]
    items = data.DatasetFromList(source, serialize=serialize)
    assert len(items) == 4 and [items[i] for i in range(4)] == source and items[-1] == source[-1]
    items[0]["ids"].append(9)
    assert items[0] == source[0] == {"ids": [0]}
    with pytest.raises(IndexError):
        items[4]


def test_an_unserialised_list_can_give_its_own_items(data):
    source = [{"ids": [1]}]
    assert data.DatasetFromList(source, copy=False, serialize=False)[0] is source[0]


def test_a_mapped_data_set_replaces_failures_by_other_items(data):
    mapped = data.MapDataset(list(range(10)), lambda value: value * 10 if value % 2 == 0 else None)
    assert len(mapped) == 10 and mapped[4] == 40
    assert all(mapped[i] % 20 == 0 for i in range(10))


def test_replacements_are_reproducible_and_touch_no_global_generator(data):
    random.seed(0)
    state = random.getstate()
    runs = []
    for _ in range(2):
        mapped = data.MapDataset(list(range(50)), lambda value: value if value < 5 else None)
        runs.append([mapped[i] for i in range(50)])
    assert runs[0] == runs[1] and random.getstate() == state


def test_training_sampler_runs_through_all_indices_again_and_again(backend):
    sampler = backend.get("data.samplers").TrainingSampler(7, seed=3)
    stream = list(itertools.islice(iter(sampler), 21))
    assert all(sorted(stream[start : start + 7]) == list(range(7)) for start in (0, 7, 14))
    assert stream[:7] != stream[7:14]
    assert list(itertools.islice(iter(backend.get("data.samplers").TrainingSampler(3, shuffle=False)), 7)) == [0, 1, 2, 0, 1, 2, 0]


def test_training_sampler_refuses_sizes_that_are_no_positive_int(backend):
    sampler = backend.get("data.samplers").TrainingSampler
    with pytest.raises(ValueError):
        sampler(0)
    with pytest.raises(TypeError):
        sampler(5.0)


def as_process(backend, monkeypatch, rank: int, world_size: int) -> None:
    comm = backend.get("utils.comm")
    monkeypatch.setattr(comm, "get_rank", lambda: rank)
    monkeypatch.setattr(comm, "get_world_size", lambda: world_size)


def test_processes_share_one_stream(backend, monkeypatch):
    samplers = backend.get("data.samplers")
    whole = list(itertools.islice(iter(samplers.TrainingSampler(5, seed=1)), 30))
    for rank in range(3):
        as_process(backend, monkeypatch, rank, 3)
        assert list(itertools.islice(iter(samplers.TrainingSampler(5, seed=1)), 10)) == whole[rank::3]


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


def test_the_same_seed_gives_the_same_indices_on_both_backends(subset, real):
    streams = [list(itertools.islice(iter(one.get("data.samplers").TrainingSampler(1000, seed=11)), 2500)) for one in (subset, real)]
    assert streams[0] == streams[1]


def test_worker_seeds_are_the_same_on_both_backends(subset, real):
    draws = []
    for one in (subset, real):
        torch.manual_seed(5)
        one.get("data.build").worker_init_reset_seed(3)
        draws.append((random.random(), np.random.rand(), torch.rand(()).item()))
    assert draws[0] == draws[1]


def annotated(*crowd: int) -> dict:
    return {"annotations": [{"iscrowd": value, "category_id": 0} for value in crowd]}


def test_images_without_usable_annotations_are_filtered_on_request(data, name):
    data.DatasetCatalog.register(name, lambda: [annotated(0, 1), annotated(), annotated(1)])
    data.MetadataCatalog.get(name).thing_classes = ["cat"]
    assert data.get_detection_dataset_dicts(name) == [annotated(0, 1)]
    assert len(data.get_detection_dataset_dicts([name], filter_empty=False)) == 3


def test_data_sets_must_exist_have_images_and_agree_in_their_classes(data, name):
    with pytest.raises(KeyError):
        data.get_detection_dataset_dicts("no_such_set")
    data.DatasetCatalog.register(name, lambda: [])
    with pytest.raises(AssertionError):
        data.get_detection_dataset_dicts(name)
    data.DatasetCatalog.remove(name)
    data.DatasetCatalog.register(name, lambda: [annotated(1)])
    data.MetadataCatalog.get(name).thing_classes = ["cat"]
    with pytest.raises(AssertionError):
        data.get_detection_dataset_dicts(name)
    other = name + "_2"
    data.DatasetCatalog.register(other, lambda: [annotated(0)])
    data.MetadataCatalog.get(other).thing_classes = ["dog"]
    try:
        with pytest.raises(ValueError, match="thing_classes"):
            data.get_detection_dataset_dicts([name, other], filter_empty=False)
    finally:
        data.DatasetCatalog.remove(other)
        data.MetadataCatalog.remove(other)


def test_records_without_annotations_pass_unfiltered(data, name):
    data.DatasetCatalog.register(name, lambda: [{"file_name": "a"}, {"file_name": "b"}])
    assert len(data.get_detection_dataset_dicts(name)) == 2


def test_the_trivial_collator_returns_the_batch(backend):
    batch = [1, 2]
    assert backend.get("data.build").trivial_batch_collator(batch) is batch
