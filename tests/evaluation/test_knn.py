"""The kNN classifier: oracle, definition, parts, few images and classes, errors."""

import math

import pytest
import torch
from torch.nn import functional as F

from detcon_d2.evaluation import knn
from detcon_d2.evaluation.knn import knn_accuracy
from tests.losses.cases import SOURCES, read_methods, source_path

NAMES = ("train_features", "train_labels", "test_features", "test_labels")


@pytest.mark.parametrize("source", SOURCES)
def test_accuracies_equal_the_released_code(request, source):
    cases = read_methods(source_path(request, source))["knn"]
    assert cases
    for case in cases.values():
        for k, expected in zip(case["k"], case["top1_top5"], strict=True):
            found = knn_accuracy(*(case.tensor(name) for name in NAMES), k=int(k), temperature=float(case["temperature"]))
            assert found == pytest.approx(tuple(expected), rel=1e-9)


def random_problem(train=40, test=25, classes=7, d=6, dtype=torch.float64):
    features = [F.normalize(torch.randn(n, d, dtype=dtype), dim=1) for n in (train, test)]
    labels = [torch.randint(classes, (n,)) for n in (train, test)]
    return features[0], labels[0], features[1], labels[1]


def reference_accuracy(train_features, train_labels, test_features, test_labels, k, temperature):
    """The definition image by image, in Python floats."""
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    hits = [0, 0]
    for feature, label in zip(test_features, test_labels.tolist()):
        similarities = (train_features @ feature).tolist()
        scores = [0.0] * classes
        for index in sorted(range(len(similarities)), key=lambda i: -similarities[i])[:k]:
            scores[train_labels[index]] += math.exp(similarities[index] / temperature)
        ranked = sorted(range(classes), key=lambda c: -scores[c])
        hits[0] += label == ranked[0]
        hits[1] += label in ranked[: min(5, k)]
    return tuple(100 * count / len(test_labels) for count in hits)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("k", [1, 3, 5, 40])
@pytest.mark.parametrize(("test", "classes"), [(25, 7), (1, 7), (3, 2), (25, 1), (120, 5)])
def test_accuracies_are_their_definition_for_few_images_and_few_classes_too(test, classes, k, temperature):
    problem = random_problem(test=test, classes=classes)
    found = knn_accuracy(*problem, k=k, temperature=temperature)
    assert found == pytest.approx(reference_accuracy(*problem, k, temperature), rel=1e-9)


def test_a_class_of_the_test_images_that_is_not_trained_is_an_error_and_not_a_crash():
    train_features, train_labels, test_features, test_labels = random_problem()
    assert knn_accuracy(train_features, train_labels, test_features, torch.full_like(test_labels, 100), k=5, temperature=0.1) == (0, 0)


def test_images_are_found_among_themselves():
    features, labels, *_ = random_problem()
    assert knn_accuracy(features, labels, features, labels, k=1, temperature=0.07) == (100, 100)


@pytest.mark.parametrize("rows", [1, 4, 25])
def test_parts_do_not_change_the_result(monkeypatch, rows):
    problem = random_problem()
    expected = knn_accuracy(*problem, k=7, temperature=0.07)
    monkeypatch.setattr(knn, "_CHUNK_BYTES", rows * 40 * 8)
    split = []
    monkeypatch.setattr(torch.Tensor, "topk", lambda x, k, topk=torch.Tensor.topk: split.append(x.shape) or topk(x, k))
    assert knn_accuracy(*problem, k=7, temperature=0.07) == expected
    assert max(shape[0] for shape in split) == rows and sum(shape[0] for shape in split) == 25


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_compared_in_float32(dtype):
    train_features, train_labels, test_features, test_labels = random_problem()
    halves = [x.to(dtype) for x in (train_features, test_features)]
    found = knn_accuracy(halves[0], train_labels, halves[1], test_labels, k=5, temperature=0.07)
    assert found == knn_accuracy(halves[0].double(), train_labels, halves[1].double(), test_labels, k=5, temperature=0.07)


def test_a_tiny_temperature_is_the_nearest_neighbour():
    problem = random_problem(dtype=torch.float32)
    nearest = knn_accuracy(*problem, k=1, temperature=0.07)[0]
    assert knn_accuracy(*problem, k=10, temperature=1e-6)[0] == nearest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, r"k is 0; expected a number in 1..40, the number of training images"),
        ({"k": 41}, "k is 41"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"test_features": torch.zeros(25, 5)}, r"test_features has shape \(25, 5\); expected \(N, 6\)"),
        ({"test_features": torch.zeros(0, 6)}, r"test_features has shape \(0, 6\); expected \(N, D\), none of them 0"),
        ({"train_labels": torch.zeros(39).long()}, r"train_labels has shape \(39,\) and dtype torch.int64; expected \(40,\)"),
        ({"test_labels": torch.zeros(25)}, r"test_labels has shape \(25,\) and dtype torch.float32; expected \(25,\), torch.int64"),
        ({"test_labels": torch.full((25,), -1)}, "test_labels has the label -1; expected labels >= 0"),
    ],
)
def test_wrong_inputs_are_refused_by_name(change, message):
    inputs = dict(zip(NAMES, random_problem())) | {"k": 5, "temperature": 0.1} | change
    with pytest.raises(ValueError, match=message):
        knn_accuracy(**inputs)
