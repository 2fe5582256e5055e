"""Metrics of tasks by name, and the options that each takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from ovquant.datasets.readers import load_function
from ovquant.errors import ConfigError
from ovquant.job import MetricSpec, split_entry
from ovquant.metrics.detection import THRESHOLDS, MeanAveragePrecision
from ovquant.metrics.embeddings import CosineToReference, PairSpearman
from ovquant.metrics.segmentation import MeanIoU
from ovquant.metrics.sequences import CharacterErrorRate, ExactMatch, Reader
from ovquant.metrics.summarized import Decode
from ovquant.protocols import Metric

Builder = Callable[[MetricSpec, str], Metric]
_OPTIONS = ("decode", "blank", "end", "alphabet", "ignore_index", "num_classes")
_SEQUENCE_OPTIONS = ("decode", "blank", "end", "alphabet", "output", "labels")


def require_options(spec: MetricSpec, accepted: tuple[str, ...]) -> None:
    """Check that a metric takes the options that it was given.

    Raises:
        ConfigError: it does not.
    """
    given = [name for name in (*_OPTIONS, "output", "labels") if getattr(spec, name) is not None]
    unknown = [name for name in given if name not in accepted]
    if unknown:
        raise ConfigError(f"metric {spec.name!r}: takes no {', '.join(unknown)}; accepted: {', '.join(('max_drop', *accepted))}")


def build_task_metric(spec: MetricSpec, output: str) -> Metric | None:
    """Return the metric of a task that a job's entry names, None if it names no such metric.

    Raises:
        ConfigError: options do not fit.
        DataError: the file of a Python entry cannot be imported.
    """
    if spec.name not in TASK_METRICS:
        return None
    accepted, builder = TASK_METRICS[spec.name]
    require_options(spec, accepted)
    return builder(spec, output)


def _decode(spec: MetricSpec) -> Decode | None:
    if spec.decode is None:
        return None
    entry = split_entry(spec.decode)
    if entry is None:
        words = " ctc, argmax or" if "blank" in TASK_METRICS[spec.name][0] else ""
        raise ConfigError(f"metric {spec.name!r}: decode is{words} a Python function file.py:function, found {spec.decode!r}")
    function: Decode = load_function(*entry)
    return function


def _detection(spec: MetricSpec, output: str) -> Metric:
    decode = _decode(spec)
    if decode is None:
        raise ConfigError(
            f"metric {spec.name!r}: needs decode: file.py:function, which takes the outputs of one image (output name -> array) "
            "and returns (boxes [D, 4] as x1, y1, x2, y2 in pixels of the model's input, scores [D], labels [D])"
        )
    return MeanAveragePrecision(spec.label, THRESHOLDS[spec.name], decode)


def _segmentation(spec: MetricSpec, output: str) -> Metric:
    return MeanIoU(spec.label, output, _decode(spec), spec.num_classes, spec.ignore_index)


def _reader(spec: MetricSpec, output: str) -> Reader:
    is_ctc = spec.decode == "ctc"
    if spec.blank is not None and not is_ctc:
        raise ConfigError(f"metric {spec.name!r}: blank is for decode: ctc; in others, the class that ends a sequence is end")
    if spec.end is not None and spec.decode not in {None, "argmax"}:
        raise ConfigError(f"metric {spec.name!r}: end is for decode: argmax")
    if is_ctc or spec.decode in {None, "argmax"}:
        how: Literal["ctc", "argmax"] = "ctc" if is_ctc else "argmax"
        return Reader(spec.label, output, how, (spec.blank or 0) if is_ctc else spec.end, spec.alphabet)
    decode = _decode(spec)
    if decode is None or spec.alphabet is not None:
        raise ConfigError(f"metric {spec.name!r}: alphabet is for decode: ctc or argmax; a function returns strings itself")
    return Reader(spec.label, output, decode, None, None)


# Name -> options beside max_drop, and how the metric is made.
TASK_METRICS: dict[str, tuple[tuple[str, ...], Builder]] = {
    **{name: (("decode", "labels"), _detection) for name in THRESHOLDS},
    "miou": (("decode", "num_classes", "ignore_index", "output", "labels"), _segmentation),
    "exact_match": (_SEQUENCE_OPTIONS, lambda spec, output: ExactMatch(spec.label, _reader(spec, output))),
    "cer": (_SEQUENCE_OPTIONS, lambda spec, output: CharacterErrorRate(spec.label, _reader(spec, output))),
    "spearman": (("decode", "output", "labels"), lambda spec, output: PairSpearman(spec.label, output, _decode(spec))),
    "cosine": (("output",), lambda spec, output: CosineToReference(spec.label, output)),
}
