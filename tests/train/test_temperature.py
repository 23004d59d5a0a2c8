import numpy as np
import pytest

from pattlite_dist.train.temperature import (
    HIGHEST,
    LOWEST,
    calibration_error,
    fit_temperature,
    tempered,
)


def drawn(n: int, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of logits that are `factor` times too large, and labels of the right ones."""
    draw = np.random.default_rng(1)
    logits = 2 * draw.normal(size=(n, 5))
    true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (draw.random((n, 1)) > true.cumsum(1)).sum(1)
    powers = np.exp(factor * logits)
    return powers / powers.sum(1, keepdims=True), labels


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_is_the_factor_by_which_the_logits_are_too_large(factor: float) -> None:
    table, labels = drawn(5_000, factor)
    found = fit_temperature(table, labels)
    assert found == pytest.approx(factor, rel=0.06)
    assert found == fit_temperature(table, labels)
    assert calibration_error(tempered(table, found), labels) < 0.03
    if factor > 1:
        assert calibration_error(table, labels) > 0.1


def test_it_is_the_best_there_is() -> None:
    table, labels = drawn(200, 2.0)
    found = fit_temperature(table, labels)

    def nll(temperature: float) -> float:
        chosen = tempered(table, temperature)[np.arange(len(labels)), labels]
        return float(-np.log(chosen).mean())

    assert all(nll(found) < nll(found * factor) for factor in (0.98, 1.02))


def test_the_order_of_the_classes_stays() -> None:
    table, _ = drawn(500, 3.0)
    for temperature in (LOWEST, 0.7, 2.0, HIGHEST):
        changed = tempered(table, temperature)
        assert (changed.argmax(1) == table.argmax(1)).all()
        assert changed.sum(1) == pytest.approx(1)
    assert tempered(table, 1.0) is table


def test_certainty_is_no_trouble() -> None:
    table = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    right, wrong = np.array([0, 1, 0]), np.array([1, 0, 1])
    assert fit_temperature(table, right) == pytest.approx(LOWEST)
    assert fit_temperature(table, wrong) == pytest.approx(HIGHEST)
    assert np.isfinite(tempered(table, 0.3)).all()
