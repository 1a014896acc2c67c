"""Hierarchical grouping: how many regions, which, nested and connected; the cues; the merging itself against a slow reference."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label as connected_components
from skimage.segmentation import felzenszwalb

from detcon_d2.masks import read_image
from detcon_d2.masks.generators.hierarchy import HierarchicalRegions, RegionGraph, cut, merge_regions, region_graph

RNG = np.random.default_rng(0)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def regions_of(image: np.ndarray, **params: object) -> np.ndarray:
    return HierarchicalRegions(**params)(image, RNG)


def best_overlap(label_map: np.ndarray, mask: np.ndarray) -> float:
    return max(((label_map == region) & mask).sum() / ((label_map == region) | mask).sum() for region in np.unique(label_map))


def scene() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A striped and a plain object on a background that grows brighter, with a little noise: uint8 (160, 200, 3) and bool masks."""
    y, x = np.mgrid[:160, :200]
    masks = {"striped": (y >= 30) & (y < 110) & (x >= 20) & (x < 90), "plain": (y - 90) ** 2 + (x - 145) ** 2 < 35**2}
    image = np.stack([60 + x * 0.5] * 3, axis=2)
    image[masks["striped"]] = np.where(x % 4 < 2, 180, 40)[masks["striped"], None]
    image[masks["plain"]] = (170, 90, 90)
    masks["background"] = ~(masks["striped"] | masks["plain"])
    return (image + np.random.default_rng(0).normal(0, 3, image.shape)).clip(0, 255).astype(np.uint8), masks


@pytest.mark.parametrize("regions", [1, 7, 60, 1500])
def test_without_threshold_there_are_exactly_as_many_regions_as_asked(regions):
    label_map = regions_of(noise(60, 60), regions=regions, threshold=0, grain=1e-9, sigma=0)
    assert label_map.dtype == np.uint16 and np.unique(label_map).tolist() == list(range(regions))


def test_regions_are_connected_and_numbered_in_reading_order(photos):
    label_map = regions_of(read_image(sorted(photos.rglob("*.png"))[0]), regions=12, threshold=0)
    assert connected_components(label_map.astype(int) + 1, connectivity=2).max() == 12
    first = [np.flatnonzero(label_map == region)[0] for region in range(12)]
    assert first == sorted(first)


def test_several_numbers_make_nested_layers(photos):
    image = read_image(sorted(photos.rglob("*.png"))[0])
    generator = HierarchicalRegions(regions=[24, 8, 3], threshold=0)
    layers = generator(image, RNG)
    assert generator.layers == 3 and layers.shape == (3, *image.shape[:2]) and layers.dtype == np.uint16
    for layer, regions in zip(layers, (24, 8, 3)):
        np.testing.assert_array_equal(layer, regions_of(image, regions=regions, threshold=0))
    for fine, coarse in itertools.pairwise(layers):
        assert all(len(np.unique(coarse[fine == region])) == 1 for region in np.unique(fine))


def test_a_higher_threshold_leaves_fewer_regions_but_never_more_than_asked(photos):
    image = read_image(sorted(photos.rglob("*.png"))[0])
    found = [int(regions_of(image, regions=20, threshold=threshold).max()) + 1 for threshold in (0, 4, 8, 1e9)]
    assert found[0] == 20 and found[-1] == 1 and found == sorted(found, reverse=True)
    np.testing.assert_array_equal(regions_of(image, regions=5, threshold=0.01), regions_of(image, regions=5, threshold=0))


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (1, 30), (30, 1), (2, 2), (3, 5), (9, 8)])
@pytest.mark.parametrize("threshold", [0, 5.5])
def test_tiny_images(shape, threshold):
    label_map = regions_of(noise(*shape), regions=4, threshold=threshold)
    assert label_map.shape == shape and np.unique(label_map).tolist() == list(range(label_map.max() + 1)) and label_map.max() < 4


def test_equally_good_pairs_are_merged_in_reading_order():
    image = np.zeros((20, 80, 3), np.uint8)
    image[:, 20:40] = image[:, 60:] = 255
    label_map = regions_of(image, regions=3, threshold=0, sigma=0, texture=0)
    assert label_map[0, ::20].tolist() == [0, 0, 1, 2]


def test_grouping_finds_objects_that_felzenszwalb_splits_or_merges():
    image, masks = scene()
    grouped = regions_of(image, regions=3, threshold=0)
    for name, mask in masks.items():
        assert best_overlap(grouped, mask) > 0.9, name
    for scale, min_size in itertools.product((30, 100, 300, 1000, 3000), (50, 200, 1000, 2000)):
        label_map = felzenszwalb(image, scale=scale, sigma=0.8, min_size=min_size)
        assert min(best_overlap(label_map, mask) for mask in masks.values()) < 0.6, (scale, min_size)


