"""Which files a source of samples consists of."""

from __future__ import annotations

from pathlib import Path

from ovquant.datasets.coco import read_coco
from ovquant.datasets.images import IMAGE_SUFFIXES
from ovquant.datasets.saved import is_saved_dataset
from ovquant.datasets.table import file_columns, read_table
from ovquant.job import Source, split_entry


def files_of(source: Source) -> dict[str, Path]:
    """Return the files whose contents make a source, by a name that does not depend on where the source lies.

    Of a Python entry that is the file that holds it; of a list, the list and the files that it names.
    """
    entry = split_entry(source.path)
    path = Path(source.path) if entry is None else entry[0]
    if source.annotations is not None or path.suffix.lower() in {".csv", ".json"}:
        listing = path if source.annotations is None else Path(source.annotations)
        folder = path.parent if source.annotations is None else path
        return {"": listing, **{name: folder / name for name in _listed(listing)}}
    if not path.is_dir():
        return {"": path}
    is_saved = is_saved_dataset(path)
    files = {str(file.relative_to(path)): file for file in sorted(path.rglob("*")) if _counts(file, is_saved=is_saved)}
    if source.masks is not None:
        masks = Path(source.masks)
        files |= {f"masks/{file.relative_to(masks)}": file for file in sorted(masks.glob("*.png"))}
    return files


def _counts(file: Path, *, is_saved: bool) -> bool:
    return file.is_file() and (file.suffix in {".arrow", ".json"} if is_saved else file.suffix.lower() in IMAGE_SUFFIXES)


def _listed(path: Path) -> list[str]:
    if path.suffix.lower() == ".json":
        return sorted(image["file_name"] for image in read_coco(path)["images"])
    columns = read_table(path)
    return sorted({name for column in file_columns(columns) for name in columns[column]})
