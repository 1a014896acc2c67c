"""Parameters of all generators: hashes as in folders that exist, ranges, advice."""

import pytest

from detcon_d2.masks import REGION_GENERATOR_REGISTRY, build_generator
from detcon_d2.masks.store.index import params_hash

# The beginning of the hash in index.json of folders made before parameters were dataclass fields.
HASHES = [
    ("fh", {}, "cc62c6775146ad48"),
    ("fh_scales", {}, "efe5fa2c216a57fc"),
    ("hierarchy", {}, "6993ea9685050874"),
    ("slic", {}, "6ce5363c04ce1d4e"),
    ("quickshift", {}, "c56e84c0c5b3c88c"),
    ("watershed", {}, "be9a74dc85d523a6"),
    ("grid", {}, "bc87630f3da683c9"),
    ("annotations", {}, "c0d66a6ba88976f6"),
    ("imported", {"masks": "/", "background": "none"}, "5e06048672b454d3"),
    ("motion", {}, "2cca803338e08b31"),
    ("fh", {"scale": 30, "min_size": 20}, "f0a9a111f9cc1e6b"),
    ("fh_scales", {"scales": [0.2, 20, 300], "sigma": 1}, "f9fc22def953b8ca"),
    ("hierarchy", {"regions": [64, 16], "color": 2}, "0a07f32c25c30abc"),
]


@pytest.mark.parametrize(("name", "params", "beginning"), HASHES)
def test_folders_of_earlier_versions_continue_and_parameters_rebuild_the_generator(name, params, beginning):
    assert {known for known, *_ in HASHES} == REGION_GENERATOR_REGISTRY.keys()
    generator = build_generator(name, **params)
    assert params_hash(name, generator.params()).startswith(beginning)
    assert generator.name == name and build_generator(name, **generator.params()) == generator


@pytest.mark.parametrize(("min_sizes", "expected"), [([], [1, 20, 300]), ([7], [7, 7, 7]), ([1, 2, 3], [1, 2, 3])])
def test_min_sizes_are_the_scales_or_one_or_one_each(min_sizes, expected):
    params = build_generator("fh_scales", scales=[0.2, 20, 300], min_sizes=min_sizes).params()
    assert params == {"scales": [0.2, 20.0, 300.0], "sigma": 0.8, "min_sizes": expected}


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("fh", {"scale": 0}, "fh: found scale 0.0; expected scale > 0"),
        ("fh", {"scale": float("nan")}, "scale > 0"),
        ("fh", {"min_size": 0}, "min_size >= 1"),
        ("fh_scales", {"scales": []}, "expected at least one scale"),
        ("fh_scales", {"scales": [1, 0]}, r"found scales \[1.0, 0.0\]; expected scales > 0"),
        ("fh_scales", {"min_sizes": [1, 2]}, "one min_size for all or as many as scales"),
        ("hierarchy", {"regions": []}, "expected at least one number"),
        ("hierarchy", {"regions": [8, -1]}, "regions >= 1"),
        ("hierarchy", {"grain": 1.5}, "grain <= 1"),
        ("hierarchy", {"color": 0, "texture": 0, "boundary": 0}, "found color 0.0, texture 0.0, boundary 0.0; expected finite weights"),
        ("slic", {"segments": 0}, "slic: found segments 0; expected segments >= 1"),
        ("quickshift", {"kernel_size": 0}, "kernel_size > 0"),
        ("quickshift", {"ratio": 1.5}, "ratio <= 1"),
        ("watershed", {"markers": 0}, "watershed: found markers 0; expected markers >= 1"),
        ("grid", {"size": 256}, "size <= 255"),
        ("grid", {"scale": 3}, "'grid': found parameter scale; expected size"),
        ("annotations", {"size": 3}, "'annotations': found parameter size; expected boxes"),
        ("unheard_of", {}, "found 'unheard_of'; expected one of annotations, fh"),
        ("imported", {}, "found no parameter masks"),
    ],
)
def test_unusable_parameters_are_refused(name, params, message):
    with pytest.raises(ValueError, match=message):
        build_generator(name, **params)


@pytest.mark.parametrize(
    ("name", "params", "size", "advice"),
    [
        ("fh", {}, (32, 32), "--scale 100 --min-size 20"),
        ("fh_scales", {"scales": [300, 1000], "min_sizes": [100, 500]}, (480, 640), "--scales 100,300 --min-sizes 30,200"),
        ("fh_scales", {"scales": [300, 1000], "min_sizes": [100, 500]}, (32, 32), "--scales 30,100 --min-sizes 4,20"),
        ("hierarchy", {"regions": 4}, (100, 100), "--regions 16"),
        ("hierarchy", {}, (100, 100), "--threshold 2.8"),
        ("hierarchy", {"threshold": 0}, (100, 100), "--grain 0.0001"),
        ("slic", {}, (100, 100), "--segments 32 --compactness 20"),
        ("quickshift", {}, (100, 100), "--kernel-size 2 --max-dist 15"),
        ("watershed", {}, (100, 100), "--markers 32"),
        ("grid", {}, (100, 100), None),
    ],
)
def test_advice_gives_more_regions(name, params, size, advice):
    assert build_generator(name, **params).advice(*size) == advice
