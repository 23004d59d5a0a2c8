"""What runs have seen of each node, summed up from their histories."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.tracking.nodes import Node, Seen, excluded, kept, sum_up

KILLED = "rank 1 on n2 was killed after step 12"
HUNG = "rank 1 on n2 stopped answering, last seen in a step at step 12; their stacks are in stacks/"


def event(name: str, **facts: Any) -> dict[str, Any]:
    return {"event": name, **facts}


def started(step: int, *nodes: str, **facts: Any) -> dict[str, Any]:
    return event("started", step=step, nodes=list(nodes), ranks=len(nodes), **facts)


def by_name(*runs: Seen) -> dict[str, Node]:
    return {node.node: node for node in sum_up(runs)}


def test_starts_and_steps_count_for_each_node_as_far_as_they_were_kept() -> None:
    told = [
        event("submitted"), started(0, "n1", "n2"), event("stopped", step=7),
        started(7, "n1"), event("started", kind="evaluate", nodes=["n3"]),
        event("requeued", error="exit status 9", step=9), started(9, "n1", "n10"),
    ]  # fmt: skip
    found = by_name(Seen("a", told, 20), Seen("b", told[:3], 7))
    assert list(found) == ["n1", "n2", "n10"]
    assert [(n.runs, n.starts, n.steps) for n in found.values()] == [
        (2, 4, 27), (2, 2, 14), (1, 1, 11),
    ]  # fmt: skip


def test_a_failure_counts_for_the_node_that_is_named_with_what_was_lost() -> None:
    told = [
        started(0, "n1", "n2", time=10.0), event("failed", error="lost the connection", time=30.0),
        event("requeued", error=KILLED, step=9, lost=7.5, time=31.0),
        started(9, "n1", "n2", time=50.0), event("failed", error=HUNG, time=60.0),
        started(9, "n1", "n2", time=70.0), event("failed", error="bad", final=True, time=99.0),
        started(9, "n1", time=100.0), event("failed", error="OutOfMemoryError: x", time=104.0),
        event("failed", error="3 starts", final=True, cause=KILLED, lost=1.0),
    ]  # fmt: skip
    found = by_name(Seen("a", told, 12))
    n1, n2 = found["n1"], found["n2"]
    assert (n2.count("crash"), n2.count("hang"), n2.count("probe")) == (2, 1, 0)
    assert n2.seconds_lost == 7.5 + 10 + 1
    assert {failure.reason for failure in n2.failures} == {KILLED, HUNG}
    assert n1.failures == (), "the last crash names another"
    [alone] = by_name(Seen("a", told[-3:-1], 9))["n1"].failures
    assert (alone.kind, alone.reason, alone.time) == ("crash", "OutOfMemoryError: x", 104.0)


def test_failed_probes_count_though_nothing_was_started() -> None:
    told = [
        started(0, "n1", "n2"), event("stopped", step=5),
        event("probed", step=5, bad={"n2": ["full", "slow"]}, job="7", restart=1),
        event("failed", error="node n2 failed its probe: full", job="7", restart=1),
        event("requeued", error="x", step=5, excluded=["n2"]), started(5, "n1"),
        event("probed", bad={"n3": ["cannot reach"]}, job="7", restart=2),
        event("probed", bad={"n4": ["cannot reach"]}, job="7", restart=2),
        event("requeued", error="x", step=5, kept=["n3"]), started(8, "n1"),
    ]  # fmt: skip
    found = by_name(Seen("a", told, 9))
    assert [f.reason for f in found["n2"].failures] == ["full, slow"]
    assert (found["n2"].starts, found["n2"].excluded) == (1, ("a",))
    assert [found[name].count("probe") for name in ("n1", "n3", "n4")] == [0, 1, 1]
    assert found["n1"].steps == 5 + 3 + 1
    assert (excluded(told), kept(told)) == (["n2"], ["n3"])
    again = [*told, event("submitted", kind="evaluate"), event("submitted")]
    assert (excluded(again[:-1]), excluded(again), kept(again)) == (["n2"], [], [])


def test_a_slow_rank_is_one_of_its_node() -> None:
    told = [event("started", step=0, nodes=["n1", "n2"], ranks=8)]
    assert by_name(Seen("a", told, 5, (3, 0.2)))["n1"].slow == {"a": 0.2}
    assert by_name(Seen("a", told, 5, (4, 0.2)))["n2"].slow == {"a": 0.2}


def test_an_older_history_says_only_where_rank_0_was() -> None:
    told = [event("started", step=0, host="login", ranks=2), event("stopped", step=3)]
    assert by_name(Seen("a", told, 3)) == {"login": Node("login", 1, 1, 3)}


NAMES = st.sampled_from(
    ["submitted", "started", "probed", "first_step", "stopped", "requeued", "finished", "failed"]
)
VALUES = st.none() | st.integers(0, 9) | st.sampled_from([KILLED, "x"]) | st.just(["n1", "n2"])
KEYS = st.sampled_from(["step", "nodes", "ranks", "host", "error", "time", "lost", "excluded",
                        "bad", "final", "cause", "job", "kind"])  # fmt: skip
EVENTS = st.lists(
    st.builds(lambda name, facts: {**facts, "event": name}, NAMES, st.dictionaries(KEYS, VALUES))
)


@given(EVENTS, st.integers(0, 20), st.none() | st.tuples(st.integers(0, 9), st.just(0.5)))
def test_whatever_a_history_holds_is_summed_up(
    told: list[dict[str, Any]], steps: int, slow: tuple[int, float] | None
) -> None:
    for node in sum_up([Seen("a", told, steps, slow)]):
        assert node.runs in (0, 1)
        assert node.steps >= 0
        assert node.seconds_lost >= 0
        assert node.starts <= sum(one["event"] == "started" for one in told)
