"""Relative position: labels are right, and on pictures without content nothing gives them away once its guard is on."""

import numpy as np
import pytest
import torch

from detcon_d2 import d2
from detcon_d2.methods.tiles.relative_position import CENTER, EDGES, NEIGHBOURS
from tests.methods.test_contract import batch_of, build
from tests.methods.tiles import cheats

NAME = "RelativePosition"
COUNT = 60
OFFSETS = torch.tensor([(column - 1, row - 1) for row in range(3) for column in range(3)], dtype=torch.float64)[list(NEIGHBOURS)]
PROJECT, DROP = ({"DETCON__PATCHES__COLOR": color} for color in ("project", "drop"))
GRAY = {"DETCON__AUG__GRAY_PROB": "(1.0, 1.0)"}
GREEN, RED_BLUE = ((0, 1, 0), (0.5, 0, 0.5)), ((1, 0, 0), (0, 0, 1))


def accuracy_by_displacement(photos, factors, mixtures, guard) -> float:
    """Of a solver that takes the direction of the displacement between channels for the direction of the tile."""
    tiles, _ = cheats.tiles_of(NAME, photos, [cheats.aberrated(seed, *factors) for seed in range(COUNT)], **guard)
    found = cheats.displacements(tiles, *mixtures)
    scores = (found[:, list(NEIGHBOURS)] - found[:, CENTER, None]) @ (OFFSETS / OFFSETS.norm(dim=1, keepdim=True)).T
    return (scores.argmax(2) == torch.arange(8)).double().mean().item()


@pytest.mark.parametrize("guard", [PROJECT, DROP, GRAY], ids=["project", "drop", "gray"])
def test_a_displacement_of_green_tells_the_place_unless_a_guard_takes_it_out(photos, guard):
    assert accuracy_by_displacement(photos, (1.0, 1.03, 1.0), GREEN, {}) > 0.8
    assert cheats.within(accuracy_by_displacement(photos, (1.0, 1.03, 1.0), GREEN, guard), 1 / 8, 8 * COUNT)


@pytest.mark.parametrize(("guard", "kept"), [(PROJECT, True), (DROP, False), (GRAY, False)], ids=["project", "drop", "gray"])
def test_the_projection_leaves_red_and_blue_apart_as_its_docstring_states(photos, guard, kept):
    found = accuracy_by_displacement(photos, (1.02, 1.0, 0.98), RED_BLUE, guard)
    assert found > 0.8 if kept else cheats.within(found, 1 / 8, 8 * COUNT)


def accuracy_at_edges(photos, **overrides) -> float:
    """Of a solver that looks only for the side at which the tile continues the central one."""
    tiles, _ = cheats.tiles_of(NAME, photos, [cheats.grey(seed) for seed in range(COUNT)], **overrides)
    center = tiles[:, CENTER, None]
    others = tiles[:, [NEIGHBOURS[k] for k in EDGES]]
    pairs = [(center[..., 0, :], others[..., -1, :]), (center[..., 0], others[..., -1]), (center[..., -1], others[..., 0])]
    pairs.append((center[..., -1, :], others[..., 0, :]))
    costs = torch.stack([(a - b).abs().mean((2, 3)) for a, b in pairs], dim=2)
    return (costs.argmin(2) == torch.arange(4)).double().mean().item()


def test_lines_that_continue_tell_the_place_unless_there_is_a_gap(photos):
    assert accuracy_at_edges(photos, DETCON__PATCHES__TILE=64) > 0.9
    assert cheats.within(accuracy_at_edges(photos, DETCON__PATCHES__MIN_GAP=8), 1 / 4, 4 * COUNT)


@pytest.mark.parametrize("normalize", ["none", "tile"])
def test_brightness_tells_the_column_unless_tiles_are_normalised(photos, normalize):
    pictures = [cheats.ramp(seed) for seed in range(COUNT)]
    tiles, _ = cheats.tiles_of(NAME, photos, pictures, DETCON__PATCHES__NORMALIZE=normalize)
    brightness = tiles.mean((2, 3, 4))
    difference = brightness[:, list(NEIGHBOURS)] - brightness[:, CENTER, None]
    # The upper tile of the column: 3 of 8 right at best.
    step = 12 if normalize == "none" else 0.2
    guess = torch.where(difference < -step, 0, torch.where(difference > step, 2, 1))
    accuracy = (guess == torch.arange(8)).double().mean().item()
    assert accuracy > 0.3 if normalize == "none" else accuracy == 1 / 8


def test_pictures_of_one_colour_are_guessed_at_chance(photos):
    _, model, samples, _ = build(NAME, photos, **cheats.GRID | cheats.PLAIN)
    batch = [samples(np.full((96, 128, 3), 50 * n, np.uint8), None, n) | {"label": 0} for n in range(4)]
    with d2.EventStorage():
        embeddings = model.embed(batch)
    assert model.metrics(embeddings)["accuracy"] == 1 / 8


def test_metrics_tell_edges_from_corners(photos):
    model, _ = batch_of(NAME, photos, 2)
    logits = torch.zeros(1, 8, 8)
    logits[0, list(EDGES), list(EDGES)] = 1  # the others are guessed as class 0
    found = model.metrics({"logits": logits, "features": torch.ones(1, 4)})
    assert (found["accuracy"], found["accuracy_edges"], found["accuracy_corners"]) == (5 / 8, 1, 1 / 4)
