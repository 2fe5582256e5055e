"""Addresses of machines to measure on."""

from __future__ import annotations

import pytest

from ovquant.address import Address, parse_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ssh://board", Address(host="board")),
        ("ssh://me@board:2222", Address(host="board", user="me", port=2222)),
        ("ssh://Board/", Address(host="Board")),
        ("ssh://me@[::1]:22", Address(host="::1", user="me", port=22)),
        ("ssh://me@[FE80::1%eth0]", Address(host="FE80::1%eth0", user="me")),
        ("ssh://[fe80::1%ETH0]:22", Address(host="fe80::1%ETH0", port=22)),
        ("ssh://10.0.0.7?python=/opt/ov/bin/python", Address(host="10.0.0.7", python="/opt/ov/bin/python")),
        (
            "ssh://b?config=/home/me/conf&python=~/ov/bin/python",
            Address(host="b", config="/home/me/conf", python="~/ov/bin/python"),
        ),
        ("ssh://a%2Bb@board", Address(host="board", user="a+b")),
    ],
)
def test_an_address_is_read(text: str, expected: Address) -> None:
    assert parse_address(text) == expected


def test_the_python_that_is_named_apart_goes_over_that_of_the_address() -> None:
    assert parse_address("ssh://board?python=python3.11", "python3.12").python == "python3.12"


@pytest.mark.parametrize("text", ["ssh://board", "ssh://me@board:2222", "ssh://me@[::1]:22"])
def test_an_address_is_told_without_its_options(text: str) -> None:
    assert str(parse_address(f"{text}?python=/x")) == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("board", "it does not begin with ssh://"),
        ("http://board", "it does not begin with ssh://"),
        ("ssh://", "it names no host"),
        ("ssh://me@", "it names no host"),
        ("ssh://-oProxyCommand=touch", "it names no host"),
        ("ssh://bo ard", "it names no host"),
        ("ssh://-l@board", "'-l' is no user"),
        ("ssh://me:secret@board", "passwords are not taken"),
        ("ssh://board:port", "Port could not be cast"),
        ("ssh://board:99999", "Port out of range"),
        ("ssh://board/home/me", "it has a path"),
        ("ssh://board?pyhton=/x", r"no option 'pyhton' \(did you mean 'python'\?\)"),
        ("ssh://board?python", "'python' is no option=value"),
        ("ssh://board?config=conf", "config takes a full path"),
        ("ssh://[::1", "Invalid IPv6 URL"),
    ],
)
def test_what_is_no_address_is_refused_in_words(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=f"{told}.*write ssh://USER@HOST:PORT"):
        parse_address(text)