@pytest.mark.parametrize("cue", ["color", "texture", "boundary"])
def test_each_cue_alone_tells_what_it_is_there_for(cue):
    """Left and right differ in the cue only; top and bottom only in the others."""
    image = np.full((64, 64, 3), 128, np.uint8)
    if cue == "texture":
        image[:, :32] = np.where(np.arange(64) % 4 < 2, 100, 156)[:, None, None]
        image[:, 32:] = np.where(np.arange(32) % 4 < 2, 100, 156)[None, :, None]
    else:
        image[:, :32] = (190, 70, 70)
    label_map = np.repeat(np.repeat(np.arange(4).reshape(2, 2), 32, 0), 32, 1)
    graph = region_graph(image, label_map, **{name: float(name == cue) for name in ("color", "texture", "boundary")})
    assert cut(merge_regions(graph, 2), 4, 2).tolist() == [0, 1, 0, 1]


def test_sizes_perimeters_and_boundaries_of_regions():
    label_map = np.array([[0, 0, 1], [0, 2, 1], [2, 2, 1]])
    graph = region_graph(noise(3, 3), label_map, 1.0, 1.0, 1.0)
    np.testing.assert_allclose(graph.size * 9, [3, 3, 3])
    assert graph.edges.tolist() == [[0, 1], [0, 2], [1, 2]] and graph.length.tolist() == [1, 3, 2]
    assert graph.perimeter.tolist() == [8, 8, 8]
    image = np.zeros((20, 20, 3), np.uint8)
    image[:, 10:] = 255
    graph = region_graph(image, np.arange(20)[None].repeat(20, 0) // 10, 1.0, 1.0, 2.0)
    np.testing.assert_allclose(graph.contrast / graph.length, 2 * 100)  # black to white is 100 in L*


def random_graph(count: int, seed: int) -> RegionGraph:
    """A ring of regions with chords."""
    rng = np.random.default_rng(seed)
    chords = {tuple(sorted(pair)) for pair in rng.integers(0, count, (count, 2)).tolist() if pair[0] != pair[1]}
    edges = np.array(sorted({tuple(sorted((i, (i + 1) % count))) for i in range(count)} | chords))
    length = rng.integers(1, 9, len(edges)).astype(float)
    perimeter = np.bincount(edges.ravel(), np.repeat(length, 2), count) + rng.integers(0, 5, count)
    size = rng.integers(1, 50, count)
    return RegionGraph(size / size.sum(), rng.random((count, 5)), perimeter, edges, length, rng.random(len(edges)) * length)


def merged_slowly(graph: RegionGraph, regions: int) -> set[frozenset[int]]:
    """Everything from the definition, over all pairs, every time."""
    groups = [frozenset([region]) for region in range(len(graph.size))]

    def dissimilarity(first: frozenset[int], second: frozenset[int]) -> float:
        between = [k for k, (i, j) in enumerate(graph.edges.tolist()) if (i in first and j in second) or (i in second and j in first)]
        if not between:
            return np.inf
        size, features, perimeter = [], [], []
        for group in (first, second):
            members = sorted(group)
            inner = [k for k, (i, j) in enumerate(graph.edges.tolist()) if i in group and j in group]
            size.append(graph.size[members].sum())
            features.append(graph.size[members] @ graph.features[members] / size[-1])
            perimeter.append(graph.perimeter[members].sum() - 2 * graph.length[inner].sum())
        p, q = features
        length = graph.length[between].sum()
        cues = ((p - q) ** 2 / (p + q)).sum() + graph.contrast[between].sum() / length
        return cues * (size[0] * size[1] / sum(size)) ** (5 / 16) * (1 - length / min(perimeter) / 2)

    while len(groups) > regions:
        first, second = min(itertools.combinations(groups, 2), key=lambda pair: dissimilarity(*pair))
        groups = [group for group in groups if group not in (first, second)] + [first | second]
    return set(groups)


@settings(max_examples=20, deadline=None)
@given(count=st.integers(3, 9), regions=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_merging_is_that_of_the_definition(count, regions, seed):
    graph = random_graph(count, seed)
    found = cut(merge_regions(graph, regions), count, regions)
    assert {frozenset(np.flatnonzero(found == region).tolist()) for region in np.unique(found)} == merged_slowly(graph, regions)
