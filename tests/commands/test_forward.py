"""Every option of every verb that can be submitted reaches the job, wherever that starts."""

from argparse import Action
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import Namespace

from pattlite_dist import logins
from pattlite_dist.cli import VERBS, main, parse, parser_of
from pattlite_dist.commands.forward import job_arguments
from pattlite_dist.config import Config
from pattlite_dist.location import Location, Run, is_pretrained, with_absolute_paths
from pattlite_dist.migrate import VERSION
from pattlite_dist.slurm.job import CommandJob
from tests.conftest import TINY

# What submits -> the verb that the job runs; `submit` itself writes a configuration instead.
SUBMITTED = {"submit shards": "shards create", "submit evaluate": "evaluate"}
NEEDED = {"submit shards": ["faces.csv", "sets/faces"], "submit evaluate": ["runs/base"]}


def own_options(verb: str) -> dict[str, Action]:
    """The options and positionals of a verb, by the names that their values have."""
    return {action.dest: action for action in parser_of(verb)._actions if action.dest != "help"}


def flag(action: Action) -> str:
    return action.option_strings[-1]


def kind(action: Action) -> Any:
    return getattr(action, "_typehint", None)


def another(action: Action) -> tuple[str, Any]:
    """A value that is not the default: as a user writes it, and as the job should have it."""
    here, default = Path.cwd(), action.default
    if action.choices is not None:
        [word, *_] = [word for word in action.choices if word != default]
        return f"={word}", word
    if action.nargs == 0:
        return "", True
    found: dict[Any, tuple[str, Any]] = {
        Path: ("=-a folder/b", here / "-a folder" / "b"),
        Location: ("=-a folder/b", str(here / "-a folder" / "b")),
        Run: ("=-a folder/b", str(here / "-a folder" / "b")),
        int: ("=7", 7),
        float: ("=0.25", 0.25),
        bool: (f"={str(not default).lower()}", not default),
        str: ("=-a word", "-a word"),
        None: ("=-a word", "-a word"),
    }
    if kind(action) in found:
        return found[kind(action)]
    value = get_args(kind(action))[-1]  # of a Literal
    return f"={value}", value


