"""Addresses of machines to measure on: ``ssh://user@host:port``."""

from __future__ import annotations

import dataclasses
import re
import urllib.parse
from pathlib import Path

from ovquant.errors import did_you_mean

_FORM = "ssh://USER@HOST:PORT, user and port where ssh does not know them"
_OPTIONS = ("python", "config")
_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:%-]*")
_USER = re.compile(r"[^-\s@][^\s@]*")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A machine that ssh reaches.

    Attributes:
        host: name, address, or alias in ssh's configuration.
        user, port: None leaves them to ssh.
        python: a Python there that has OpenVINO: a path, which may begin with ``~/``, or a name on its PATH.
        config: configuration file for ssh, in place of the user's.
    """

    host: str
    user: str | None = None
    port: int | None = None
    python: str = "python3"
    config: str | None = None

    def __str__(self) -> str:
        """Return it without options."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return "ssh://" + (f"{self.user}@" if self.user else "") + host + (f":{self.port}" if self.port else "")


def parse_address(text: str, python: str | None = None) -> Address:
    """Return the address that a text is.

    Args:
        text: ``ssh://user@host:port?python=/path/to/python&config=/path/to/ssh_config``; all but the host may be left out.
        python: goes over that of the text.

    Raises:
        ValueError: it is none; says what is wrong with it.
    """
    try:
        parts = urllib.parse.urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is no address ({error}); write {_FORM}") from None
    faults = []
    user = None if parts.username is None else urllib.parse.unquote(parts.username)
    if parts.scheme != "ssh":
        faults.append("it does not begin with ssh://")
    elif parts.hostname is None or not _HOST.fullmatch(parts.hostname):
        faults.append("it names no host")
    if parts.password is not None:
        faults.append("passwords are not taken; let ssh log in with a key")
    if user is not None and not _USER.fullmatch(user):
        faults.append(f"{user!r} is no user")
    if parts.path not in {"", "/"} or parts.fragment:
        faults.append("it has a path")
    try:
        options = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        options = {}
        faults.append(f"{parts.query!r} is no option=value")
    faults += [f"no option {name!r}{did_you_mean(name, _OPTIONS)}" for name in options if name not in _OPTIONS]
    config = options.get("config")
    if config is not None and not Path(config).is_absolute():
        faults.append("config takes a full path")
    if faults:
        raise ValueError(f"{text!r} is no address ({'; '.join(faults)}); write {_FORM}")
    host = str(parts.hostname)
    # urlsplit makes hosts lower case, and aliases in ssh's configuration need not be.
    at = parts.netloc.lower().rfind(host.lower())
    named = python or options.get("python") or Address.__dataclass_fields__["python"].default
    return Address(host=parts.netloc[at : at + len(host)], user=user, port=port, python=str(named), config=config)
