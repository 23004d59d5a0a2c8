import hashlib
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from pattlite_dist.commands import compare as command
from pattlite_dist.config import parse_config, to_yaml
from pattlite_dist.errors import UserError
from pattlite_dist.evaluation.compare import Scored, owner, pairs, read_scored, stale, table
from pattlite_dist.evaluation.paired import mcnemar
from pattlite_dist.evaluation.predictions import Predictions, pack_predictions
from pattlite_dist.evaluation.schema import Bootstrap, Evaluation, PredictionsFile
from pattlite_dist.evaluation.scores import score
from tests.evaluation.samples import CLASSES, INDEPENDENT, predictions

N = 80


def make_run(
    folder: Path, draw: int, seed: int | None = None, manifest: str = "f" * 64, **config: Any
) -> Path:
    """An evaluated run on the same labels as all others, with its own predictions."""
    folder.mkdir(parents=True)
    seed = draw if seed is None else seed
    tree = {"name": folder.name, "seed": seed, "runs": str(folder.parent), **config}
    (folder / "config.yaml").write_text(to_yaml(parse_config(tree, "test")))
    truth, own = predictions(N, 0), predictions(N, draw, ("one", "flip"))
    test = Predictions(truth.ids, truth.labels, truth.flags, own.probabilities)
    packed = pack_predictions(CLASSES, {"test": test})
    (folder / "predictions.npz").write_bytes(packed)
    found = {"test": test, "test_clean": test.clean()}
    scores: dict[Any, Any] = {
        view: {part: score(one, CLASSES, view) for part, one in found.items()}
        for view in ("one", "flip")
    }
    Evaluation(
        created_by="tests", checkpoint="a.ckpt", epoch=1, step=10, manifest=manifest,
        labels=CLASSES, views=["one", "flip"], splits=scores["one"],
        more_views={"flip": scores["flip"]},
        independence=INDEPENDENT, bootstrap=Bootstrap(resamples=10, seed=0, level=0.95),
        predictions=PredictionsFile(
            name="predictions.npz", sha256=hashlib.sha256(packed).hexdigest()
        ),
    ).save(folder)  # fmt: skip
    return folder


def scored(*runs: Path, part: Any = "test", view: Any = "one") -> list[Scored]:
    return [read_scored(run, part, view) for run in runs]


def test_seeds_have_a_mean_and_a_deviation_of_n_minus_1(tmp_path: Path) -> None:
    runs = scored(*(make_run(tmp_path / f"r{i}", i, seed=i) for i in range(3)))
    rows = table(runs)
    top1 = [100 * one.evaluation.splits["test"].top1 for one in runs]
    mean = sum(top1) / 3
    deviation = (sum((value - mean) ** 2 for value in top1) / 2) ** 0.5
    assert [row[0] for row in rows] == ["run", "r0", "r1", "r2", "mean of 3"]
    assert [float(row[1]) for row in rows[1:4]] == pytest.approx(top1, abs=0.006)
    assert rows[4][1] == f"{mean:.2f} ± {deviation:.2f}"
    assert len({len(row) for row in rows}) == 1


def test_two_runs_are_tested_in_pairs_of_samples(tmp_path: Path) -> None:
    a, b = scored(make_run(tmp_path / "a", 1), make_run(tmp_path / "b", 2, optim={"lr": 0.1}))
    rows = table([a], [b])
    test = mcnemar(a.right(), b.right())
    assert [row[0] for row in rows] == ["run", "a", "b", "a - b"]
    assert rows[-1][-2:] == [f"{test.only_first} : {test.only_second}", f"{test.p:.3f}"]
    difference = 100 * (a.value("top1") - b.value("top1"))
    assert rows[-1][1] == f"{difference:+.2f}"
    assert test.only_first - test.only_second == round(difference / 100 * N)


def test_seeds_are_paired_with_their_like_and_their_differences_summed_up(tmp_path: Path) -> None:
    first = scored(*(make_run(tmp_path / f"a{i}", i, seed=i) for i in (0, 1)))
    second = scored(
        *(make_run(tmp_path / f"b{i}", 5 + i, seed=i, optim={"lr": 0.1}) for i in (1, 0))
    )
    assert [(a.run.name, b.run.name) for a, b in pairs(first, second)] == [
        ("a0", "b0"), ("a1", "b1"),
    ]  # fmt: skip
    names = [row[0] for row in table(first, second)]
    assert names == [
        "run", "a0", "a1", "mean of 2", "b1", "b0", "mean of 2", "a0 - b0", "a1 - b1",
        "mean of 2 differences",
    ]  # fmt: skip


def test_other_seeds_are_paired_in_their_order(tmp_path: Path) -> None:
    first = scored(*(make_run(tmp_path / f"a{i}", i, seed=i) for i in (0, 1)))
    second = scored(*(make_run(tmp_path / f"b{i}", i, seed=9 - i) for i in (0, 1)))
    assert [(a.run.name, b.run.name) for a, b in pairs(first, second)] == [
        ("a0", "b0"), ("a1", "b1"),
    ]  # fmt: skip


