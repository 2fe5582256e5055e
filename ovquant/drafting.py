"""The text of a job file: what was found about model and data, with comments on what else may be said."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ovquant.errors import printable
from ovquant.recognition import Entry, Finding
from ovquant.runtime import InputInfo

CHANNELS = (1, 3, 4)
IMAGENET = {"mean": [123.675, 116.28, 103.53], "scale": [58.395, 57.12, 57.375]}
_BOXES = (
    "# FILL IN: boxes are decoded by a function of yours; write it into a file, and take the # off the lines below.",
    "#   def boxes(outputs):    # output name -> array, of one image",
    "#       return boxes, scores, labels    # [D, 4] (x1, y1, x2, y2 in pixels of the input), [D], [D]",
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a job file is to say.

    Attributes:
        model: its file.
        target: profile.
        inputs: of the model.
        outputs: likewise.
        data: the section of that name, without preprocessing; `path` is None where there is none yet.
        preprocessing: for images, None for anything else.
        findings: by column of labels; the key is None where there is one kind of label, or none.
        guess: the task by shapes alone.
        n_tried: items that metrics were tried on.
        as_good: mean and scale that do about as well as those in `preprocessing`.
        hints: lines of comment on the data.
    """

    model: Path
    target: str
    inputs: Sequence[InputInfo]
    outputs: Sequence[InputInfo]
    data: Mapping[str, Any]
    preprocessing: Mapping[str, Any] | None
    findings: Mapping[str | None, Finding]
    guess: str
    n_tried: int = 0
    as_good: Sequence[Mapping[str, Any]] = ()
    hints: Sequence[str] = ()

    @property
    def task(self) -> str:
        """What the job is for, in a word or a few."""
        tasks = list(dict.fromkeys(finding.task for finding in self.findings.values() if finding.task != "unknown"))
        return " and ".join(tasks) or self.guess

    @property
    def metrics(self) -> list[Entry]:
        """The entries of all metrics."""
        return [entry for finding in self.findings.values() for entry in finding.metrics]

    def text(self) -> str:
        """Return the job file."""
        lines = [f'# A search for {_one_line(self.model.name)}; every key is explained in the README, section "Job file".']
        lines += ["version: 1", f"model: {scalar(str(self.model.resolve()))}"]
        lines += [f"target: {scalar(self.target)}    # see: ovquant targets list"]
        lines += [f"# input  {_told(info)}" for info in self.inputs] + [f"# output {_told(info)}" for info in self.outputs]
        lines += [*self._data_lines(), *self._metric_lines()]
        kinds = {name: kind for finding in self.findings.values() for name, kind in finding.kinds.items()}
        if kinds:
            lines.append(f"output_kinds: {_flow(kinds)}    # the divergence compares distributions over the classes")
        lines += ["max_trials: 40", "# budget: 20m", "# seed: 0", "# output: ovquant-out"]
        return "\n".join(lines) + "\n"

    def _data_lines(self) -> list[str]:
        path = self.data.get("path")
        fill_in = "    # FILL IN: image folder, .csv, COCO .json, .npz with an array per input, or file.py:function"
        lines = ["data:", f"  path: {scalar(path or placeholder(self.inputs))}{fill_in if path is None else ''}"]
        for key in ("annotations", "masks", "labels"):
            if self.data.get(key) is not None:
                value = self.data[key]
                lines.append(f"  {key}: {scalar(value) if isinstance(value, str) else _flow(value)}")
        names = next((finding.class_names for finding in self.findings.values() if finding.class_names), None)
        if names is not None:
            lines.append(f"  class_names: {_flow(list(names))}")
        lines += [f"  # {_one_line(hint)}" for hint in self.hints]
        return [*lines, *self._preprocessing_lines()]

    def _preprocessing_lines(self) -> list[str]:
        if self.preprocessing is None:
            return []
        lines = ["  preprocessing:"]
        for key, value in self.preprocessing.items():
            note = "    # CHECK: or a shorter side and a crop, as it was trained" if key == "resize" else ""
            lines.append(f"    {key}: {_flow(value) if isinstance(value, list) else scalar(value)}{note}")
        if "scale" in self.preprocessing:
            lines.append(f"    # CHECK: of the usual ones, this mean and scale did best on {self.n_tried} items")
        else:
            is_grey = self.preprocessing.get("channels") == "GRAY"
            usual = {"mean": [127.5], "scale": [127.5]} if is_grey else IMAGENET
            whose = "these lead to -1..1" if is_grey else "these are ImageNet's"
            lines.append(f"    # CHECK: what the model was trained with, in units of pixels 0..255; {whose}")
            lines += [f"    # {key}: {_flow(value)}" for key, value in usual.items()]
        if self.as_good:
            told = " or ".join(", ".join(f"{key} {_flow(value)}" for key, value in one.items()) for one in self.as_good)
            lines.append(f"    # CHECK: {self.n_tried} items cannot tell these from {told}")
        return lines

    def _metric_lines(self) -> list[str]:
        remarks = [finding.remark for finding in self.findings.values() if finding.remark is not None]
        lines = [f"# {_one_line(remark)}" for remark in remarks if self.metrics]
        if self.metrics:
            lines.append(f"metrics:    # {self.task}; what is told was reached by the float model on {self.n_tried} items")
            for finding in self.findings.values():
                for place, entry in enumerate(finding.metrics):
                    told = f"    # {finding.value:.4f}" if place == 0 and finding.value is not None else ""
                    lines.append(f"  - {_flow(entry)}{told}")
            return lines
        if self.data.get("path") is None and self.guess == "classification":
            return ["metrics:    # the outputs look like classification", "  - {name: accuracy, max_drop: 0.01}"]
        why = "; ".join(remarks) or f"the outputs look like {self.guess}"
        lines = [
            f"# No metric: {_one_line(why)}. The search goes by divergence from the float model, and allows what NNCF's",
        ]
        return [*lines, "# default has.", *self._alternatives()]

    def _alternatives(self) -> list[str]:
        """Return metrics that may fit, as comments."""
        if self.task == "detection":
            return [*_BOXES, "# metrics:", *(f"#   - {entry}" for entry in _detection("FILL_IN.py:boxes"))]
        own = "{name: metric.py:function, max_drop: 1%}    # f(outputs, labels): a number, or one per item"
        head = "# metrics:    # one or more of these, where the data has labels for it"
        return [head, *(f"#   - {entry}" for entry in (*_by_shape(self.outputs), own))]


