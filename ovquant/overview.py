"""The use case behind `ovquant inspect`: where quantization loses, and what runs in which precision, layer by layer."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovquant import export, inspection
from ovquant.audit import Audit, Kernel
from ovquant.console import Console
from ovquant.errors import OutputError
from ovquant.inspection import WORTH_TELLING, Inspection
from ovquant.job import Job
from ovquant.records import Interval
from ovquant.saturation import Saturation
from ovquant.sensitivity import Ranking, Sensitivity
from ovquant.session import open_workbench

_SHOWN = 20
_SHOWN_GROUPS = 8
_COLUMNS = ("layer", "type", "saves [95 %]", "float us", "INT8 us", "INT8 takes", "name")


def inspect(job: Job, path: Path | None, console: Console) -> dict[str, Any]:
    """Show what quantization costs where, and return it; write it to `path` as well.

    Raises:
        OvquantError: target, device, model or data cannot be used, or the file is there already.
    """
    if path is not None and path.exists():
        raise OutputError(f"{path}: is there already; nothing was overwritten")
    if path is not None and not path.absolute().parent.is_dir():
        raise OutputError(f"{path}: there is no directory {path.absolute().parent}; make it first")
    with tempfile.TemporaryDirectory(prefix="ovquant-") as models:
        device, workbench = open_workbench(job, Path(models))
        console.info(f"Ranking the layers of {Path(job.model).name} ...")
        found = inspection.inspect(workbench)
        precision = workbench.own_precision
    where = device.where
    result = {
        "model": Path(job.model).name,
        "device": where,
        "notes": list(device.notes),
        "float_precision": precision,
        "n_items": found.ranking.n_items,
        "all_quantized": dataclasses.asdict(found.ranking.all_quantized),
        "promising": list(found.promising()),
        "layers": [_layer(one, found) for one in found.ranking.layers],
        "groups": [
            {"place": one.place, "saved": dataclasses.asdict(one.saved), "names": list(one.names)} for one in found.ranking.groups
        ],
        "float": _audit(found.floats),
        "int8": _audit(found.quantized),
        "saturation": None if found.saturation is None else [dataclasses.asdict(one) for one in found.saturation],
    }
    if path is not None:
        export.write_json(path, result)
    _show(found.ranking, result, console)
    for note in device.notes:
        console.warn(note)
    _tell(found, result, console)
    if found.saturation is not None:
        console.result(saturation_words(found.saturation))
    if path is not None:
        console.result(f"Wrote {path}")
    return result


def _show(ranking: Ranking, result: dict[str, Any], console: Console) -> None:
    rows = [
        [
            layer["place"], layer["type"], _saved(one.saved), _us(layer["float_us"]), _us(layer["int8_us"]),
            layer["runs_in"] or "-", layer["name"],
        ]
        for one, layer in zip(ranking.layers[:_SHOWN], result["layers"], strict=False)
    ]  # fmt: skip
    console.table(_COLUMNS, rows)
    groups = [[one.place, str(len(one.names)), _saved(one.saved)] for one in ranking.groups[:_SHOWN_GROUPS]]
    if groups:
        console.table(("group", "layers", "saves [95 %]"), groups, n_words=1)


def _tell(found: Inspection, result: dict[str, Any], console: Console) -> None:
    ranking = found.ranking
    hidden = [
        f"{n_hidden} more {what} are in the JSON."
        for what, n_hidden in (("layers", len(ranking.layers) - _SHOWN), ("groups", len(ranking.groups) - _SHOWN_GROUPS))
        if n_hidden > 0
    ]
    told = (
        f"Saves: divergence of the model with all layers quantized ({_saved(ranking.all_quantized)}) less that with this one "
        f"in float; mean of {ranking.n_items} calibration items, simulated at f32 without bias correction. Brackets: 95 % "
        "intervals, of each layer by itself."
    )
    console.result(" ".join([told, *hidden]))
    if found.floats is None or found.quantized is None:
        console.warn(f"{result['device']} has no profile of its kernels, so no times are told")
        return
    for name, audit in (("the float model", found.floats), ("NNCF's default", found.quantized)):
        shares = ", ".join(f"{kind} {share:.0%}" for kind, share in audit.shares().items())
        console.result(
            f"Time of {name} on {result['device']}: {audit.total_us:.0f} us in kernels, by what they take in: {shares}."
        )
    slowed = [
        f"{layers[0]}{f' and {len(layers) - 1} more run with it' if len(layers) > 1 else ''} (+{slower_us:.0f} us)"
        for layers, slower_us in found.slowed()[:_SHOWN_GROUPS]
    ]
    if slowed:
        console.result(f"Slower in INT8 than in {result['float_precision']}: {', '.join(slowed)}.")
    islands = _islands(found.quantized)
    if islands:
        total_us = found.quantized.total_us
        told = ", ".join(f"{one.kind} {one.name} ({one.precision}, {one.time_us / total_us:.0%})" for one in islands)
        console.result(f"Float islands in NNCF's default, by share of its time: {told}.")


def saturation_words(found: Sequence[Saturation]) -> str:
    """Return in a sentence or two which layers saturate on a CPU without VNNI, and what to do about it."""
    where = "8-bit sums of NNCF's default on a CPU without VNNI, simulated on calibration items"
    n_possible = sum(one.is_possible for one in found)
    hit = [one for one in found if one.share > 0]
    if not hit:
        could = f"; weights of {n_possible} are large enough for other inputs to" if n_possible else ""
        return f"{where}: none of {len(found)} layers saturates{could}."
    told = ", ".join(f"{one.place} ({one.share:.2%} of values, error {one.error:.2%})" for one in hit[:_SHOWN_GROUPS])
    more = f" and {len(hit) - _SHOWN_GROUPS} more" if len(hit) > _SHOWN_GROUPS else ""
    return f"{where}: {len(hit)} of {len(found)} layers saturate: {told}{more}. overflow_fix: enable prevents it."


def _islands(audit: Audit) -> Sequence[Kernel]:
    """Return the kernels that take floats in and take a share of the time worth telling, the largest first."""
    found = [
        kernel
        for kernel in audit.kernels
        if kernel.is_float and not kernel.is_conversion and kernel.time_us > WORTH_TELLING * audit.total_us
    ]
    return sorted(found, key=lambda kernel: -kernel.time_us)[:_SHOWN_GROUPS]


def _layer(one: Sensitivity, found: Inspection) -> dict[str, Any]:
    name = one.names[0]
    was, now = (None if audit is None else audit.of(name) for audit in (found.floats, found.quantized))
    return {
        "place": one.place,
        "name": name,
        "type": one.type,
        "saved": dataclasses.asdict(one.saved),
        "float_us": None if was is None else round(was.time_us, 1),
        "int8_us": None if now is None else round(now.time_us, 1),
        "runs_in": None if now is None else now.precision,
    }


def _audit(audit: Audit | None) -> dict[str, Any] | None:
    if audit is None:
        return None
    return {
        "total_us": round(audit.total_us, 1),
        "shares": {kind: round(share, 4) for kind, share in audit.shares().items()},
        "kernels": [
            {
                "name": kernel.name, "kind": kernel.kind, "precision": kernel.precision, "time_us": round(kernel.time_us, 1),
                "origins": list(kernel.origins), "is_conversion": kernel.is_conversion,
            }
            for kernel in audit.kernels
        ],
    }  # fmt: skip


def _saved(interval: Interval) -> str:
    return f"{interval.value:.3g} [{interval.low:.2g}, {interval.high:.2g}]"


def _us(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
