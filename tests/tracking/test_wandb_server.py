import socket
import time
from collections.abc import Iterator

import pytest

from pattlite_dist.tracking.wandb_server import unreachable
from tests.tracking.wandb_server import wandb_server


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that accepts connections and never answers, as behind a firewall."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_any_answer_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        for status in (None, 401, 503):
            server.refuse = status
            assert unreachable() is None


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9", "http://no-such-host.invalid", "http://:password@127.0.0.1:9"]
)
def test_no_answer_is_told_within_seconds_and_without_secrets(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", url)
    told = unreachable()
    assert told is not None
    assert told.startswith(("http://127.0.0.1:9 cannot be", "http://no-such-host.invalid "))
    assert "password" not in told


def test_silence_is_not_waited_for(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", silent)
    begin = time.monotonic()
    told = unreachable(0.2)
    assert told is not None and silent in told
    assert time.monotonic() - begin < 5
