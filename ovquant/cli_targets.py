"""The commands on target profiles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovquant.options import (
    IsDebug,
    IsJson,
)
from ovquant.shell import run_command

if TYPE_CHECKING:
    from ovquant.console import Console

targets_app = typer.Typer(help="Target profiles: list, show, check, probe, schema.", no_args_is_help=True, rich_markup_mode=None)


@targets_app.command("list")
def list_targets(is_json: IsJson = False) -> None:
    """List the shipped profiles."""

    def run(console: Console) -> dict[str, Any]:
        from ovquant.targets import list_targets

        return list_targets(console.result)

    run_command(run, is_json=is_json)


@targets_app.command("show")
def show_target(
    name: Annotated[str, typer.Argument(help="Shipped profile or YAML file.")],
    is_resolved: Annotated[bool, typer.Option("--resolved", help="With all that it extends, in one file.")] = False,
    is_json: IsJson = False,
) -> None:
    """Show a profile."""

    def run(console: Console) -> dict[str, Any]:
        from ovquant.targets import show_target

        return show_target(name, console.result, is_resolved=is_resolved)

    run_command(run, is_json=is_json)


@targets_app.command("check")
def check_target(name: Annotated[str, typer.Argument(help="YAML file or shipped profile.")], is_json: IsJson = False) -> None:
    """Check a profile, and whether this machine can measure for it."""

    def run(console: Console) -> dict[str, Any]:
        from ovquant.devices import check_target

        return check_target(name, console)

    run_command(run, is_json=is_json)


@targets_app.command("probe")
def probe_target(
    output: Annotated[Path | None, typer.Option("-o", "--output", help="New YAML file. [default: shown only]")] = None,
    device: Annotated[str, typer.Option(help="OpenVINO device to probe.")] = "CPU",
    is_json: IsJson = False,
    is_debug: IsDebug = False,
) -> None:
    """Read what a device offers, time reference kernels on it, and write a profile for it."""

    def run(console: Console) -> dict[str, Any]:
        from ovquant import probing

        return probing.probe_target(output, device, console)

    run_command(run, is_json=is_json, is_debug=is_debug)


@targets_app.command("schema")
def schema() -> None:
    """Print the JSON Schema of profiles, for editors."""
    from ovquant.targets import json_schema

    typer.echo(json_schema(), nl=False)
