from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.errors import UserError
from pattlite_dist.slurm.profile import (
    Profile,
    load_profile,
    parse_minutes,
    parse_profile,
    read_yaml,
)
from tests.conftest import ROOT

SHIPPED = sorted(path.stem for path in (ROOT / "launch" / "profiles").glob("*.yaml"))
WORDS = {"two", "-1", "1.5", "", "[1]", "{a: 1}", "null", "12 GB"}


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(text: str | bytes, *overrides: str) -> Profile:
        path = tmp_path / "site.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_profile(str(path), overrides)

    return write


def refused(written: Any, text: str | bytes, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        written(text, *overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        *((key, bad) for key in ("nodes", "cpus_per_task", "max_array", "array_parallelism",
                                 "signal_seconds")
          for bad in sorted({*WORDS, "0"} - ({"null", ""} if key == "max_array" else set()))),
        *((key, bad) for key in ("gpus_per_node", "max_requeues") for bad in sorted(WORDS)),
        *(("tasks_per_node", bad) for bad in ("0", "two", "1.5", "[1]")),
        *(("memory_gb", bad) for bad in ("0", "-1", "12 GB", "[1]", "inf", ".inf", "nan", ".nan")),
        *((key, bad) for key in ("partition", "account", "qos", "constraint", "exclude", "python",
                                 "container", "requeue_command")
          for bad in ("[a]", "{a: 1}", "true", "no")),
        *(("time", bad) for bad in ("0", "0:00", "-5", "1.5", "UNLIMITED", "1:2:3:4", "1-", "-1:00",
                                    "1-2-3", "2026-01-01", "12h", "", "[1]", "true", "1e3")),
        *((key, bad) for key in ("modules", "setup", "srun")
          for bad in ("cuda", "{a: 1}", "null", "[[a]]", "[null]")),
        *(("environment", bad) for bad in ("[A]", "A=1", "{A: [1]}", "{A: }", "{A B: 1}",
                                           "{1A: x}", "{my-var: x}", "{'': x}", '{"A\\n": x}')),
        *(("sbatch", bad) for bad in ("[a]", "{a: [1]}", "{a: null}")),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_line_with_the_key_and_all_keys(
    written: Any, key: str, bad: str
) -> None:
    message = refused(written, f"{key}: {bad}\n")
    assert f"site.yaml: {key}" in message
    assert message.endswith(f"a profile's keys are {', '.join(Profile.model_fields)}")
    assert f"site.yaml: {key}" in refused(written, "", f"{key}={bad}")


@pytest.mark.parametrize("key", Profile.model_fields)
def test_every_key_has_a_wrong_value_above(key: str) -> None:
    [mark] = test_a_wrong_value_is_one_line_with_the_key_and_all_keys.pytestmark  # type: ignore[attr-defined]
    assert key in {name for name, _ in mark.args[1]}


@pytest.mark.parametrize("key", ["parition", "Nodes", "nodes ", "1", "", "environment.A"])
def test_an_unknown_key_is_named_with_the_keys_there_are(written: Any, key: str) -> None:
    message = refused(written, f"{key!r}: 1\n")
    assert f"site.yaml: {key or 'profile'}: Extra inputs" in message
    assert "partition, account, qos" in message
    assert "Extra inputs" in refused(written, "", f"{key}=1")


@pytest.mark.parametrize("text", ["- a\n", "text\n", "7\n", "false\n", "[]\n", "''\n"])
def test_what_is_no_mapping_is_told(written: Any, text: str) -> None:
    assert "has no `key: value` lines" in refused(written, text)


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n"])
def test_an_empty_profile_has_the_defaults(written: Any, text: str) -> None:
    assert written(text) == Profile()


@pytest.mark.parametrize(
    "text",
    ["a: b: c", "nodes: [1", "\tnodes: 1", "x: !!python/object/apply:os.getcwd []", "nodes: *a",
     "? [a]\n: b", b"\xff\xfe\x00", b"partition: caf\xe9\n", b"a: \x00"],
)  # fmt: skip
def test_damaged_yaml_is_one_line(written: Any, text: str | bytes) -> None:
    message = refused(written, text)
    assert message.startswith("cannot read the profile ")
    assert "site.yaml" in message


def test_a_folder_instead_of_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").mkdir()
    with pytest.raises(UserError, match="is a folder; give a YAML file"):
        load_profile(str(tmp_path / "site.yaml"))


def test_a_name_that_does_not_exist_lists_those_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "launch" / "profiles"
    folder.mkdir(parents=True)
    for name in ("small", "one-gpu"):
        (folder / f"{name}.yaml").write_text(f"partition: {name}\n")
    assert load_profile("small").partition == "small"
    assert load_profile("one-gpu").partition == "one-gpu", "its own, not the installed one"
    assert load_profile("one-node").partition is None
    for name in ("big", "big.yaml"):
        known = r"big(\.yaml)? does not exist.*\(cpu, one-gpu, one-node, preemptible, small, two-"
        with pytest.raises(UserError, match=known):
            load_profile(name)


def test_there_are_profiles_to_start_from() -> None:
    assert {"one-gpu", "one-node", "two-nodes", "preemptible", "cpu"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_profiles_load_by_name_anywhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    profile = load_profile(name)
    assert profile.minutes >= 60
    assert profile.account is None, "no site's names"


@pytest.mark.parametrize(
    ("line", "minutes"),
    [
        ("12:00:00", 720), ("90", 90), ("'90'", 90), ("1:30", 2), ("90:00", 90), ("00:01", 1),
        ("1-12", 2160), ("2-0", 2880), ("0-1", 60), ("1-2:30", 1590), ("1-00:00:01", 1441),
        ("010", 10), ("72:00:00", 4320), ("0:0:59", 1), ("1:00:00", 60), (" 5 ", 5),
    ],
)  # fmt: skip
def test_a_time_in_yaml_is_what_sbatch_reads(written: Any, line: str, minutes: int) -> None:
    assert written(f"time: {line}\n").minutes == minutes
    assert written("", f"time={line}").minutes == minutes


def test_minutes_may_be_a_number_where_a_program_gives_them() -> None:
    assert parse_profile({"time": 90, "partition": 7}, "here").minutes == 90


two = st.integers(0, 200)


@given(
    st.one_of(
        st.tuples(st.none(), st.none(), two, st.none()),
        st.tuples(st.none(), st.none(), two, two),
        st.tuples(st.none(), two, two, two),
        st.tuples(two, two, st.none(), st.none()),
        st.tuples(two, two, two, st.none()),
        st.tuples(two, two, two, two),
    ),
    st.integers(1, 3),
)
def test_a_time_limit_is_the_sum_of_its_parts_rounded_up(
    parts: tuple[int | None, ...], width: int
) -> None:
    days, hours, minutes, seconds = parts
    text = ":".join(f"{part:0{width}}" for part in parts[1:] if part is not None)
    text = text if days is None else f"{days}-{text}"
    # Counted down, not computed.
    total = (days or 0) * 86400 + (hours or 0) * 3600 + (minutes or 0) * 60 + (seconds or 0)
    up = 0
    while total > 0:
        total, up = total - 60, up + 1
    assert parse_minutes(text) == (up or None)


@given(st.text("0123456789-: .x\n", max_size=8))
def test_any_text_is_a_time_limit_or_is_not(text: str) -> None:
    minutes = parse_minutes(text)
    assert minutes is None or minutes >= 1
    stripped = text.strip()
    if not stripped or set(stripped) & set(" .x\n") or stripped.count("-") > 1:
        assert minutes is None


def test_digits_of_other_scripts_which_sbatch_does_not_read_are_no_time() -> None:
    assert parse_minutes("\uff11\uff12") is None


def test_numbers_in_the_environment_become_the_very_text_that_was_written(written: Any) -> None:
    text = "environment: {A: 1, B: 3.10, C: 010, D: 12:30, E: 0x1F, F: 1e3, G: 2026-01-01, H: 1_0}"
    assert written(text).environment == {
        "A": "1", "B": "3.10", "C": "010", "D": "12:30", "E": "0x1F", "F": "1e3",
        "G": "2026-01-01", "H": "1_0",
    }  # fmt: skip
    assert written("", "environment={A: 3.10}").environment == {"A": "3.10"}


def test_so_do_booleans(written: Any) -> None:
    text = "environment: {A: true, B: Yes, C: off, yes: 1}\nsbatch: {exclusive: yes}"
    profile = written(text)
    assert profile.environment == {"A": "true", "B": "Yes", "C": "off", "yes": "1"}
    assert profile.sbatch == {"exclusive": True}, "there it is a switch"
    assert written(text, "environment={A: no}").environment == {"A": "no"}
    assert Profile.model_validate({"environment": {"A": True, "B": 2.5}}).environment == {
        "A": "true", "B": "2.5",
    }  # fmt: skip


def test_numbers_in_other_texts_stay_as_written(written: Any) -> None:
    profile = written("modules: [3.10, cuda/12]\npartition: 0700\nsbatch: {nice: 10, ntasks: 1}\n")
    assert profile.modules == ["3.10", "cuda/12"]
    assert profile.partition == "0700"
    assert {key: str(value) for key, value in profile.sbatch.items()} == {
        "nice": "10", "ntasks": "1",
    }  # fmt: skip


def test_switches_in_yaml_are_switches(written: Any) -> None:
    assert written("sbatch: {exclusive: true, requeue: no, x: 'yes'}").sbatch == {
        "exclusive": True, "requeue": False, "x": "yes",
    }  # fmt: skip


def test_overrides_win_and_are_read_as_yaml(written: Any) -> None:
    profile = written(
        "nodes: 1\nmodules: [a]\naccount: me\n",
        "nodes=2", "modules=[b, c]", "time=1:00:00", "account=null", "memory_gb=1.5",
        "constraint=a100|h100", "requeue_command=ssh login 'scontrol requeue {job}' a=b",
    )  # fmt: skip
    assert (profile.nodes, profile.modules, profile.minutes) == (2, ["b", "c"], 60)
    assert (profile.account, profile.memory_gb) == (None, 1.5)
    assert profile.constraint == "a100|h100"
    assert profile.requeue_command == "ssh login 'scontrol requeue {job}' a=b"


@pytest.mark.parametrize("word", ["nodes=[", "partition='a", "modules={", "partition=\x00"])
def test_an_override_that_is_no_value_is_one_line(written: Any, word: str) -> None:
    shown = word.replace("\x00", "\\x00")
    assert f"profile.{shown}: not a value" in refused(written, "", word)


def test_an_override_of_nothing_is_the_users_error(written: Any) -> None:
    assert "site.yaml: nodes: " in refused(written, "", "nodes=")
    assert "site.yaml: nodes: " in refused(written, "", "nodes")


def test_one_number_drives_the_tasks_of_a_node(written: Any) -> None:
    assert Profile(nodes=2, gpus_per_node=4).local_size == 4
    assert Profile(nodes=2, gpus_per_node=4).world_size == 8
    assert Profile(gpus_per_node=4, tasks_per_node=4).local_size == 4
    assert Profile(gpus_per_node=0, tasks_per_node=3, nodes=2).world_size == 6
    assert Profile(gpus_per_node=0).local_size == 1
    message = refused(written, "gpus_per_node: 4\ntasks_per_node: 2\n")
    assert "tasks_per_node 2 is not gpus_per_node 4" in message


@pytest.mark.parametrize(
    ("given", "kept", "counts"),
    [("3", 3, [3]), ("1-4", "1-4", [1, 2, 3, 4]), ("2-2", 2, [2]), (" 1-2 ", "1-2", [1, 2])],
)
def test_nodes_may_be_a_range(written: Any, given: str, kept: int | str, counts: list[int]) -> None:
    profile = written(f"nodes: '{given}'\ngpus_per_node: 2\n")
    assert (profile.nodes, list(profile.node_range)) == (kept, counts)
    assert profile.world_size == 2 * counts[-1]


@pytest.mark.parametrize("given", ["0", "-1", "4-1", "1-", "0-2", "1,2", "1.5", "two", "true"])
def test_what_is_no_number_of_nodes_is_one_line(written: Any, given: str) -> None:
    assert "neither a number from 1 nor a range such as 1-4" in refused(written, f"nodes: {given}")


text = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1)


@given(
    st.builds(
        Profile,
        partition=st.none() | text,
        time=st.from_regex(r"\A[1-9][0-9]?(-[0-9]+)?\Z"),
        memory_gb=st.none() | st.floats(0.1, 1e6),
        modules=st.lists(text),
        environment=st.dictionaries(st.from_regex(r"\A[A-Z_]+\Z"), st.text("0123.:-'\"$ yno")),
        setup=st.lists(text),
        sbatch=st.dictionaries(st.from_regex(r"\A[a-z][a-z-]*\Z"), text | st.booleans()),
    )
)
def test_a_profile_that_is_written_down_is_read_back_as_it_was(profile: Profile) -> None:
    written = yaml.safe_dump(profile.model_dump(mode="json"))
    assert parse_profile(read_yaml(written), "here") == profile


@pytest.mark.parametrize("key", ["comment=x --uid", "a\n#SBATCH --uid", "", "--", "a b", "ä"])
def test_an_option_that_is_more_than_an_option_is_refused(written: Any, key: str) -> None:
    message = refused(written, yaml.safe_dump({"sbatch": {key: "1"}}))
    assert "is not an option: letters, digits, dashes" in message


def test_what_looks_like_a_key_or_a_password_is_told_by_its_name() -> None:
    names = [
        "WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD", "db_passwd", "APIKEY",
    ]  # fmt: skip
    others = ["TOKENIZERS_PARALLELISM", "NCCL_DEBUG", "KEYBOARD", "WANDB_MODE"]
    profile = Profile(environment=dict.fromkeys([*names, *others], "1"))
    assert list(profile.secrets) == names
