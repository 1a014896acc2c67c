"""A budget is in units of one 224 crop, survives a checkpoint exactly, and is unknown where a part of a run was not counted."""

from detcon_d2.checkpoint.budget import Budget, describe_budget

ODD = {"images": 640_000_123, "trained_pixels": 7 * 10**13 + 1, "other_pixels": 3 * 10**13 + 3}


def counted(**changes: object) -> Budget:
    facts = {"device": "8 x H200", "parameters_encoder": 23_508_032, "parameters_heads": 4_000_000}
    return Budget(seconds=86_400.25, facts=facts, **ODD | changes)


def test_forward_passes_are_in_units_of_one_224_crop():
    found = counted(images=10, trained_pixels=20 * 224 * 224, other_pixels=10 * 112 * 112).metadata()
    assert (found["forwards_trained"], found["forwards_trained_per_image"]) == (20, 2)
    assert (found["forwards_no_grad"], found["forwards_no_grad_per_image"]) == (2.5, 0.25)


def test_counts_continue_exactly_from_a_checkpoint():
    continued = Budget(facts={"parameters_encoder": 23_508_032, "parameters_heads": 4_000_000})
    continued.restore(counted().metadata())
    assert continued == counted()


def test_a_run_of_which_a_part_was_not_counted_has_no_budget():
    continued = counted()
    continued.restore({"iterations": 10, "epochs": 1.0})
    assert continued.metadata() == {} and "earlier version" in describe_budget(continued.metadata())
    assert Budget().metadata() == {}, "before the first step"


def test_every_device_of_a_run_is_named_once():
    budget = Budget()
    for device in ("1 x cpu", "1 x cpu", "11 x cpu", "1 x cpu", "1 x cpu"):
        budget.run_on(device)
    assert budget.facts["device"] == "1 x cpu, then 11 x cpu, then 1 x cpu"


def test_the_line_names_every_count():
    line = describe_budget(counted(images=1000, trained_pixels=3102 * 50176, other_pixels=2000 * 50176).metadata())
    assert line == (
        "Budget: 1,000 images seen; forward passes in units of one 224 crop: per image 3.10 trained + 2.00 without gradient, in total "
        "3,102 + 2,000; 86,400 s of training on 8 x H200; 23,508,032 + 4,000,000 trained parameters (encoder + heads)."
    )
    detector = Budget(images=8, seconds=2.0, facts={"device": "1 x cpu"})
    assert describe_budget(detector.metadata()) == "Budget: 8 images seen; 2 s of training on 1 x cpu."
