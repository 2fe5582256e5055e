"""Python's way in: the commands as functions with typed results that notebooks show as tables.

Import them from the package itself: ``from ovquant import search``. Options are named as in the job file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ovquant import commands, replay, verdict
from ovquant.commands import BEST
from ovquant.console import Console, cells_of, columns_of
from ovquant.given import Objects, placed
from ovquant.job import Job, load_job
from ovquant.loop import Listener, Progress
from ovquant.options import job_of
from ovquant.records import Trial
from ovquant.session import JOB_FILE
from ovquant.study import read_trials
from ovquant.studyfile import STUDY_FILE
from ovquant.verdict import Row, Verdict


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What a search found.

    Attributes:
        output: its directory.
        model: the winner's IR.
        recipe: replays it without a search.
        verdict: the final table and the verdict in words.
        stop_reason: why it ended.
        notes: what must be said beside the numbers.
    """

    output: Path
    model: Path
    recipe: Path
    verdict: Verdict
    stop_reason: str
    notes: tuple[str, ...]

    @property
    def trials(self) -> list[Trial]:
        """All settled trials, by number."""
        return read_trials(self.output / STUDY_FILE)

    def _repr_html_(self) -> str:
        said = "".join(f"<p>{escape(sentence)}</p>" for sentence in (*self.verdict.sentences, *self.notes))
        return said + _table(self.verdict.rows)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """Models side by side.

    Attributes:
        rows: reference, baseline, then the other models in the order given.
        device: where latency was measured.
        notes: what must be said beside the numbers.
    """

    rows: tuple[Row, ...]
    device: str
    notes: tuple[str, ...]

    def _repr_html_(self) -> str:
        return _table(self.rows) + "".join(f"<p>{escape(note)}</p>" for note in (f"Latency on {self.device}.", *self.notes))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedModel:
    """A model made by a recipe.

    Attributes:
        model: its IR.
        is_identical_to_recipe: same structure, ranges, weights and biases as the model that the recipe is of.
    """

    model: Path
    is_identical_to_recipe: bool


class _Told(Console):
    """A console that writes nothing but warnings, and hands progress to a function."""

    def __init__(self, listen: Listener | None) -> None:
        super().__init__(is_json=True, is_quiet=True)
        self._listen = listen

    def result(self, text: str) -> None:
        """Write nothing."""

    def rows(self, rows: Sequence[Row], caption: str) -> None:
        """Write no table: the caller has the rows."""

    def trial(self, progress: Progress) -> None:
        """Hand progress on."""
        if self._listen is not None:
            self._listen(progress)


def search(
    model: Any,
    *,
    data: Any = None,
    on_progress: Callable[[Progress], None] | None = None,
    transform_fn: Callable[[Any], Any] | None = None,
    label_fn: Callable[[Any], Any] | None = None,
    n_items: int | None = None,
    example_input: Any = None,
    **options: Any,
) -> SearchResult:
    """Search the best quantization strategy of a model and export it, as ``ovquant search`` does.

    Model and data may be Python objects. They are written to ``OUTPUT/given`` first, from where the process of the candidates and
    a resume read them.

    Args:
        model: a model file, a job file (YAML) that `options` go over, an ``openvino.Model``, or a ``torch.nn.Module``, which is
            traced for items of the shape of the first one.
        data: as in the job file; or a ``torch.utils.data.DataLoader``, an ``nncf.Dataset``, or anything that can be iterated
            over: inputs, ``(inputs, label)`` pairs, or mappings of input names, one item or batch at a time.
        on_progress: called after each trial; what it raises ends the search, which can be continued.
        transform_fn: from what `data` yields to inputs, as for ``nncf.Dataset``: an array, several, or input name -> array.
        label_fn: from what `data` yields to its label.
        n_items: of `data` that are used at most, the first ones.
        example_input: for tracing, where the first item will not do.
        options: as in the job file: ``target``, ``metrics``, ``recipes``, ``max_trials``, ``budget``, ``output`` ...

    Raises:
        OvquantError: as the command, whose exit code it carries.
    """
    objects = Objects(
        model=model, data=data, transform_fn=transform_fn, label_fn=label_fn, n_items=n_items, example_input=example_input
    )
    console = _Told(on_progress)
    # Options are checked before anything is converted.
    job = job_of(*_stand_in(objects, options))
    if not objects.is_model_given:
        objects = dataclasses.replace(objects, model=job.model)
    with placed(objects, Path(job.output).absolute(), console.warn) as (path, section):
        job = job_of(path if objects.is_model_given else str(model), options if section is None else {**options, "data": section})
        return _found(job, commands.search(job, console))


def _stand_in(objects: Objects, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return what a job is made of, with paths of no meaning for Python objects."""
    data = "data.npz" if objects.is_data_given else objects.data
    named = options if data is None else {**options, "data": str(data) if isinstance(data, Path) else data}
    return ("model.xml" if objects.is_model_given else str(objects.model)), named


def resume(output: str | Path, *, on_progress: Callable[[Progress], None] | None = None, **options: Any) -> SearchResult:
    """Go on with a search that was stopped, as ``ovquant resume`` does.

    Args:
        output: its directory.
        on_progress: called after each trial.
        options: ``budget``, ``max_trials``, ``memory_limit``.

    Raises:
        OvquantError: as the command.
    """
    found = commands.resume(Path(output), options, _Told(on_progress))
    return _found(load_job(Path(output) / JOB_FILE, {"output": str(output)}), found)


def _found(job: Job, found: dict[str, Any]) -> SearchResult:
    best = Path(job.output) / BEST
    return SearchResult(
        output=Path(job.output),
        model=best / "model.xml",
        recipe=best / "recipe.yaml",
        verdict=verdict.from_json(found["verdict"]),
        stop_reason=found["stop_reason"],
        notes=tuple(found["notes"]),
    )


def evaluate(models: Sequence[str | Path], **options: Any) -> EvaluationResult:
    """Measure models side by side, as ``ovquant evaluate`` does.

    Args:
        models: the first one is the float model, or a job file that names it.
        options: as in the job file: ``data``, ``target``, ``metrics`` ...

    Raises:
        OvquantError: as the command.
    """
    job = job_of(str(models[0]), options)
    found = commands.evaluate([Path(job.model), *map(Path, models[1:])], job, _Told(None))
    return EvaluationResult(
        rows=tuple(map(verdict.row_from_json, found["rows"])), device=found["device"], notes=tuple(found["notes"])
    )


def quantize(
    model: str | Path, *, recipe: str | Path, data: str, output: str | Path, annotations: str | None = None
) -> QuantizedModel:
    """Replay a recipe on a model, as ``ovquant quantize`` does.

    Args:
        model: float model.
        recipe: ``recipe.yaml`` of an exported model.
        data: samples to calibrate on.
        output: new directory.
        annotations: file that lists the items of the folder `data`, where it did so for the search.

    Raises:
        OvquantError: as the command.
    """
    found = replay.quantize(Path(model), Path(recipe), data, Path(output), _Told(None), annotations=annotations)
    return QuantizedModel(model=Path(output) / "model.xml", is_identical_to_recipe=found["is_identical_to_recipe"])


def _table(rows: Sequence[Row]) -> str:
    """Return the table that the command prints, as HTML."""
    has_judgement = any(row.judgement for row in rows)
    head = "".join(f"<th>{escape(column)}</th>" for column in columns_of(rows, has_judgement))
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells_of(row, has_judgement)) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
