import os
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.config import Config, parse_config, to_yaml
from pattlite_dist.errors import UserError
from pattlite_dist.logins import (
    VARIABLE,
    complete,
    login_for,
    put_away,
    split_login,
    without_secrets,
)


@pytest.fixture(autouse=True)
def _none_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")


@pytest.mark.parametrize(
    ("address", "login", "shown"),
    [
        ("s3://bucket/a", "", "s3://bucket/a"),
        ("sftp://ada:se%40cret@host:22/a@b", "ada:se%40cret", "sftp://host:22/a@b"),
        ("https://host/a?sig=abc", "", "https://host/a"),
        ("ftp://ada@host", "ada", "ftp://host"),
    ],
)
def test_an_address_is_shown_without_its_secrets(address: str, login: str, shown: str) -> None:
    assert split_login(address)[1] == login
    assert without_secrets(address) == shown


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("https://ada:pw@host/a/", "https://host/a/"),
        ("HTTPS://token@host/a", "HTTPS://host/a"),
        ("https://host/a?X-Amz-Signature=pw&x=1", "https://host/a"),
        ("https://ada:p w@host/a", "https://host/a"),
        ("https://ada:p'w@host/a", "https://host/a"),
        ("https://ada:p,w@[::1]:80/a", "https://[::1]:80/a"),
        ("s3://key:pw@bucket/a", "s3://bucket/a"),
        ("simplecache::https://ada:pw@host/a", "simplecache::https://host/a"),
        ("--data.shards=https://ada:pw@host/a", "--data.shards=https://host/a"),
        ("data.shards=https://a:pw@b/c,https://d:pw@e/f?pw", "data.shards=https://b/c,https://e/f"),
        (
            "pipe:curl -s 'https://a:pw@b/{name}?s=pw' | cat",
            "pipe:curl -s 'https://b/{name}' | cat",
        ),
    ],
)
def test_a_secret_is_taken_out_and_put_back_where_its_address_is_opened(
    text: str, bare: str
) -> None:
    assert put_away(text) == bare
    assert put_away(bare) == bare
    whole = text.replace("p w", "p%20w")
    assert complete(bare) == whole
    assert complete(complete(bare)) == whole


def test_a_secret_is_for_its_own_address_alone() -> None:
    put_away("https://ada:pw@host/a")
    for other in ("https://host/ab", "https://host/", "http://host/a", "https://host.net/a"):
        assert complete(other) == other


@pytest.mark.parametrize(
    "text",
    [
        "shards/a@b?c", "s3://bucket/a", "sftp://ada@host/a", "abfs://container@account/a",
        "hf://datasets/a/b@main/c", "optim.lr=1e-3", "pipe:python -u fetch.py {name}",
        "pipe:aws s3api get-object --key={name} -", "pipe:curl -u $LOGIN https://host/{name}?s=$S",
        "pipe:curl -H \"Authorization: Bearer $TOKEN\" https://host/{name}",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    assert put_away(text) == text
    assert os.environ[VARIABLE] == ""


@pytest.mark.parametrize(
    "command",
    [
        "pipe:curl -u ada:pw https://host/{name}",
        "data.shards=pipe:curl --user='ada:pw' https://host/{name}",
        "pipe:curl -H 'Authorization: Bearer pw' https://host/{name}",
        "pipe:API_KEY=pw fetch {name}",
    ],
)
def test_a_command_with_a_login_of_its_own_is_refused_without_showing_it(command: str) -> None:
    with pytest.raises(UserError, match=r"such as \$TOKEN") as caught:
        put_away(command)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("password", ["p/w", "p?w"])
def test_a_login_that_ends_the_address_is_refused_without_showing_it(password: str) -> None:
    with pytest.raises(UserError, match="write them as %2F and %3F") as caught:
        put_away(f"https://ada:{password}@host/a")
    assert "ada" not in str(caught.value)


LETTERS = st.text(string.ascii_letters + string.digits + "%.~!$&()*+,;=:_-", max_size=8)


@given(LETTERS, LETTERS, LETTERS)
def test_no_login_or_query_is_left_in_an_address(name: str, password: str, query: str) -> None:
    secret = f"{name}:{password}-5ecret"
    for text in (f"https://{secret}@host/a", f"https://host/a?{query}5ecret"):
        assert "5ecret" not in put_away(text)
        assert "5ecret" not in without_secrets(text)
        assert "5ecret" in complete(put_away(text))


def test_a_user_may_give_whole_addresses_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, " https://ada:pw@host/a/\n\thttps://other/b?sig=x ")
    assert complete("https://host/a") == "https://ada:pw@host/a/"
    assert complete("https://other/b/") == "https://other/b?sig=x"
    put_away("https://bob:new@host/a")  # on the command line: the newest counts
    assert complete("https://host/a") == "https://bob:new@host/a"
    assert complete("https://other/b").endswith("?sig=x")


def test_the_login_of_a_server_may_be_in_netrc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert login_for("https://host/a") == ""
    known = "machine host login ada password p:w\ndefault login x password y\n"
    (tmp_path / "netrc").write_text(known)
    assert login_for("https://host:81/a") == "ada:p%3Aw"
    assert login_for("https://other/a") == "", "a default would be sent to every server"
    (tmp_path / "netrc").write_bytes(b"machine \xff\n")
    assert login_for("https://host/a") == ""


def test_no_configuration_holds_a_secret_and_no_error_shows_one() -> None:
    address = "https://ada:pw@host/a?sig=pw"
    for made in (
        Config.model_validate({"data": {"shards": address}}),
        parse_config({"data": {"shards": address}}, "test"),
    ):
        assert made.data.shards == "https://host/a"
        assert "pw" not in to_yaml(made)
    for wrong in ({"shards": address, "workers": -1}, {"shards": [address]}, [address]):
        with pytest.raises(UserError) as caught:
            parse_config({"data": wrong, "finetune": {"start_epoch": 999}}, "test")
        assert "pw" not in str(caught.value)
    assert complete("https://host/a") == address
