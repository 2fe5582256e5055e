"""What is asked of an executor: plain values that can be sent anywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ovquant import records
from ovquant.choices import ModelFacts
from ovquant.datasets.splits import Split
from ovquant.job import DataSpec, MetricSpec, OutputKind
from ovquant.objectives import Rules
from ovquant.records import Evaluation, Latency, Outcome, Subject
from ovquant.remote import Site
from ovquant.strategy import InferencePrecision, Strategy
from ovquant.targets import Target


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BenchSpec:
    """All that a process needs to evaluate candidates of one job; plain values, so that it can be sent anywhere.

    Attributes:
        model: path of the float model.
        target: profile.
        device: OpenVINO device of this machine that is really used.
        data: samples.
        seed: of the division of the samples.
        metrics: in the order of the job.
        output_kinds: output name -> kind, where the user told.
        model_dir: where candidate IRs are kept for a while; a directory of this run alone.
        is_divided: False uses all samples for validation.
        left_out: indices in the main source that are not used all the same, where it is not divided.
        site: machine that latency is measured on; None is this one.
    """

    model: str
    target: Target
    device: str
    data: DataSpec
    seed: int
    metrics: tuple[MetricSpec, ...]
    output_kinds: Mapping[str, OutputKind]
    model_dir: str
    is_divided: bool = True
    left_out: tuple[int, ...] = ()
    site: Site | None = None

    @property
    def properties(self) -> Mapping[str, Any]:
        """What models are compiled with here; not the target's, where its device is on another machine and not on this one."""
        is_other = self.site is not None and self.site.device != self.device
        return {"PERFORMANCE_HINT": "LATENCY"} if is_other else self.target.compile_properties


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What a process found when it opened what a `BenchSpec` names.

    Attributes:
        facts: what a search space needs to know.
        split: which items serve what.
        has_labels: whether the validation items have labels.
        output_kinds: how each output is read, by name.
        n_first: elements of the first output of one item.
        metric_names: in the order of the job.
        metric_directions: likewise.
        reference_values: of the metrics on validation items, of the float model at f32.
    """

    facts: ModelFacts
    split: Split
    has_labels: bool
    output_kinds: Mapping[str, OutputKind]
    n_first: int
    metric_names: tuple[str, ...]
    metric_directions: tuple[Literal["maximize", "minimize"], ...]
    reference_values: tuple[float, ...]

    @property
    def own_precision(self) -> InferencePrecision:
        """The float precision that the target's compile properties give on the device."""
        return self.facts.own_precision

    @property
    def n_items(self) -> dict[str, int]:
        """Items by split."""
        return {name: len(getattr(self.split, name)) for name in ("calibration", "validation", "holdout")}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """A feasible candidate that was validated on all items, for others to be compared with.

    Attributes:
        digest: of its strategy.
        divergence: mean over the validation items.
        ratio: latency over the baseline's.
    """

    digest: str
    divergence: float
    ratio: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """What a candidate has to meet for being validated to the end.

    Attributes:
        rules: with the limits.
        rivals: a candidate that is worse than one of them, and no faster, is stopped. None to be left to the limits alone.
    """

    rules: Rules
    rivals: tuple[Rival, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """What was measured of a candidate's kernels, here or by somebody else.

    Attributes:
        structure: their key, see `ovquant.structure`.
        latency: by the target's ranking plan.
    """

    structure: str
    latency: Latency


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A candidate's model file.

    Attributes:
        path: of the IR.
        graph_digest: SHA-256 of structure, ranges, weights and biases.
        seconds: wall time by stage.
    """

    path: Path
    graph_digest: str
    seconds: Mapping[str, float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Evaluate one model.

    Attributes:
        bench: what it is evaluated on.
        subject: the model.
        split: the items.
        is_timed: give a latency, too, by the target's ranking plan.
        has_intervals: compute the intervals that need resampling.
        race: None validates on all items whatever comes.
        timed: what was measured elsewhere, where it was; the candidate was screened there as well.
    """

    bench: BenchSpec
    subject: Subject
    split: records.Split = "validation"
    is_timed: bool = True
    has_intervals: bool = False
    race: Race | None = None
    timed: Timed | None = None

    @property
    def is_raced(self) -> bool:
        """True if it may be stopped early."""
        return self.race is not None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonTask:
    """Measure several models in turns by the target's verdict plan; the first one is the baseline."""

    bench: BenchSpec
    subjects: tuple[Subject, ...]


# Accurate bias correction has been seen to lower divergence by a third. Where even a quarter of what the fast one leaves
# would break a limit, it is not run.
_RESCUE = 4.0


def needs_screening(task: Task) -> bool:
    """Return True for an accurate bias correction that may not be worth running.

    It takes ten times as long as the fast one, and changes nothing but biases: the fast one has the same kernels.
    """
    return task.is_raced and task.timed is None and screening(task.subject) != task.subject


def if_hopeless(screened: Outcome) -> Evaluation | None:
    """Return the outcome of a strategy whose accurate bias correction is not worth running; None where it is.

    Args:
        screened: outcome of the same strategy with the fast one.
    """
    raced = screened.raced if isinstance(screened, Evaluation) else None
    if not isinstance(screened, Evaluation) or raced is None or raced.bound <= _RESCUE * max(raced.limit, 0.0):
        return None
    return dataclasses.replace(screened, raced=dataclasses.replace(raced, reason="screened"), same_as=None)


def screening(subject: Subject) -> Subject:
    """Return the strategy by which one with accurate bias correction is screened; others are their own."""
    if isinstance(subject, Strategy) and not subject.canonical().fast_bias_correction:
        return dataclasses.replace(subject, fast_bias_correction=True)
    return subject


def best_rival(rivals: Sequence[Rival], latency: Latency | None) -> Rival | None:
    """Return the rival of lowest divergence among those that are no slower.

    Point estimates count, as they do where trials are ordered: a candidate that is slower by them and diverges more would
    never be preferred to the rival.
    """
    if latency is None:
        return None
    quick = [rival for rival in rivals if rival.ratio <= latency.ratio.value]
    return min(quick, key=lambda rival: rival.divergence, default=None)


def rival_of(strategy: Strategy, evaluation: Evaluation, rules: Rules) -> Rival | None:
    """Return what a candidate is as a rival; None unless it is feasible, was run on all items, and there are two objectives.

    Where fitness is a single number, divergence and latency do not decide alone.
    """
    is_whole = evaluation.raced is None and evaluation.split == "validation"
    if not rules.is_pareto or not is_whole or evaluation.latency is None or rules.violation(evaluation) > 0:
        return None
    return Rival(digest=strategy.digest, divergence=evaluation.divergence.value, ratio=evaluation.latency.ratio.value)
