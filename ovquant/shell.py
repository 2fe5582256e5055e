"""How a command is run: its words, its JSON, its errors as one message and an exit code."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from ovquant.errors import InterruptedSearchError, OvquantError, first_line, printable

if TYPE_CHECKING:
    from ovquant.console import Console


def run_command(
    command: Callable[[Console], dict[str, Any]],
    *,
    is_json: bool,
    is_quiet: bool = False,
    is_plain: bool = False,
    is_verbose: bool = False,
    is_debug: bool = False,
) -> None:
    """Run a command, print its JSON if asked for, and turn errors into one message and an exit code."""
    from ovquant.console import Console
    from ovquant.interrupts import terminate_like_interrupt
    from ovquant.log import logging_to

    terminate_like_interrupt()
    console = Console(is_json=is_json, is_quiet=is_quiet, is_plain=is_plain)
    try:
        with logging_to(console.warn) if is_verbose else contextlib.nullcontext():
            result = command(console)
    except KeyboardInterrupt:
        _fail(InterruptedSearchError("interrupted"), is_json)
    except OvquantError as error:
        _fail(error, is_json, is_debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except Exception as error:
        told = OvquantError(f"unexpected {type(error).__name__}: {first_line(error)} (--debug shows where)")
        _fail(told, is_json, is_debug)
    else:
        if is_json:
            typer.echo(json.dumps(result, indent=2))


def _fail(error: OvquantError, is_json: bool, is_debug: bool = False) -> None:
    if is_debug:
        traceback.print_exc()
    typer.echo(f"error: {printable(str(error))}", err=True)
    if is_json:
        typer.echo(json.dumps({"error": str(error), "exit_code": error.exit_code}))
    raise typer.Exit(error.exit_code)
