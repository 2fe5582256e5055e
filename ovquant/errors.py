"""Every way ovquant can refuse or fail, each with its exit code.

A message says where, what was found, what is accepted and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OvquantError(Exception):
    """Base of all errors that are reported to the user as one message."""

    exit_code = 1


class UsageError(OvquantError):
    """The command line asks for something that cannot be."""

    exit_code = 2


class ConfigError(OvquantError):
    """A job, target or recipe file cannot be used; all its faults are in one message."""

    exit_code = 3


class DataError(OvquantError):
    """The samples or their labels cannot be used with this model."""

    exit_code = 4


class ModelError(OvquantError):
    """The model cannot be read, run or quantized."""

    exit_code = 5


class DeviceError(OvquantError):
    """The target's device is not here, or is not what the target requires."""

    exit_code = 6


class OutputError(OvquantError):
    """The output directory cannot be used, or what is in it cannot be read."""

    exit_code = 7


class NoFeasibleStrategyError(OvquantError):
    """The search ended and no candidate met the constraints."""

    exit_code = 8


class AllCandidatesFailedError(OvquantError):
    """The search ended and not one candidate could be evaluated."""

    exit_code = 9


class RefutedError(OvquantError):
    """Data that took no part in making a model say that it breaks a limit; it is written all the same.

    After a search, the holdout refutes every finalist, and the first one is in ``best/``; after a replay, it is the recipe's.
    """

    exit_code = 10


class VerificationError(OvquantError):
    """A package is not what was exported, or does not do here what was recorded."""

    exit_code = 11


class InterruptedSearchError(OvquantError):
    """The user stopped the search; the study is kept."""

    exit_code = 130


def printable(text: str) -> str:
    """Return text in which what a terminal would obey is spelt out: names come from models and files that others made."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def did_you_mean(found: str, accepted: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the accepted word nearest to `found`, or an empty string."""
    near = difflib.get_close_matches(found, list(accepted), n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""


# OpenVINO puts these before the line that says what is wrong.
_NOISE = ("Exception from", "Check '", "File ", "FrontEnd API failed with")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that says something, or the error's class."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(_NOISE)]
    return (told or [line for line in lines if line] or [type(error).__name__])[0][:300]