CASES = [
    (submit, name)
    for submit, verb in SUBMITTED.items()
    for name, action in own_options(verb).items()
    if action.option_strings
]


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would have been submitted from a folder with a profile, a source and a run."""
    submitted: list[Any] = []

    def submit(plan: Any, work: Any, code: Any = None) -> list[str]:
        plan.text(code)
        submitted.extend(work)
        return [str(17 + i) for i in range(len(work))]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pattlite_dist.slurm.submit.submit", submit)
    monkeypatch.setattr("pattlite_dist.slurm.queue.require_slurm", lambda: None)
    (tmp_path / "profile.yaml").write_text("time: '10'\n")
    (tmp_path / "faces.csv").touch()
    (tmp_path / "runs" / "base").mkdir(parents=True)
    return submitted


def of_the_job(jobs: list[Any], verb: str, monkeypatch: pytest.MonkeyPatch) -> Namespace:
    """The options that the one job has, in another folder than that of its submission."""
    [job] = jobs
    assert isinstance(job, CommandJob)
    words = verb.split()
    assert job.arguments[: len(words)] == words
    monkeypatch.chdir("/")
    return parse(verb, job.arguments[len(words) :])


def test_all_that_can_be_submitted_is_looked_at() -> None:
    assert {verb for verb in VERBS if verb.startswith("submit ")} == set(SUBMITTED)


@pytest.mark.parametrize("submit", SUBMITTED)
def test_a_submission_has_the_options_of_its_verb_and_some_of_its_own(submit: str) -> None:
    job, verb = own_options(submit), own_options(SUBMITTED[submit])
    assert job.keys() - verb.keys() == {"profile", "after", "dry_run", "parsable"}
    assert verb.keys() <= job.keys()


@pytest.mark.parametrize(("submit", "name"), CASES)
def test_each_option_reaches_the_job(
    submit: str, name: str, jobs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    verb = SUBMITTED[submit]
    action = own_options(verb)[name]
    text, value = another(action)
    assert value != action.default
    words = [*NEEDED[submit], f"{flag(action)}{text}"]
    expected = parse(verb, words).as_dict()
    here = Path.cwd()
    assert main([*submit.split(), *words, "--profile", "profile.yaml", "--after=7"]) == 0

    given = of_the_job(jobs, verb, monkeypatch).as_dict()
    assert given[name] == value
    places = {
        "submit shards": {"source": str(here / "faces.csv"), "out": str(here / "sets" / "faces")},
        "submit evaluate": {"target": str(here / "runs" / "base")},
    }
    assert given == {**expected, **places[submit], name: value}


@pytest.mark.parametrize(
    ("source", "meant"),
    [
        ("https://host/set/{0..3}.tar", "https://host/set/{0..3}.tar"),
        ("sets/train-{0..3}.tar", "{here}/sets/train-{{0..3}}.tar"),
    ],
)
def test_foreign_shards_by_pattern_reach_the_job(
    source: str, meant: str, jobs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["submit", "shards", source, "sets/faces", "--profile", "profile.yaml"]
    assert main(words) == 0
    if "{here}" in meant:
        meant = meant.format(here=Path.cwd())
    assert of_the_job(jobs, "shards create", monkeypatch).source == meant
    assert main(["submit", "shards", "none.csv", *words[3:]]) == 2


@pytest.mark.parametrize(
    ("out", "meant"),
    [
        ("s3://bucket/folder", "s3://bucket/folder"),
        ("s3://bucket/a folder/", "s3://bucket/a folder/"),
        ("-set", "{here}/-set"),
        ("../sets/one", "{above}/sets/one"),
        ("a set", "{here}/a set"),
        ("/sets/one", "/sets/one"),
    ],
)
def test_an_address_stays_and_a_path_is_made_absolute(
    out: str, meant: str, jobs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Path.cwd()
    meant = meant.format(here=here, above=here.parent)
    profile = ["--profile", "profile.yaml"]
    assert main(["submit", "shards", *profile, "--", "faces.csv", out]) == 0
    assert of_the_job(jobs, "shards create", monkeypatch).out == meant

    jobs.clear()
    monkeypatch.chdir(here)
    assert main(["submit", "evaluate", "runs/base", f"--shards={out}", *profile]) == 0
    assert of_the_job(jobs, "evaluate", monkeypatch).shards == meant


def test_a_command_that_gives_shards_stays_as_it_is(
    jobs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["runs/base", "--shards=pipe:cat 'a b'/{name}", "--profile", "profile.yaml"]
    assert main(["submit", "evaluate", *words]) == 0
    assert of_the_job(jobs, "evaluate", monkeypatch).shards == "pipe:cat 'a b'/{name}"


@pytest.mark.parametrize("out", ["pipe:cat", "http://host/set", "s3://bucket/set?signed"])
def test_where_shards_cannot_be_written_is_told_before_a_job_is_submitted(
    out: str, jobs: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", "shards", "faces.csv", out, "--profile", "profile.yaml"]) == 2
    assert "shards c" in capsys.readouterr().err
    assert jobs == []


def test_the_logs_of_shards_at_an_address_lie_here_and_no_password_is_told(
    jobs: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(logins.VARIABLE, "")
    profile = ["--profile", "profile.yaml"]
    assert main(["submit", "shards", "faces.csv", "s3://me:secret@bucket/set", *profile]) == 0
    assert capsys.readouterr().out == "job 17: s3://bucket/set, log set-slurm/17_0_log.out\n"
    assert "s3://bucket/set" in jobs[0].arguments
    assert not any("secret" in word for word in jobs[0].arguments)
    # It reaches the job by its environment, which is written nowhere.
    assert logins.complete("s3://bucket/set") == "s3://me:secret@bucket/set"


@pytest.mark.parametrize("name", ["a\n#SBATCH --nodes=9", "a\rb", "a\u2028b"])
def test_a_name_is_never_a_line_of_its_own(
    name: str, jobs: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    dry = ["--profile", "profile.yaml", "--dry-run"]
    status = main(["submit", "shards", "faces.csv", f"s3://bucket/{name}", *dry])
    text, problem = capsys.readouterr()
    lines = [line for line in text.split("\n") if line.startswith("#SBATCH --")]
    assert "#SBATCH --nodes=9" not in lines
    if status:  # the folder of the logs has that name as well
        assert "has a line break" in problem and text == ""
    else:
        assert "#SBATCH --job-name=pattlite-shards-a-b" in lines


# Text as it may be given in one word of a command line.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


def values(action: Action) -> st.SearchStrategy[Any]:
    if action.choices is not None:
        return st.sampled_from([*action.choices])
    strategies: dict[Any, st.SearchStrategy[Any]] = {
        Path: st.builds(Path, texts),
        Location: texts | st.builds("s3://{}".format, texts) | st.builds("pipe:{}".format, texts),
        Run: texts.filter(lambda text: "://" not in text and not is_pretrained(text)),
        int: st.integers(-(10**9), 10**9),
        float: st.floats(allow_nan=False, allow_infinity=False),
        bool: st.booleans(),
    }
    if action.nargs == 0:
        return st.booleans()
    choices = get_args(kind(action)) if kind(action) not in strategies else ()
    found = st.sampled_from(choices) if choices else strategies.get(kind(action), texts)
    optional = action.option_strings and action.default is None
    return st.none() | found if optional else found


@pytest.mark.parametrize("verb", SUBMITTED.values())
@given(data=st.data())
def test_any_options_are_written_so_that_they_are_read_as_they_were(
    verb: str, data: st.DataObject
) -> None:
    actions = own_options(verb)
    options = Namespace(**{n: data.draw(values(action), n) for n, action in actions.items()})
    arguments = job_arguments(verb, options)
    given = parse(verb, arguments[len(verb.split()) :])
    for name, action in actions.items():
        value = options[name]
        if isinstance(value, Path):
            value = Path.cwd() / value
            assert given[name].is_absolute() and given[name].name != ".."
            assert given[name] == value or ".." in value.parts, name
        elif kind(action) in (Location, Run) and value is not None:
            stays = value.startswith("pipe:") or "://" in value
            assert (given[name] == value) if stays else given[name].startswith("/"), name
        else:
            assert given[name] == value, name
    assert job_arguments(verb, given) == arguments


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def changed_everywhere() -> list[dict[str, Any]]:
    """Sets of keys with values that are not the default; each key is in one, and a set fits."""
    defaults = dict(leaves(Config().model_dump(mode="json")))
    sets: list[dict[str, Any]] = []
    left = list(defaults)
    while left:
        chosen: dict[str, Any] = {}
        for key in [*left, *(key for key in defaults if key not in left)]:
            for value in others(key, defaults[key], chosen):
                if fits({**chosen, key: value}):
                    chosen[key] = value
                    break
        after = [key for key in left if key not in chosen]
        assert after != left, f"no other value for {left[0]}"
        sets, left = [*sets, chosen], after
    return sets


def others(key: str, default: Any, chosen: dict[str, Any]) -> Iterator[Any]:
    """What else the value of a key may be, if it fits."""
    side = chosen.get("data.image_size", Config().data.image_size)
    words = words_of(annotation(key))
    lists = [[0.1, 0.2, 0.3], [0.1, 0.3], [[0, 48], [1, side]], ["a folder/b"], words[-1:]]
    numbers = [default * 2, default + 1, default / 2] if isinstance(default, int | float) else []
    kinds = {annotation(key), *get_args(annotation(key))}
    for value in [not default, *numbers, 1, 0.5, *lists, *words, "a folder/b", "other", None]:
        if value != default and (not isinstance(value, bool) or bool in kinds):
            yield value


def words_of(kind: Any) -> list[str]:
    """The words of the literals in a type."""
    parts = get_args(kind)
    return [
        word for part in parts for word in ([part] if isinstance(part, str) else words_of(part))
    ]


def annotation(key: str) -> Any:
    model: Any = Config
    for part in key.split("."):
        model = model.model_fields[part].annotation
    return model


def fits(keys: dict[str, Any]) -> bool:
    tree: dict[str, Any] = {}
    for key, value in keys.items():
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    try:
        return bool(Config.model_validate(tree))
    except ValueError:
        return False


def test_each_key_of_a_configuration_reaches_the_run_folder(jobs: list[Any]) -> None:
    folder = str(Path.cwd() / "a folder" / "b")
    places = {"runs": folder, "data.shards": folder, "data.cache": folder, "model.weights": folder,
              "scratch": folder, "data.targets": folder, "distill.teachers": [folder]}  # fmt: skip
    for number, chosen in enumerate(changed_everywhere()):
        chosen["name"] = f"other{number}"
        words = [f"--{key}={str(value).lower() if value in (True, False) else value}"
                 for key, value in chosen.items()]  # fmt: skip
        submit = ["submit", "-c", str(TINY), *words, "--profile", "profile.yaml", "--skip-checks"]
        assert main(submit) == 0
        job = jobs.pop()
        written = dict(leaves(yaml.safe_load((job.run / "config.yaml").read_text())))
        moved = {key: places[key] for key in chosen if key in places}
        assert {key: chosen[key] for key in moved} == {
            key: ["a folder/b"] if isinstance(place, list) else "a folder/b"
            for key, place in moved.items()
        }
        assert written.pop("version") == VERSION
        given = dict(leaves(yaml.safe_load(TINY.read_text())))
        assert written == {
            **dict(leaves(Config().model_dump(mode="json"))), **given, **chosen, **moved
        }  # fmt: skip
        assert job.run == Path(folder) / chosen["name"]


def test_words_and_addresses_in_a_configuration_stay() -> None:
    config = Config.model_validate(
        {"data": {"shards": "s3://b/x", "cache": None}, "model": {"weights": "imagenet"}}
    )
    resolved = with_absolute_paths(config)
    assert resolved.data == config.data
    assert resolved.model == config.model
    assert resolved.runs == str(Path.cwd() / "runs")
