"""Images and boxes that a COCO JSON file lists (cocodataset.org/#format-data, object detection)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ovquant.datasets.images import Images, inside, require_files, require_once
from ovquant.datasets.preprocess import Placement, placement
from ovquant.errors import DataError, did_you_mean, first_line
from ovquant.job import DataSpec
from ovquant.runtime import InputInfo

_N_NUMBERS = 4  # of a box: x, y, width, height


def coco_images(path: Path, folder: Path, *, spec: DataSpec, inputs: Sequence[InputInfo]) -> Images:
    """Return the images of a COCO JSON file, in the order of their names, with a label each.

    A label holds boxes [G, 4] (x1, y1, x2, y2 in pixels of the model's input), labels [G] (places of the categories in the order
    of ids, or of ``data.class_names``), is_crowd [G] and categories (all names). Boxes are cut where the image is cropped; those
    that lie outside are left out.

    Args:
        path: the JSON.
        folder: holds the images.
        spec: preprocessing and class names.
        inputs: of the model.

    Raises:
        DataError: it is not as it should be; the message says where.
    """
    content = read_coco(path)
    images = sorted(content["images"], key=lambda image: str(image["file_name"]))
    paths = [inside(folder, image["file_name"], f"{path}: images") for image in images]
    require_files(paths, str(path))
    require_once(paths, str(path))
    places, names = _categories(content["categories"], spec.class_names, path)
    by_image = _by_image(content["annotations"], images, places, path)
    if not any(by_image.values()):
        raise DataError(f"{path}: annotations is empty: there is no box to be found in any image")
    labels = []
    for image in images:
        where = placement(image["width"], image["height"], spec.preprocessing)
        label = _label(by_image[image["id"]], places, where, is_cropped=spec.preprocessing.crop is not None)
        labels.append({**label, "categories": names})
    sizes = {file: (image["width"], image["height"]) for file, image in zip(paths, images, strict=True)}
    return Images((str(path.resolve()),), paths, labels, spec=spec, inputs=inputs, sizes=sizes)


def read_coco(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return images, annotations and categories, checked for the keys that are needed and their types.

    Raises:
        DataError: it cannot be read, or something is missing.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {first_line(error)}") from error
    needed: dict[str, dict[str, type]] = {
        "images": {"id": int, "file_name": str, "width": int, "height": int},
        "annotations": {"image_id": int, "category_id": int, "bbox": list},
        "categories": {"id": int, "name": str},
    }
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in needed):
        raise DataError(f"{path}: no COCO JSON: it must hold the lists images, annotations and categories")
    for key, fields in needed.items():
        for place, entry in enumerate(content[key]):
            for field, kind in fields.items():
                found = entry.get(field) if isinstance(entry, dict) else None
                if not isinstance(found, kind) or isinstance(found, bool):
                    raise DataError(f"{path}: {key}[{place}]: needs {field} ({kind.__name__}), found {str(found)[:60]!r}")
        if key != "annotations" and len({entry["id"] for entry in content[key]}) != len(content[key]):
            raise DataError(f"{path}: {key}: an id is given twice")
    if not content["images"]:
        raise DataError(f"{path}: images is empty")
    if any(min(image["width"], image["height"]) < 1 for image in content["images"]):
        raise DataError(f"{path}: images: width and height must be at least 1")
    return {key: content[key] for key in needed}


def _categories(
    categories: Sequence[Mapping[str, Any]], class_names: Sequence[str] | None, path: Path
) -> tuple[dict[int, int], tuple[str, ...]]:
    """Return category id -> class of the model, and the names of the classes."""
    ordered = sorted(categories, key=lambda category: int(category["id"]))
    names = tuple(class_names or (category["name"] for category in ordered))
    for category in ordered:
        if category["name"] not in names:
            raise DataError(
                f"{path}: category {category['name']!r} is not in data.class_names{did_you_mean(category['name'], names)}"
            )
    if class_names is None:
        return {category["id"]: place for place, category in enumerate(ordered)}, names
    return {category["id"]: names.index(category["name"]) for category in ordered}, names


def _by_image(
    annotations: Sequence[Mapping[str, Any]], images: Sequence[Mapping[str, Any]], places: Mapping[int, int], path: Path
) -> dict[int, list[Mapping[str, Any]]]:
    by_image: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in images}
    for number, annotation in enumerate(annotations):
        where = f"{path}: annotations[{number}]"
        if annotation["image_id"] not in by_image:
            raise DataError(f"{where}: image_id {annotation['image_id']} is not among the ids of images")
        if annotation["category_id"] not in places:
            known = ", ".join(map(str, list(places)[:10])) + (" ..." if len(places) > 10 else "")
            raise DataError(f"{where}: category_id {annotation['category_id']} is not among the ids of categories ({known})")
        box = annotation["bbox"]
        is_number = [isinstance(value, int | float) and math.isfinite(value) for value in box]
        if len(box) != _N_NUMBERS or not all(is_number) or min(box[2:]) < 0:
            raise DataError(f"{where}: bbox must be four numbers x, y, width, height, sizes not negative; found {str(box)[:80]}")
        by_image[annotation["image_id"]].append(annotation)
    return by_image


def _label(
    annotations: Sequence[Mapping[str, Any]], places: Mapping[int, int], where: Placement, *, is_cropped: bool
) -> dict[str, Any]:
    boxes = np.array([annotation["bbox"] for annotation in annotations], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    moved = boxes * np.tile([where.scale_x, where.scale_y], 2) - np.tile([where.left, where.top], 2)
    cut = np.clip(moved, 0, np.tile([where.width, where.height], 2)) if is_cropped else moved
    is_seen = (cut[:, 2:] > cut[:, :2]).all(axis=1) | (not is_cropped)
    return {
        "boxes": cut[is_seen],
        "labels": np.array([places[annotation["category_id"]] for annotation in annotations], dtype=np.int64)[is_seen],
        "is_crowd": np.array([bool(annotation.get("iscrowd", 0)) for annotation in annotations], dtype=bool)[is_seen],
    }
