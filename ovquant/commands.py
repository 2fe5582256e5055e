"""The use cases behind the command line; each wires the parts together and returns what is to be shown as JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ovquant import audit, export, runtime, selection, verdict
from ovquant import console as shown
from ovquant.capacity import capacities
from ovquant.cluster import ClusterExecutor
from ovquant.console import Console
from ovquant.contained import ContainedExecutor
from ovquant.delivery import RESULT_FILE, TRIALS_FILE, package
from ovquant.economy import economy
from ovquant.environment import versions
from ovquant.errors import (
    AllCandidatesFailedError,
    InterruptedSearchError,
    ModelError,
    NoFeasibleStrategyError,
    OutputError,
    OvquantError,
    RefutedError,
)
from ovquant.evaluation import Workbench, open_bench
from ovquant.executor import InProcessExecutor
from ovquant.interrupts import at_once_next_time, handlers_kept
from ovquant.job import Job, load_job
from ovquant.log import log
from ovquant.loop import Plan, Progress, StopReason, run_search
from ovquant.objectives import Rules
from ovquant.progress import Standing, measured, seen_of, timing_span
from ovquant.protocols import Executor
from ovquant.records import Evaluation, Failure, FloatModel, ModelFile, Outcome, Subject, Trial
from ovquant.report import writing
from ovquant.session import JOB_FILE, Session, bench_of, open_session
from ovquant.strategy import Strategy
from ovquant.study import Study, read_trials
from ovquant.studyfile import STUDY_FILE
from ovquant.tally import N_ALIKE, meeting, repeated_failure
from ovquant.targets import load_target
from ovquant.tasks import BenchSpec, ComparisonTask, Task
from ovquant.turns import SystemClock
from ovquant.verdict import Row, Verdict, describe
from ovquant.workplace import LOG_FILE, held, note_trial, open_study

BEST = "best"


def search(job: Job, console: Console, executor: Executor | None = None) -> dict[str, Any]:
    """Search, decide, export; return the result.

    Raises:
        OvquantError: see `ovquant.errors`; nothing that was there before is lost.
    """
    output = Path(job.output)
    with handlers_kept(), held(job) as work:
        runs_on = executor or _executor(job, work, console)
        try:
            session = open_session(job, work, output, runs_on)
            study = open_study(session, output)
            runs_on.recall(session.bench, _known(study.trials()))
            _announce(session, study, console)
            try:
                return _search(session, study, runs_on, console)
            except OvquantError:
                writing.at_the_end(output, console)
                raise
        except KeyboardInterrupt:
            console.stop()  # the next interrupt ends the process, and the terminal is to be in order then
            at_once_next_time()
            raise InterruptedSearchError(_interrupted(output)) from None
        finally:
            console.stop()
            runs_on.close()


def _executor(job: Job, work: Path, console: Console) -> Executor:
    """Return where the candidates of a job are evaluated.

    Raises:
        UsageError, DeviceError: the cluster cannot be used.
    """
    if job.cluster is None:
        return ContainedExecutor(work, job.memory_limit, tell=console.under_way)
    target = load_target(job.target)
    return ClusterExecutor(job.cluster, target.name, job.device or target.device, memory_bytes=job.memory_limit, folder=work)


def resume(output: Path, changes: dict[str, Any], console: Console) -> dict[str, Any]:
    """Go on with a search by what its output directory holds.

    Args:
        output: of the search.
        changes: of the job, of what may change: budget, trials, memory, cluster.
        console: for people.

    Raises:
        OvquantError: as `search`; there is no search to go on with.
    """
    if not (output / JOB_FILE).is_file() or not (output / STUDY_FILE).is_file():
        raise OutputError(f"{output}: no search was begun there; begin one with ovquant search MODEL --data DATA -o {output}")
    return search(load_job(output / JOB_FILE, {**changes, "output": str(output)}), console)


def _known(trials: Sequence[Trial]) -> list[tuple[Strategy, Evaluation]]:
    """Return what was measured of strategies."""
    return [(t.strategy, t.outcome) for t in trials if t.strategy is not None and isinstance(t.outcome, Evaluation)]


def _search(session: Session, study: Study, executor: Executor, console: Console) -> dict[str, Any]:
    elapsed_s = 0.0

    def listen(progress: Progress) -> None:
        nonlocal elapsed_s
        elapsed_s = progress.elapsed_s
        note_trial(progress.trial)
        console.trial(progress)

    plan = session.plan()
    console.begin(_standing(study, plan))
    try:
        reason = run_search(plan, study, executor, SystemClock(), listen)
    except BaseException:
        with contextlib.suppress(OvquantError):  # what ended the search is what is to be told
            _write_table(session, study.trials())
        raise
    trials = study.trials()
    _write_table(session, trials)
    console.stop()
    late_s = elapsed_s - plan.budget_s if reason == "budget used up" and plan.budget_s is not None else 0.0
    late = f", {late_s:.0f} s late: what is begun is finished, and NNCF's default always tried" if late_s >= 1 else ""
    console.info(f"Search ended: {reason}{late}.")
    log("search ended", reason=reason)
    failure = repeated_failure(trials)
    if failure is not None:
        console.warn(
            f"the last {N_ALIKE} strategies all failed at {failure.stage} ({failure.error}: {failure.message}), so no more were "
            f"tried; see {Path(session.job.output) / LOG_FILE}"
        )
    decision = _decide(session, study.rules, trials, executor, reason, console)
    log("decided", winner=decision.winner, judgement=decision.judgement, sentences=decision.sentences)
    result = _finish(session, study, trials, executor, decision, reason, console)
    if decision.judgement == "refuted":
        best = Path(session.job.output) / BEST
        raise RefutedError(f"the holdout refutes every finalist; trial {decision.winner} is in {best} all the same")
    return result


def _write_table(session: Session, trials: Sequence[Trial]) -> None:
    with contextlib.suppress(OSError):
        export.write_text(Path(session.job.output) / TRIALS_FILE, export.trials_csv(trials, session.space))


def _standing(study: Study, plan: Plan) -> Standing:
    """Return where a search stands before it goes on."""
    trials = study.trials()
    best = selection.best(selection.eligible(trials), study.rules)
    return Standing(seen=tuple(map(seen_of, trials)), max_trials=plan.max_trials, budget_s=plan.budget_s, best=best)


def _announce(session: Session, study: Study, console: Console) -> None:
    opened, space = session.opened, session.space
    console.info(
        f"ovquant {versions().get('ovquant', '')}: {Path(session.job.model).name} for target {session.target.name} on "
        f"{session.device.where}"
    )
    if session.device.site is not None:
        console.info(f"latency is measured on {session.device.site.address}: {session.device.site.machine}")
    console.info("data: " + ", ".join(f"{count} {name}" for name, count in opened.n_items.items()) + " items")
    options = session.job.data.preprocessing.model_dump(exclude_defaults=True)
    told = ", ".join(f"{key} {_listed(value)}" for key, value in options.items())
    console.info(f"preprocessing: {told or 'none'}")
    _announce_reference(session, console)
    for name, kind in opened.output_kinds.items():
        how = {
            "logits": "softmax, then relative entropy",
            "probabilities": "relative entropy",
            "values": "relative squared error",
        }
        console.info(f"divergence: output {name!r} is read as {kind} ({how[kind]})")
    console.info(
        f"search space: {len(space.genes)} free genes, {space.n_genomes} genomes; generations of {study.population_size}, "
        f"at most {session.job.max_trials or 'unlimited'} strategies"
        + ("" if session.job.budget is None else f" or {session.job.budget:g} s")
    )
    if session.recipes:
        names = ", ".join(f"{name} ({space.code_from_genome(genome)})" for genome, name in session.recipes.items())
        console.info(f"recipes, tried after NNCF's default: {names}")
    if session.inspected is not None:
        console.info(f"sensitivity: {shown.ranking_line(session.inspected.ranking)}")
    for note in (*space.notes, *session.device.notes):
        console.warn(note)
    if not session.job.metrics and opened.has_labels:
        console.warn("the data has labels, and no metric is asked for: give --metric to limit its drop")
    if study.n_settled:
        console.info(f"continuing a study of {study.n_settled} trials")


def _listed(value: Any) -> str:
    return ",".join(f"{item:g}" for item in value) if isinstance(value, tuple) else str(value)


def _announce_reference(session: Session, console: Console) -> None:
    """Tell what drops are counted from, and warn if the float model does no better than guessing."""
    opened, n_classes = session.opened, session.opened.n_first
    for name, value in zip(opened.metric_names, opened.reference_values, strict=True):
        console.info(f"reference: the float model at f32 has {name} {value:.4f} on validation items")
        if name == "accuracy" and n_classes > 1 and value <= 1.5 / n_classes:
            console.warn(
                f"that is no better than guessing among {n_classes} classes: check preprocessing (mean, scale, channels) and the "
                "order of the classes"
            )


def _decide(
    session: Session, rules: Rules, trials: Sequence[Trial], executor: Executor, reason: StopReason, console: Console
) -> Verdict:
    candidates = selection.eligible(trials)
    stop_at = session.job.stop_at if reason == "stop_at met" else None
    finalists = selection.finalists(candidates, rules) if stop_at is None else meeting(candidates, stop_at, rules)[:1]
    if not finalists:
        _refuse(session, rules, trials, candidates, reason)
    default = next((t for t in trials if t.role == "default" and isinstance(t.outcome, Evaluation)), None)
    n_models = 2 + len({trial.number for trial in (*finalists, default) if trial is not None})  # reference and baseline, too
    over = timing_span(session.target.measurement.verdict, n_models)
    named = f"{len(finalists)} finalist{'s' if len(finalists) > 1 else ''}"
    console.info(f"Timing {named} together{over}, then measuring them on the holdout ...")
    return verdict.decide(session.bench, executor, session.rules, finalists, default, session.opened.own_precision, stop_at)


def _refuse(session: Session, rules: Rules, trials: Sequence[Trial], candidates: list[Trial], reason: StopReason) -> NoReturn:
    """Say why there is no winner.

    Raises:
        AllCandidatesFailedError, NoFeasibleStrategyError: always one of them.
    """
    miss = selection.nearest_miss(candidates)
    if miss is None:
        messages = [f"{t.outcome.stage}: {t.outcome.message}" for t in trials if isinstance(t.outcome, Failure)]
        raise AllCandidatesFailedError(
            f"all {len(messages)} strategies failed; the last one at {messages[-1] if messages else 'the start'}. "
            f"See {Path(session.job.output) / TRIALS_FILE}"
        )
    drops = ", ".join(
        f"{result.name} drops by {result.drop.value:.4f}" + (f" (max_drop {spec.max_drop})" if spec.max_drop is not None else "")
        for spec, result in zip(session.job.metrics, miss.evaluation.metrics, strict=True)
    )
    limit = ""
    if rules.max_divergence is not None:
        limit = f" (limit {rules.max_divergence:.4g}{'' if session.job.max_divergence is not None else ', NNCF default here'})"
    raise NoFeasibleStrategyError(
        f"no strategy meets the constraints ({reason}). Nearest miss on validation data: trial {miss.number}, "
        f"{drops + ', ' if drops else ''}divergence {miss.evaluation.divergence.value:.4g}{limit}, "
        f"speed-up {selection.latency_of(miss).speedup.value:.2f}x. Allow a larger drop, more trials, or more genes; "
        f"ovquant export {session.job.output} --trial {miss.number} -o DIR exports it all the same"
    )


def _interrupted(output: Path) -> str:
    if not (output / STUDY_FILE).exists():
        return "interrupted before the search began; nothing is kept"
    trials = read_trials(output / STUDY_FILE)
    text = f"interrupted; {len(trials)} trials are kept in {output}. The same command continues, or ovquant resume {output}"
    if selection.pick(trials, "fastest") is not None:
        text += f"; ovquant export {output} --pick fastest -o DIR exports the best so far"
    return text + "."


def _finish(
    session: Session,
    study: Study,
    trials: Sequence[Trial],
    executor: Executor,
    decision: Verdict,
    reason: StopReason,
    console: Console,
) -> dict[str, Any]:
    """Export the winner, show the verdict, return the result."""
    output = Path(session.job.output)
    trial = next(trial for trial in trials if trial.number == decision.winner)
    n_openings = study.open_holdout()
    saved = economy(trials)
    result: dict[str, Any] = {
        "stop_reason": reason,
        "verdict": verdict.to_json(decision),
        "n_trials": len(trials),
        "n_failures": sum(isinstance(t.outcome, Failure) for t in trials),
        "n_holdout_openings": n_openings,
        "economy": dataclasses.asdict(saved),
        "notes": [*session.space.notes, *session.device.notes],
        "measured_on": session.measured_on,
        "output": str(output),
        "kernels": _kernels(session, executor, trial),
    }
    extra = {"verdict": result["verdict"], "stop_reason": reason}
    package(session, executor, trial, output / BEST, extra, is_ours=True)
    export.write_json(output / RESULT_FILE, result)
    console.result("")
    notes = [f"Finalists were chosen on {trial.evaluation.n_items} validation items."]
    if n_openings > 1:
        notes.append(f"The holdout was looked at {n_openings} times in this study.")
    notes.extend(session.device.notes)
    console.verdict(decision, shown.caption(decision.rows, session.device.where, notes))
    failures = result["n_failures"]
    console.result(f"{result['n_trials']} trials, {failures} failed; details in {output / TRIALS_FILE}")
    console.info(saved.words())
    if decision.sharing_fault is not None:
        console.warn(f"candidates were quantized one by one, as statistics could not be shared: {decision.sharing_fault}")
    console.result(f"Wrote {output / BEST}: model.xml, model.bin, recipe.yaml, manifest.json")
    if decision.judgement != "refuted":
        writing.at_the_end(output, console)
    return result


def _kernels(session: Session, executor: Executor, winner: Trial) -> dict[str, Any] | None:
    """Return what the device runs of the float model and of the winner; None where it does not tell."""
    if winner.strategy is None:
        return None
    subjects: list[Subject] = [FloatModel(inference_precision=session.opened.own_precision), winner.strategy]
    try:
        found = executor.profile(session.bench, subjects)
    except OvquantError as error:
        log("no kernels", message=str(error))
        return None
    return None if found is None else dict(zip(("baseline", "winner"), map(audit.to_json, found), strict=True))


def evaluate(models: Sequence[Path], job: Job, console: Console) -> dict[str, Any]:
    """Measure models side by side; the first one, at f32, is the reference, and at the target's precision the baseline.

    Raises:
        OvquantError: they cannot be measured together.
    """
    with tempfile.TemporaryDirectory(prefix="ovquant-") as folder:
        device, divided = bench_of(job, Path(folder))
        bench = dataclasses.replace(divided, is_divided=False)
        rows = _side_by_side(models, bench, console)
    notes = list(device.notes)
    if bench.site is not None:
        notes.append("throughput and memory are left out: they are not measured on other machines")
    for note in notes:
        console.warn(note)
    n_items = rows[0].evaluation.n_items
    items = f"all {n_items} items of" if job.data.max_items is None else f"{n_items} items drawn from"
    notes_of_all = [f"Reference and baseline are {models[0]}.", *notes]
    console.rows(rows, shown.caption(rows, device.where, notes_of_all, f"{items} {job.data.path}"))
    return {"rows": [verdict.row_to_json(row) for row in rows], "device": device.where, "notes": notes}


def _side_by_side(models: Sequence[Path], bench: BenchSpec, console: Console) -> list[Row]:
    console.info(f"Running {models[0]} and the others on the items of {bench.data.path} ...")
    workbench = open_bench(bench)
    if runtime.count_fake_quantize(workbench.model):
        raise ModelError(f"{bench.model}: is quantized; the first model must be the float one, the others are compared with it")
    subjects: list[tuple[str, Subject]] = [
        ("baseline", FloatModel(inference_precision=workbench.own_precision)),
        ("reference", FloatModel(inference_precision="f32")),
        *((f"model {index}", _model_file(path, workbench)) for index, path in enumerate(models[1:], start=2)),
    ]
    with contextlib.closing(InProcessExecutor()) as executor:
        outcomes: list[Outcome] = []
        for _, subject in subjects:
            outcomes += executor.submit([Task(bench=bench, subject=subject, is_timed=False, has_intervals=True)])
            if isinstance(outcomes[-1], Evaluation):
                console.info(f"{describe(subject)}: {measured(outcomes[-1])}")
        over = timing_span(bench.target.measurement.verdict, len(subjects))
        console.info(f"Timing {len(subjects)} models together{over} ...")
        comparison = executor.compare(ComparisonTask(bench=bench, subjects=tuple(s for _, s in subjects)))
    for (_, subject), outcome in zip(subjects, outcomes, strict=True):
        if isinstance(outcome, Failure):
            raise ModelError(f"{describe(subject)}: {outcome.stage} failed: {outcome.message}")
    if isinstance(comparison, Failure):
        raise ModelError(f"latency cannot be measured ({comparison.stage}): {comparison.message}")
    elsewhere = [None] * len(subjects)  # throughput and memory of this machine would stand beside the latency of another
    if bench.site is None:
        console.info("Measuring throughput and memory ...")
    found = capacities(workbench, [subject for _, subject in subjects], SystemClock()) if bench.site is None else elsewhere
    rows = [
        Row(name=name, description=describe(subject), trial=None, evaluation=outcome, latency=latency, capacity=capacity)
        for (name, subject), outcome, latency, capacity in zip(subjects, outcomes, comparison.latencies, found, strict=True)
        if isinstance(outcome, Evaluation)
    ]
    return [rows[1], rows[0], *rows[2:]]


def _model_file(path: Path, workbench: Workbench) -> ModelFile:
    """Return a model with the precision that it is run in: what an export noted in it, else the target's own."""
    noted = runtime.noted_precision(runtime.read_model(path))
    return ModelFile(path=str(path), inference_precision=noted or workbench.own_precision)
