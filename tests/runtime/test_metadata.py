"""Against a server that answers as each cloud's pages say, or otherwise."""

import contextlib
import time
from collections.abc import Iterator

import pytest

from pattlite_dist.runtime import metadata
from pattlite_dist.runtime.metadata import Notice, Service, find
from tests.metadata_server import AWS, AZURE, GOOGLE, Answer, Cloud, addresses, served

CLOUDS = (AWS, GOOGLE, AZURE)
# 2033-05-18
AT = 2_000_000_000.0
NONSENSE = [
    Answer(404), Answer(500, "Internal error"), Answer(200), Answer(200, "<html>\nLog in</html>"),
    Answer(200, "[]"), Answer(200, '{"Events": 7, "action": 8}'), Answer(200, '{"Events": [9]}'),
    Answer(302, "", {"Location": "http://127.0.0.1:9/"}), Answer(200, "\x00\u00ff" * 100_000),
    Answer(200, "[" * 60_000),
]  # fmt: skip


@pytest.fixture(params=CLOUDS)
def cloud(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    with served(Cloud(request.param)) as server:
        yield server


def found(cloud: Cloud) -> Service:
    service = find(addresses(cloud))
    assert service is not None and service.name == cloud.kind
    return service


def test_the_cloud_that_answers_gives_notice(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata.Google, "_WAIT", 0)
    service = found(cloud)
    assert service.notice() is None
    assert service.notice() is None
    cloud.take(AT)
    told = service.notice()
    assert told is not None and told.ends is not None
    if cloud.kind == GOOGLE:
        assert 0 <= time.time() + 30 - told.ends < 30
    else:
        assert told.ends == AT


@pytest.mark.parametrize("answer", NONSENSE)
def test_nonsense_is_no_notice_and_no_cloud(
    answer: Answer, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata.Google, "_WAIT", 0)
    service = found(cloud)
    cloud.broken = answer
    assert find(addresses(cloud)) is None
    with contextlib.suppress(OSError, ValueError):
        assert service.notice() is None
    cloud.broken = None
    assert service.notice() is None
    cloud.take(AT)
    assert service.notice() is not None


def test_where_nobody_answers_there_is_no_cloud(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "_QUICK", 0.05)
    cloud.silent = True
    assert find(addresses(cloud)) is None
    assert len(cloud.asked) == len(CLOUDS)
    closed = {**addresses(cloud), "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://[::1:x"}
    closed |= {"GCE_METADATA_HOST": "a..b", "PATTLITE_AZURE_METADATA": "http://127.0.0.1:1"}
    assert find(closed) is None


def test_google_answers_once_there_is_a_change() -> None:
    with served(Cloud(GOOGLE)) as cloud:
        service = found(cloud)
        assert service.notice() is None  # at once: it has not seen this state
        cloud.take(AT)
        assert service.notice() is not None  # it would wait for a minute otherwise


def test_a_token_of_aws_that_has_run_out_is_replaced() -> None:
    with served(Cloud(AWS)) as cloud:
        service = found(cloud)
        cloud.forget_tokens()
        assert service.notice() is None
        cloud.take(AT)
        cloud.forget_tokens()
        assert service.notice() == Notice(AT)


def test_aws_is_not_asked_where_that_is_forbidden() -> None:
    with served(Cloud(AWS)) as cloud:
        assert find({**addresses(cloud), "AWS_EC2_METADATA_DISABLED": "true"}) is None
        assert "/latest/api/token" not in cloud.asked


@pytest.mark.parametrize(
    ("machine", "event"), [("set_30", "Preempt"), ("set_3", "Reboot"), ("set_3", "Freeze")]
)
def test_azure_tells_of_other_machines_and_events_too(machine: str, event: str) -> None:
    with served(Cloud(AZURE)) as cloud:
        service = found(cloud)
        cloud.take(AT, machine, event)
        assert service.notice() is None


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2033-05-18T03:33:20Z", AT),
        ("2033-05-18T05:33:20+02:00", AT),
        ("2033-05-18T03:33:20", AT),
        ("Wed, 18 May 2033 03:33:20 GMT", AT),
        ("", None),
        ("soon", None),
        ("Wed, 18 May 20330000000000000000 03:33:20 GMT", None),
        (7, None),
        (None, None),
    ],
)
def test_times_are_read_as_each_cloud_writes_them(text: object, moment: float | None) -> None:
    assert metadata._moment(text) == moment