def _detection(decode: str) -> list[str]:
    return [f'{{name: {name}, decode: "{decode}", max_drop: 0.02}}' for name in ("map50", "map")]


def _by_shape(outputs: Sequence[InputInfo]) -> list[str]:
    """Return entries that outputs of such shapes may serve."""
    found = []
    for info in outputs:
        where = f"output: {scalar(info.name)}, " if len(outputs) > 1 else ""
        rank = None if info.shape is None else len(info.shape)
        if rank == 2:
            found.append(f"{{name: accuracy, {where}max_drop: 0.01}}    # classes")
            found.append(f"{{name: cosine, {where}max_drop: 0.01}}    # embeddings; needs no labels")
        if rank == 3:
            found.append(f'{{name: cer, {where}decode: ctc, blank: 0, alphabet: "...", max_drop: 0.01}}    # texts')
        if rank == 4:
            found.append(f"{{name: miou, {where}max_drop: 0.01}}    # masks; name their folder in data.masks")
    if any(info.shape is not None and len(info.shape) in {3, 4} for info in outputs):
        found.append(f"{_detection('file.py:function')[0]}    # boxes; name their COCO JSON in data.annotations")
    return found


def is_image(inputs: Sequence[InputInfo]) -> bool:
    """Return whether a model takes an image, and nothing else."""
    shape = inputs[0].shape
    return len(inputs) == 1 and shape is not None and len(shape) == 4 and (shape[1] in CHANNELS or shape[-1] in CHANNELS)


def image_options(info: InputInfo) -> dict[str, Any]:
    """Return the preprocessing that an image input's shape tells: layout, channels, and the size to resize to."""
    shape = info.shape or ()
    is_last = shape[-1] in CHANNELS and shape[1] not in CHANNELS
    sides = list(shape[1:3] if is_last else shape[2:])
    options: dict[str, Any] = {"layout": "NHWC" if is_last else "NCHW"}
    if shape[-1 if is_last else 1] == 1:
        options["channels"] = "GRAY"
    if None not in sides:
        options["resize"] = sides
    return options


def guessed_task(inputs: Sequence[InputInfo], outputs: Sequence[InputInfo]) -> str:
    """Return what the outputs look like: one row of scores is a classification."""
    if len(outputs) == 1:
        shape = outputs[0].shape
        if shape is not None and len(shape) == 2 and (shape[1] is None or shape[1] > 1):
            return "classification"
        if shape is not None and len(shape) == 2:
            return "regression"
        if shape is not None and len(shape) == 4 and is_image(inputs):
            return "maps (segmentation or detection)"
        if shape is not None and len(shape) == 3:
            return "sequences or boxes"
    return "something else"


def placeholder(inputs: Sequence[InputInfo]) -> str:
    """Return a path that nobody has given yet."""
    return "images/" if is_image(inputs) else "data.npz"


def _told(info: InputInfo) -> str:
    shape = "any rank" if info.shape is None else "x".join("?" if side is None else str(side) for side in info.shape)
    return _one_line(f"{info.name}: {info.dtype} {shape}")


def _one_line(text: str) -> str:
    """Return text that stays within its comment, whatever is in it."""
    return printable(text).replace("\n", " ")


def scalar(value: Any) -> str:
    """Return a value as a YAML scalar, quoted where that is needed."""
    text: str = yaml.safe_dump(value, allow_unicode=True, width=10_000)
    return text.removesuffix("\n...\n").rstrip("\n")


def _flow(value: Any) -> str:
    """Return a list or mapping on one line of YAML."""
    text: str = yaml.safe_dump(value, allow_unicode=True, width=10_000, default_flow_style=True, sort_keys=False)
    return text.rstrip("\n")
