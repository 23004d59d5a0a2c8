import itertools

import pytest

from pattlite_dist.config import Config
from pattlite_dist.train.rates import lr_factor, lr_relative


def test_the_rate_rises_then_falls_to_zero() -> None:
    rates = [lr_factor(step, 100, 10, "cosine") for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0)
    assert lr_factor(1000, 100, 10, "cosine") == pytest.approx(0)


def test_a_constant_rate_stays() -> None:
    assert [lr_factor(step, 10, 0, "constant") for step in (0, 5, 20)] == [1, 1, 1]


def test_an_inverse_time_rate_is_half_after_the_decay_and_a_third_after_twice_that() -> None:
    rates = [lr_factor(step, 1000, 10, "inverse_time", 40) for step in (9, 10, 20, 50, 90)]
    assert rates == [1, 1, pytest.approx(0.8), pytest.approx(1 / 2), pytest.approx(1 / 3)]


def staged(start: int | None, **finetune: object) -> Config:
    return Config.model_validate(
        {
            "optim": {"lr": 1e-3, "schedule": "cosine", "warmup_epochs": 0.5},
            "finetune": {"start_epoch": start, "lr": 1e-5, **finetune},
            "trainer": {"epochs": 6},
        }
    )


def test_each_stage_has_a_peak_and_a_schedule_of_its_own() -> None:
    """Ten steps per epoch: 5 of warm-up, 15 of cosine, then fine-tuning, halved after 2 epochs."""
    config = staged(2, decay_epochs=2)
    expected = {
        0: 0.2, 4: 1, 5: 1, 10: 0.75, 15: 0.25,  # a third and two thirds of half a cosine
        20: 0.01, 25: 0.01 / 1.25, 30: 0.01 / 1.5, 40: 0.01 / 2, 59: 0.01 / 2.95,
    }  # fmt: skip
    rates = {step: lr_relative(step, config, 10) for step in expected}
    assert rates == {step: pytest.approx(rate) for step, rate in expected.items()}
    assert lr_relative(19, config, 10) < 0.02  # the head's cosine has ended by then


def test_fine_tuning_may_fall_as_a_cosine_to_the_end_of_the_run() -> None:
    config = staged(2, schedule="cosine")
    assert lr_relative(20, config, 10) == pytest.approx(0.01)
    assert lr_relative(40, config, 10) == pytest.approx(0.005)
    assert lr_relative(60, config, 10) == pytest.approx(0)


def test_without_stages_the_schedule_runs_over_all_epochs() -> None:
    for step in range(61):
        assert lr_relative(step, staged(None), 10) == lr_factor(step, 60, 5, "cosine")


def test_fine_tuning_from_the_first_step_has_no_head_stage_and_no_warm_up() -> None:
    assert lr_relative(0, staged(0), 10) == pytest.approx(0.01)
