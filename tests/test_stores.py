import errno
import logging

import pytest

from pattlite_dist import stores
from pattlite_dist.stores import (
    Final,
    Transient,
    is_lasting,
    patiently,
    store_errors,
)


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(stores.time, "sleep", slept.append)
    return slept


def boto(name: str, *bases: str) -> Exception:
    """An error whose class looks like one of botocore's."""
    kind: type[Exception] = Exception
    for base in ("BotoCoreError", *bases, name):
        kind = type(base, (kind,), {})
    return kind("boto says so")


def with_status(status: int, where: str = "code") -> Exception:
    """A status as in errors of gcsfs (`code`), aiohttp (`status`), or botocore (`response`)."""
    error = Exception("the server says so")
    held = {"ResponseMetadata": {"HTTPStatusCode": status}} if where == "response" else status
    setattr(error, where, held)
    return error


def caused(cause: Exception) -> Exception:
    error = OSError(errno.EIO, "s3fs says so")
    error.__cause__ = cause
    return error


LASTING = [
    FileNotFoundError("The specified bucket does not exist"),
    PermissionError("Access Denied"),
    ValueError("Protocol not known: nowhere"),
    NotImplementedError(),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EINVAL, "InvalidBucketName"),
    boto("NoCredentialsError"),
    boto("ParamValidationError"),
    type("DefaultCredentialsError", (Exception,), {})("google-auth says so"),
    with_status(403),
    with_status(404, "status"),
    caused(with_status(405, "response")),
]
PASSING = [
    TimeoutError(),
    ConnectionResetError(errno.ECONNRESET, "reset"),
    OSError(errno.EBUSY, "SlowDown"),
    OSError(errno.EIO, "?"),
    boto("EndpointConnectionError", "ConnectionError"),
    boto("ReadTimeoutError", "HTTPClientError"),
    with_status(429),
    with_status(500, "status"),
    caused(with_status(503, "response")),
    RuntimeError("unheard of"),
]


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_what_will_not_pass_is_final(error: Exception) -> None:
    assert is_lasting(error)
    with pytest.raises(Final), store_errors("s3://bucket"):
        raise error


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_may_pass_is_worth_another_try(error: Exception) -> None:
    assert not is_lasting(error)
    with pytest.raises(Transient), store_errors("s3://bucket"):
        raise error


def test_the_errors_of_the_libraries_themselves_are_told_apart() -> None:
    from botocore import exceptions

    assert is_lasting(exceptions.NoCredentialsError())
    assert is_lasting(exceptions.ProfileNotFound(profile="x"))
    assert is_lasting(exceptions.ParamValidationError(report="x"))
    assert not is_lasting(exceptions.EndpointConnectionError(endpoint_url="x"))
    assert not is_lasting(exceptions.ConnectTimeoutError(endpoint_url="x"))
    assert not is_lasting(exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2))
    answer = {"Error": {"Code": "Odd"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
    assert is_lasting(exceptions.ClientError(answer, "PutObject"))  # type: ignore[arg-type]


def test_a_reason_is_one_short_line_without_the_login() -> None:
    address = "sftp://ada:se%40cret@host/a"
    with pytest.raises(Transient) as caught, store_errors(address):
        raise RuntimeError(f"\n  no luck with {address} (se@cret)\n" + "more\n")
    assert str(caught.value) == "RuntimeError: no luck with sftp://***@host/a (***)"
    with pytest.raises(Transient) as caught, store_errors(address):
        raise RuntimeError("x" * 5000)
    assert len(str(caught.value)) < 400
    with pytest.raises(Transient) as caught, store_errors(address):
        raise RuntimeError
    assert str(caught.value) == "RuntimeError"


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("s3://b", r"pip install 'pattlite_dist\[s3\]'"),
        ("gcs://b", r"pip install 'pattlite_dist\[gs\]'"),
        ("abfs://b", "adlfs; install it with pip"),
    ],
)
def test_a_missing_package_is_named(address: str, told: str) -> None:
    with pytest.raises(Final, match=told), store_errors(address):
        raise ImportError("Install adlfs")


def test_a_failure_that_passes_costs_pauses_that_grow(
    pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    answers = [Transient("a"), Transient("b"), None]

    def action() -> str:
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        return "done"

    with caplog.at_level(logging.WARNING):
        assert patiently(action, "cannot write it", 2) == "done"
    assert 0.25 <= pauses[0] <= 0.5 <= pauses[1] <= 1
    assert caplog.messages == [f"cannot write it: {name}; trying again" for name in "ab"]


def test_patience_ends(pauses: list[float]) -> None:
    def action() -> None:
        raise Transient("the last words")

    with pytest.raises(Final, match=r"^the last words; check .* \(tried 10 times\)$"):
        patiently(action, "it", 9)
    assert len(pauses) == 9
    assert max(pauses) <= 30


def test_what_is_final_is_not_tried_again(pauses: list[float]) -> None:
    def action() -> None:
        raise Final("no")

    with pytest.raises(Final, match=r"^no$"):
        patiently(action, "it", 9)
    assert pauses == []
