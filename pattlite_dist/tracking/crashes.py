"""When a run that crashes is not started again: pure functions of its history."""

from collections.abc import Mapping, Sequence
from typing import Any

MOST = 3  # starts in a row that end in a crash without a newer checkpoint


def in_vain(events: Sequence[Mapping[str, Any]], step: int) -> list[str]:
    """Why the last starts crashed that left the newest checkpoint as it was, oldest first.

    They are counted from the last submission, after which somebody has looked.

    Args:
        events: of the run, oldest first; those of crashes are `requeued` with an `error`.
        step: of the newest checkpoint; 0 if there is none.
    """
    reasons: list[str] = []
    for event in reversed(events):
        if event.get("kind", "train") != "train":
            continue
        if event["event"] == "submitted":
            break
        if event["event"] == "requeued" and event.get("error"):
            if event.get("step") != step:
                break
            reasons.append(str(event["error"]))
    return reasons[::-1]


def starts_in_vain(events: Sequence[Mapping[str, Any]], step: int) -> list[str]:
    """As `in_vain`, by starts that no scheduler requeued but an agent, such as torchrun's.

    Args:
        events: of the run up to this start, oldest first.
        step: that it continues from.
    """
    reasons: list[str] = []
    reason = "killed"
    for event in reversed(events):
        if event.get("kind", "train") != "train":
            continue
        if event["event"] in ("submitted", "stopped", "finished"):
            break
        if event["event"] == "failed":
            reason = str(event.get("error"))
        if event["event"] in ("started", "probed"):
            if event.get("step") != step:
                break
            reasons.append(reason)
            reason = "killed"
    return reasons[::-1]


def given_up(reasons: Sequence[str]) -> str | None:
    """What to say of a run that crashed this often in vain; None if it may start again."""
    if len(reasons) < MOST:
        return None
    told = "; ".join(f"{i}: {reason}" for i, reason in enumerate(reasons[-MOST:], 1))
    return f"{MOST} starts without a newer checkpoint ({told})"
