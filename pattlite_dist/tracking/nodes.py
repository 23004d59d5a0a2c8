"""What runs have seen of each node: pure functions of their histories."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

Event = Mapping[str, Any]
Kind = Literal["crash", "hang", "probe"]
_WHERE = re.compile(r"\branks? [\d,-]+ on ([^\s:,;]+)")
_HUNG = re.compile(r"\b(hung in|stopped answering)\b")


class Failure(NamedTuple):
    """A start of a run that a node ended; `time` is in seconds since 1970, None if unknown."""

    kind: Kind
    reason: str
    run: str
    time: float | None


class Node(NamedTuple):
    """What runs have seen of a node.

    Attributes:
        node: name.
        runs: that it has taken part in.
        starts: of these.
        steps: of these, as far as they were kept.
        seconds_lost: between the newest checkpoint and the end of each start that it ended.
        failures: these, oldest first.
        slow: runs whose last start waited for a rank on it, and which share of the time.
        excluded: runs that now do without it.
    """

    node: str
    runs: int = 0
    starts: int = 0
    steps: int = 0
    seconds_lost: float = 0.0
    failures: tuple[Failure, ...] = ()
    slow: Mapping[str, float] = {}
    excluded: tuple[str, ...] = ()

    def count(self, kind: Kind) -> int:
        """How many of its failures are of a kind."""
        return sum(failure.kind == kind for failure in self.failures)


class Seen(NamedTuple):
    """A run: its history, and what its record adds.

    Attributes:
        run: folder.
        events: oldest first.
        steps: taken so far.
        straggler: the rank that the others of the last start wait for, and the share of the time.
    """

    run: str
    events: Sequence[Event]
    steps: int = 0
    straggler: tuple[int, float] | None = None


class _Start(NamedTuple):
    """A start, with the events until the next; `step` is None where nobody knew it yet."""

    nodes: tuple[str, ...]
    step: int | None
    events: tuple[Event, ...]
    bad: Mapping[str, Sequence[str]] | None = None  # of a probe that ended it


def sum_up(runs: Iterable[Seen]) -> list[Node]:
    """What these runs have seen, by the names of the nodes."""
    found: dict[str, Node] = {}
    for run in runs:
        for node in _of_run(run):
            old = found.get(node.node, Node(node.node))
            found[node.node] = Node(
                node.node,
                old.runs + node.runs,
                old.starts + node.starts,
                old.steps + node.steps,
                round(old.seconds_lost + node.seconds_lost, 3),
                tuple(sorted([*old.failures, *node.failures], key=lambda f: f.time or 0.0)),
                {**old.slow, **node.slow},
                old.excluded + node.excluded,
            )
    return [found[name] for name in sorted(found, key=natural)]


def _of_run(run: Seen) -> list[Node]:
    starts = _starts(run.events)
    found: dict[str, Node] = {}

    def change(name: str, **more: Any) -> None:
        node = found.get(name, Node(name))
        sums = {key: getattr(node, key) + value for key, value in more.items()}
        found[name] = node._replace(**sums)

    for place, start in enumerate(starts):
        later = [other.step for other in starts[place + 1 :] if other.step is not None]
        begin, end = start.step or 0, later[0] if later else run.steps
        for name in start.nodes:
            change(name, starts=1, steps=max(end - begin, 0))
        kind, blamed = _blamed(start)
        for name, reason in blamed.items():
            failure = Failure(kind, reason, run.run, _time(_failures(start)[-1]))
            lost = _lost(start, end > begin) / len(blamed)
            change(name, failures=(failure,), seconds_lost=lost)
    nodes = {name: node._replace(runs=1) for name, node in found.items()}
    ranks = starts[-1].events[0].get("ranks") if starts else None
    if run.straggler is not None and isinstance(ranks, int) and starts[-1].nodes:
        rank, cost = run.straggler
        name = starts[-1].nodes[min(rank, ranks - 1) * len(starts[-1].nodes) // ranks]
        nodes[name] = nodes[name]._replace(slow={run.run: cost})
    for name in excluded(run.events):
        nodes[name] = nodes.get(name, Node(name))._replace(excluded=(run.run,))
    return list(nodes.values())


def _starts(events: Sequence[Event]) -> list[_Start]:
    """Starts of training, those included that a probe ended."""
    begun: list[_Start] = []
    for event in events:
        if event.get("kind", "train") != "train":
            continue
        step = event.get("step")
        step = step if isinstance(step, int) else None
        if event["event"] == "started":
            begun.append(_Start(_nodes(event), step, (event,)))
        elif event["event"] == "probed" and isinstance(event.get("bad"), Mapping):
            before = begun[-1] if begun else None
            if before is not None and before.bad is not None and _same(before.events[0], event):
                # Of several nodes that each say so, because they reach no other.
                begun[-1] = before._replace(bad={**before.bad, **event["bad"]})
            else:
                begun.append(_Start((), step, (event,), event["bad"]))
        elif begun:
            begun[-1] = begun[-1]._replace(events=(*begun[-1].events, event))
    return begun


def _same(one: Event, other: Event) -> bool:
    """Whether two events are of the same start of a job."""
    keys = ("job", "restart")
    return one.get("job") is not None and all(one.get(key) == other.get(key) for key in keys)


def _nodes(event: Event) -> tuple[str, ...]:
    """Those of a start; earlier versions kept only where rank 0 was."""
    names = event.get("nodes")
    if isinstance(names, list) and names:
        return tuple(map(str, names))
    return (str(event["host"]),) if event.get("host") else ()


def _time(event: Event) -> float | None:
    moment = event.get("time")
    return float(moment) if isinstance(moment, int | float) else None


def _failures(start: _Start) -> list[Event]:
    """The events that tell of a start's crash; a user's mistake is none."""
    if start.bad is not None:
        return [start.events[0]]
    told = [e for e in start.events if e["event"] in ("failed", "requeued") and e.get("error")]
    return [e for e in told if not e.get("final") or e.get("cause")]


def _reason(event: Event) -> str:
    return str(event.get("cause") or event.get("error"))


def _blamed(start: _Start) -> tuple[Kind, dict[str, str]]:
    """What ended a start, and the nodes that are to blame, each with the reason.

    Of a crash whose node is not named, that is the only node, if there was only one.
    """
    if start.bad is not None:
        return "probe", {name: ", ".join(map(str, why)) for name, why in start.bad.items()}
    reasons = [_reason(event) for event in _failures(start)]
    kind: Kind = "hang" if any(_HUNG.search(reason) for reason in reasons) else "crash"
    for reason in reasons:
        names = list(dict.fromkeys(_WHERE.findall(reason)))
        if names:
            return kind, dict.fromkeys(names, reason)
    alone = start.nodes if len(start.nodes) == 1 else ()
    return kind, dict.fromkeys(alone, reasons[-1]) if reasons else {}


def _lost(start: _Start, got_on: bool) -> float:
    """Seconds of a start that were lost, which ended in a failure.

    Args:
        start: this one.
        got_on: whether it led to a newer checkpoint.
    """
    failures = _failures(start)
    told = [float(e["lost"]) for e in failures if isinstance(e.get("lost"), int | float)]
    if told:
        return max(told[-1], 0.0)
    begin, end = _time(start.events[0]), _time(failures[-1])
    if got_on or begin is None or end is None:  # nobody noted how much of it
        return 0.0
    return max(end - begin, 0.0)


def _listed(events: Sequence[Event], fact: str) -> list[str]:
    """The nodes that a fact of requeueings lists, since the last submission."""
    found: dict[str, None] = {}
    for event in reversed(events):
        if event.get("kind", "train") != "train":
            continue
        if event["event"] == "submitted":
            break
        names = event.get(fact)
        if event["event"] == "requeued" and isinstance(names, list):
            found.update(dict.fromkeys(map(str, names)))
    return sorted(found, key=natural)


def excluded(events: Sequence[Event]) -> list[str]:
    """The nodes that a run's newest job does without, because they failed."""
    return _listed(events, "excluded")


def kept(events: Sequence[Event]) -> list[str]:
    """The nodes that failed, but that its newest job could not do without."""
    return _listed(events, "kept")


def natural(name: str) -> list[tuple[int, str]]:
    """A key to sort names by: `n10` comes after `n9`."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