def test_two_runs_of_one_seed_are_not_two_seeds(tmp_path: Path) -> None:
    a, b, other = scored(*(make_run(tmp_path / name, 1, seed=i) for name, i in
                           (("a", 3), ("b", 3), ("other", 4))))  # fmt: skip
    for runs in (([a, other, b],), ([other], [a, b])):
        with pytest.raises(UserError, match=r"a and \S*b both have seed 3, .* after --against$"):
            table(*runs)
    assert table([a], [b])[-1][0] == "a - b"  # a pair shows what else differs


def test_scores_of_a_checkpoint_that_is_no_longer_the_best_are_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", 1)
    assert stale(scored(run)) == []  # there is no checkpoint left to compare with
    (run / "checkpoints").mkdir()
    for name in ("epoch=0001-step=00000010-top1=0.5000.ckpt", "epoch=0002-step=00000020.ckpt"):
        (run / "checkpoints" / name).touch()
    (line,) = stale(scored(run))
    assert line.startswith(f"{run}: these are scores of a.ckpt, the best on val is now epoch=0001-")
    assert line.endswith(f"`pattlite evaluate {run}` scores it")


def test_scores_on_other_shards_are_compared_by_their_folder(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, i) for i, name in enumerate("ab")]
    for i, run in enumerate(runs):
        made = make_run(tmp_path / f"made{i}", 5 + i, manifest="e" * 64)
        (made / "config.yaml").unlink()
        (run / "evaluation").mkdir()
        made.rename(run / "evaluation" / "rafdb")
    assert owner(runs[0]) == runs[0]
    others = scored(*(run / "evaluation" / "rafdb" for run in runs))
    assert [one.config.name for one in others] == ["a", "b"]
    assert [row[0] for row in table(others)][-1] == "mean of 2"
    with pytest.raises(UserError, match=r"b --shards` .* compare the folder .*b/evaluation/NAME"):
        table(scored(runs[1], runs[0] / "evaluation" / "rafdb")[::-1])


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = scored(make_run(tmp_path / "x" / "r", 0), make_run(tmp_path / "y" / "r", 1))
    assert [row[0] for row in table(runs)][1:3] == [str(one.run) for one in runs]


def test_part_and_view_are_those_asked_for(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", 1)
    (one,) = scored(run, part="test_clean", view="flip")
    assert len(one.predictions) == one.evaluation.splits["test_clean"].samples == 64
    assert one.right().mean() == one.value("top1")
    with pytest.raises(UserError, match=r"not scored with the view ten-crop; run `pattlite"):
        scored(run, view="ten-crop")
    with pytest.raises(UserError, match="has scores of test, test_clean, but not of val"):
        scored(run, part="val")


def test_what_cannot_be_compared_is_one_line(tmp_path: Path) -> None:
    (a, other, shards, epochs) = scored(
        make_run(tmp_path / "a", 1),
        make_run(tmp_path / "other", 2, optim={"lr": 0.1}),
        make_run(tmp_path / "shards", 3, manifest="e" * 64),
        make_run(tmp_path / "epochs", 4, trainer={"epochs": 3}),
    )
    for runs, told in (
        (([a, other],), r"and \S*other have different configurations \(optim.lr: 0.001 and 0.1\)"),
        (([a, epochs],), r"trainer.epochs: 15 and 3"),
        (([a, shards],), r"different shards"),
        (([a], [shards]), r"different shards"),
        (([a, a],), r"named twice"),
        (([a], [a]), r"named twice"),
        (([a], [other, other]), r"named twice"),
        (([a, epochs], [other]), r"have different configurations"),
    ):
        with pytest.raises(UserError, match=told):
            table(*runs)
    more = scored(make_run(tmp_path / "more", 5))
    with pytest.raises(UserError, match="2 runs cannot be paired with 1"):
        table([a, *more], [other])


def test_where_a_run_lies_and_what_it_runs_on_makes_no_other_configuration(tmp_path: Path) -> None:
    runs = scored(
        make_run(tmp_path / "a", 1),
        make_run(
            tmp_path / "b", 2, data={"workers": 2, "cache": "x"}, trainer={"accelerator": "cpu"},
            wandb={"mode": "disabled"},
        ),
    )  # fmt: skip
    assert len(table(runs)) == 4


def test_the_command_prints_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser(exit_on_error=False)
    command.add_options(parser)
    runs = [str(make_run(tmp_path / name, i)) for i, name in enumerate("ab")]
    assert command.work(parser.parse_args([runs[0], "--against", runs[1], "--view", "flip"])) == 0
    out = capsys.readouterr().out
    assert out.startswith("test, view flip, 80 samples\n")
    assert "a - b" in out and "only 1st : 2nd right" in out
