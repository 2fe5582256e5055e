"""The use case behind `ovquant report`: read what there is, render it, write it whole or not at all."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ovquant import export
from ovquant.console import Console
from ovquant.errors import OutputError, UsageError, first_line
from ovquant.report import page, text
from ovquant.report.content import content
from ovquant.report.source import Source, read
from ovquant.studyfile import STUDY_FILE

Format: TypeAlias = Literal["html", "md", "json"]
REFRESH_S = 30.0  # of a page about a search that is running
_MARKS = {"html": 'content="ovquant report"', "md": text.MARK, "json": '"report_version"'}
_HEAD = 400  # characters that the mark is within


def report(output: Path, path: Path | None, form: Format, watch_s: float | None, console: Console) -> dict[str, Any]:
    """Write the report on a search; with `watch_s`, again whenever the search got further, until it ends.

    Args:
        output: directory of the search, which may be running or have been stopped.
        path: file to write; None is ``report.html``, ``.md`` or ``.json`` in `output`.
        form: of the file.
        watch_s: seconds between looks.
        console: for people.

    Raises:
        OvquantError: there is no study, or the file cannot be written.
    """
    if watch_s is not None and not watch_s > 0:
        raise UsageError(f"--watch: seconds between looks, more than 0; found {watch_s:g}")
    target = path or output / f"report.{form}"
    refresh_s = watch_s or REFRESH_S
    source = read(output)
    _require_ours(target, form)
    written = _write(source, target, form, refresh_s if source.state == "running" else None)
    console.result(f"{written['completeness']}\nWrote {target}")
    while watch_s is not None and source.state == "running":
        time.sleep(watch_s)
        found = read(output)
        if (len(found.trials), found.state) != (len(source.trials), source.state):
            written = _write(found, target, form, refresh_s if found.state == "running" else None)
            console.info(f"{time.strftime('%H:%M:%S')} {written['completeness']}")
        source = found
    return {"report": str(target), **{key: written[key] for key in ("state", "completeness", "verdict", "winner", "best_so_far")}}


def at_the_end(output: Path, console: Console) -> None:
    """Write the page of a search that this process ends with; a fault is told, and spoils nothing of the search."""
    target = output / "report.html"
    try:
        if (output / STUDY_FILE).is_file():
            _require_ours(target, "html")
            _write(read(output, is_written_by_us=True), target, "html", None)
            console.result(f"Wrote {target}")
    except Exception as error:
        console.warn(f"the report was not written: {first_line(error)}; ovquant report {output} tries again")


def _write(source: Source, target: Path, form: Format, refresh_s: float | None) -> dict[str, Any]:
    found = content(source)
    if form == "html":
        rendered = page.render(found, refresh_s)
    elif form == "md":
        rendered = text.render(found)
    else:
        rendered = json.dumps(found, indent=1, allow_nan=False) + "\n"
    try:
        export.write_text(target, rendered)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror or error}") from error
    return found


def _require_ours(target: Path, form: Format) -> None:
    """Check that a file that is there already is an earlier report.

    Raises:
        OutputError: it is something else, or there is no directory for it.
    """
    if target.is_dir():
        raise OutputError(f"{target}: is a directory; give a file")
    if not target.absolute().parent.is_dir():
        raise OutputError(f"{target}: there is no directory {target.absolute().parent}; make it first")
    if target.exists():
        with target.open(encoding="utf-8", errors="replace") as stream:
            if _MARKS[form] not in stream.read(_HEAD):
                raise OutputError(f"{target}: is there already and no report of ovquant; nothing was overwritten")
