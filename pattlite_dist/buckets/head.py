"""The pointer of a run in a bucket: the newest state and the owner, in one small object.

Each change is a compare-and-set on the version that the owner knows, so nobody publishes who is not
the owner, and nobody can own the run without the others seeing it at their next change. This is a
fencing token (Kleppmann, "How to do distributed locking", 2016) that the storage itself checks.
"""

import json
from typing import Any, NamedTuple

from pattlite_dist.buckets.state import Damaged

HEAD = "head.json"


class Head(NamedTuple):
    """What the pointer says.

    Attributes:
        number: of the owner; each has a higher one than those before.
        owner: what names it: job, host, process; and `nonce`, which no other has.
        beat: how often the owner has changed the pointer; no content ever comes twice.
        states: the keys of the newest state and of the one before.
        released: whether the owner has ended.
    """

    number: int
    owner: dict[str, Any]
    beat: int = 0
    states: tuple[str, ...] = ()
    released: bool = False

    def encode(self) -> bytes:
        """As JSON."""
        return json.dumps(self._asdict()).encode()

    def is_of(self, other: "Head") -> bool:
        """Whether both have the same owner."""
        return (self.number, self.owner) == (other.number, other.owner)

    def beaten(self) -> "Head":
        """A sign of life."""
        return self._replace(beat=self.beat + 1)

    def moved(self, state: str) -> "Head":
        """It points to a newer state."""
        before = tuple(key for key in self.states[:1] if key != state)
        return self.beaten()._replace(states=(state, *before))

    def ended(self) -> "Head":
        """The owner has ended."""
        return self.beaten()._replace(released=True)


def taken(before: Head | None, owner: dict[str, Any]) -> Head:
    """The pointer of a new owner."""
    if before is None:
        return Head(1, owner)
    return Head(before.number + 1, owner, states=before.states)


def parse_head(data: bytes) -> Head:
    """What `Head.encode` returned.

    Raises:
        Damaged: it is something else.
    """
    try:
        content = json.loads(data)
        states = tuple(str(key) for key in content["states"])
        return Head(
            int(content["number"]),
            dict(content["owner"]),
            int(content["beat"]),
            states,
            bool(content["released"]),
        )
    except (ValueError, LookupError, TypeError) as error:
        raise Damaged(f"{HEAD} is not the pointer of a run ({type(error).__name__})") from error
