import contextlib
import http.server
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from pattlite_dist import stores
from pattlite_dist.data.fetch import Origin
from pattlite_dist.data.web import read_web
from pattlite_dist.errors import UserError
from pattlite_dist.logins import VARIABLE, put_away
from pattlite_dist.stores import Final
from tests.serving import serving

Seen = list[tuple[str, str | None]]  # paths asked for, and the login that came with each


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(stores, "_first_pause", 0.01)


class _Handler(http.server.BaseHTTPRequestHandler):
    """Redirects `/to?ADDRESS`, refuses `/closed` without a login, and answers all else."""

    seen: ClassVar[Seen]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        login = self.headers.get("Authorization")
        self.seen.append((self.path, login))
        if self.path.startswith("/to/?"):
            self.send_response(302)
            self.send_header("Location", self.path.partition("?")[2])
        elif self.path.startswith("/closed") and login is None:
            self.send_response(401)
        else:
            self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextlib.contextmanager
def server() -> Iterator[tuple[str, Seen]]:
    """An address, and what it is asked for."""
    seen: Seen = []
    handler = type("Handler", (_Handler,), {"seen": seen})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as found, serving(found):
        yield f"127.0.0.1:{found.server_port}", seen


BASIC = "Basic YWRhOnB3"  # ada:pw


def test_a_login_is_not_sent_on_to_another_server() -> None:
    with server() as (here, asked), server() as (there, leaked):
        read_web(f"http://ada:pw@{here}/to/?http://{there}/x", -1, 5)
        assert asked == [(f"/to/?http://{there}/x", BASIC)]
        assert leaked == [("/x", None)]
        # Nor when the other one sends it back: who knows what it asks for.
        read_web(f"http://ada:pw@{here}/to/?http://{there}/to/?http://{here}/y", -1, 5)
        assert asked[-1] == ("/y", None)


def test_a_login_follows_a_redirect_on_its_own_server() -> None:
    with server() as (here, asked):
        read_web(f"http://ada:pw@{here}/to/?/closed", -1, 5)
        read_web(f"http://ada:pw@{here}/to/?http://{here}/closed", -1, 5)
    assert [login for _, login in asked] == [BASIC] * 4


def test_the_login_of_netrc_is_sent_to_its_server_alone(tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ada password pw\n")
    with server() as (here, asked):
        read_web(f"http://{here}/closed", -1, 5)
        elsewhere = here.replace("127.0.0.1", "localhost")
        with pytest.raises(Final, match=r"401 Unauthorized; give the address with its login"):
            read_web(f"http://{elsewhere}/closed", -1, 5)
    assert [login for _, login in asked] == [BASIC, None]


def test_the_name_of_a_file_comes_before_a_signature_that_is_not_shown() -> None:
    with server() as (here, asked):
        for root in (f"http://{here}/set?sig=5ecret", put_away(f"http://{here}/set/?sig=5ecret")):
            origin = Origin(root)
            assert origin.read("a.tar", len) == 0
            assert "5ecret" not in origin.shown("a.tar")
    assert [path for path, _ in asked] == ["/set/a.tar?sig=5ecret"] * 2


def test_who_is_refused_is_told_what_to_give() -> None:
    with server() as (here, _), pytest.raises(UserError) as caught:
        Origin(f"http://{here}/closed").read("a.tar", len)
    assert f"cannot fetch http://{here}/closed/a.tar: the server responded 401" in str(caught.value)
    assert "in PATTLITE_SHARDS or on the command line" in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "http://ada:5ecret@host:5ecret/x", "http://host/a b?sig=5ecret", "http://[5ecret/x",
        "http://a..5ecret/x", "http://\x00/?5ecret",
    ],
)  # fmt: skip
def test_what_is_no_address_is_told_without_showing_it(address: str) -> None:
    with pytest.raises(UserError, match="not a valid address") as caught:
        Origin(address, retries=0).read("x", len)
    assert "5ecret" not in str(caught.value).replace("cannot fetch", "").partition(": ")[2]


def test_a_redirect_that_leads_nowhere_is_told_in_one_line_without_showing_it() -> None:
    with server() as (here, _):
        for place in ("http://ada:5ecret@[x/", "file:///etc/passwd?5ecret", "http://a b/5ecret"):
            with pytest.raises(UserError) as caught:
                Origin(f"http://{here}/to?{place}", retries=0).read("", len)
            assert "\n" not in str(caught.value)
            assert "5ecret" not in str(caught.value)
