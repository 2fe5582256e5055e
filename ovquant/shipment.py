"""A bench on its way to other machines: files by their content, sent once to each, and laid out there as they lie here."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ovquant import runtime
from ovquant.datasets.files import files_of
from ovquant.errors import DataError
from ovquant.job import DataSpec, MetricSpec, Source, split_entry
from ovquant.tasks import BenchSpec

_PIECE_BYTES = 8 << 20  # sent in one message


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shipment:
    """What a bench consists of.

    Attributes:
        spec: with the paths and the device of the machine that it comes from.
        timed_on: OpenVINO device that latency is measured on.
        files: absolute path -> SHA-256.
        folders: that have to be there; an empty one may be a class.
    """

    spec: BenchSpec
    timed_on: str
    files: Mapping[str, str]
    folders: tuple[str, ...]

    @property
    def digest(self) -> str:
        """What tells it from others."""
        content = (self.spec, self.timed_on, sorted(self.files.items()), self.folders)
        return hashlib.sha256(repr(content).encode()).hexdigest()[:16]

    def laid_out(self, root: Path, model_dir: Path) -> BenchSpec:
        """Return the bench where its files lie below `root`, and candidates go to `model_dir`."""
        spec = self.spec
        return dataclasses.replace(
            spec,
            model=_below(root, spec.model),
            data=_data_below(root, spec.data),
            metrics=tuple(_metric_below(root, metric) for metric in spec.metrics),
            model_dir=str(model_dir),
        )

    def timing(self, spec: BenchSpec) -> BenchSpec:
        """Return a bench as latency is measured on it, which may be another device than the one for validation."""
        return dataclasses.replace(spec, device=self.timed_on)

    def validating(self, spec: BenchSpec) -> BenchSpec:
        """Return a bench as models are validated on it: without the properties of a device that is not used there."""
        if spec.device == self.timed_on:
            return spec
        target = spec.target.model_copy(update={"compile_properties": {"PERFORMANCE_HINT": "LATENCY"}})
        return dataclasses.replace(spec, target=target)


def shipment_of(spec: BenchSpec, timed_on: str) -> Shipment:
    """Return what has to be sent of a bench; all its files are read.

    Raises:
        DataError: a file cannot be read.
    """
    sources = [source for source in (spec.data.main, spec.data.calibration, spec.data.holdout) if source is not None]
    entries = [split_entry(text) for metric in spec.metrics for text in (metric.name, metric.decode or "")]
    found = [*runtime.model_files(Path(spec.model)), *(entry[0] for entry in entries if entry is not None)]
    folders: list[Path] = []
    for source in sources:
        found.extend(files_of(source).values())
        folders.extend(Path(text) for text in (source.path, source.masks or "") if text and Path(text).is_dir())
        folders.extend(child for child in Path(source.path).rglob("*") if child.is_dir())
    try:
        files = {str(_absolute(path)): runtime.file_sha256(path) for path in found}
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read, to be sent to the workers: {error.strerror}") from error
    return Shipment(spec=spec, timed_on=timed_on, files=files, folders=tuple(sorted({str(_absolute(path)) for path in folders})))


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100  # links stay links: their targets lie elsewhere


def _below(root: Path, path: str) -> str:
    """Return where a file lies below `root`, named by its path here; ``file.py:function`` keeps the function."""
    entry = split_entry(path)
    absolute = _absolute(path if entry is None else entry[0])
    moved = str(root / absolute.relative_to(absolute.anchor))
    return moved if entry is None else f"{moved}:{entry[1]}"


def _source_below(root: Path, source: Source) -> Source:
    paths = {name: getattr(source, name) for name in ("path", "annotations", "masks")}
    return source.model_copy(update={name: _below(root, path) for name, path in paths.items() if path is not None})


def _data_below(root: Path, data: DataSpec) -> DataSpec:
    main = _source_below(root, data.main)
    parts = {"calibration": data.calibration, "holdout": data.holdout}
    moved: dict[str, object] = {name: _source_below(root, part) for name, part in parts.items() if part is not None}
    return data.model_copy(update={**moved, "path": main.path, "annotations": main.annotations, "masks": main.masks})


def _metric_below(root: Path, metric: MetricSpec) -> MetricSpec:
    texts = {"name": metric.name, "decode": metric.decode}
    return metric.model_copy(update={key: _below(root, text) for key, text in texts.items() if text and split_entry(text)})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of a file.

    Attributes:
        digest: of the whole file.
        start: first byte.
        content: the bytes.
        is_last: the file ends with it.
    """

    digest: str
    start: int
    content: bytes
    is_last: bool


def pieces(files: Mapping[str, Path]) -> Iterator[list[Piece]]:
    """Yield files in parts, small ones together, so that no message is large.

    Args:
        files: SHA-256 -> path.
    """
    together: list[Piece] = []
    n_bytes = 0
    for digest, path in files.items():
        with path.open("rb") as stream:
            start, content = 0, stream.read(_PIECE_BYTES)
            while True:
                following = stream.read(_PIECE_BYTES)
                together.append(Piece(digest=digest, start=start, content=content, is_last=not following))
                n_bytes += len(content)
                if n_bytes >= _PIECE_BYTES:
                    yield together
                    together, n_bytes = [], 0
                if not following:
                    break
                start, content = start + len(content), following
    if together:
        yield together


class Depot:
    """A folder of files by content, that all workers of a machine share and that outlives them."""

    def __init__(self, folder: Path, owner: str) -> None:
        """Use `folder`; `owner` tells what is written by one of those who share it."""
        self.folder = folder
        self._owner = owner
        self._checked: set[str] = set()

    def lacking(self, digests: Iterable[str]) -> list[str]:
        """Return what is not there; the content of what is there is checked, and dropped where it is another one."""
        return [digest for digest in dict.fromkeys(digests) if not self._has(digest)]

    def _has(self, digest: str) -> bool:
        path = self.folder / digest
        try:
            if digest not in self._checked and runtime.file_sha256(path) != digest:
                path.unlink()
                return False
        except OSError:
            return False
        self._checked.add(digest)
        return path.is_file()

    def take(self, several: Iterable[Piece]) -> None:
        """Write parts of files, each of which is there once its last part is.

        Raises:
            ValueError: a file's content is not what it is named by.
            OSError: it cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for piece in several:
            partial = self.folder / f"{piece.digest}.{self._owner}.partial"
            with partial.open("r+b" if piece.start else "wb") as stream:
                stream.seek(piece.start)
                stream.write(piece.content)
            if not piece.is_last:
                continue
            if runtime.file_sha256(partial) != piece.digest:
                partial.unlink()
                raise ValueError("a file changed while it was sent")
            partial.replace(self.folder / piece.digest)
            self._checked.add(piece.digest)

    def lay_out(self, shipment: Shipment, root: Path) -> None:
        """Put the files of a shipment below `root`, at the paths that they have where they come from.

        Raises:
            OSError: one is not there, or cannot be written.
        """
        for folder in shipment.folders:
            Path(_below(root, folder)).mkdir(parents=True, exist_ok=True)
        for path, digest in shipment.files.items():
            place = Path(_below(root, path))
            place.parent.mkdir(parents=True, exist_ok=True)
            place.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                os.link(self.folder / digest, place)
                continue
            shutil.copyfile(self.folder / digest, place)
