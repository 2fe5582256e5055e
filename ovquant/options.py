"""Options of the command line as sections of a job."""

from __future__ import annotations

from typing import Any

import typer


def data_options(
    path: str | None,
    calibration: str | None,
    holdout: str | None,
    calibration_items: int | None,
    max_items: int | None,
    resize: str | None,
    crop: str | None,
    mean: str | None,
    scale: str | None,
    layout: str | None,
    channels: str | None,
) -> dict[str, Any]:
    """Return the data section of a job from options."""
    return {
        "path": path,
        "calibration": calibration,
        "holdout": holdout,
        "calibration_items": calibration_items,
        "max_items": max_items,
        "preprocessing": {
            "resize": _sides(resize, "--resize"),
            "crop": _sides(crop, "--crop"),
            "mean": _numbers(mean, "--mean"),
            "scale": _numbers(scale, "--scale"),
            "layout": layout,
            "channels": channels,
        },
    }


def _sides(text: str | None, option: str) -> list[int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if not all(part.isdecimal() for part in parts) or len(parts) > 2:
        raise typer.BadParameter(f"a side or HEIGHTxWIDTH, found {text!r}", param_hint=option)
    return [int(part) for part in parts]


def _numbers(text: str | None, option: str) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.replace(" ", "").split(",")]
    except ValueError:
        raise typer.BadParameter(f"numbers separated by commas, found {text!r}", param_hint=option) from None
