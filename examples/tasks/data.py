"""Data of the task examples, composed of scikit-learn's handwritten digits: all truths are exact, nothing is downloaded.

    python data.py [DIRECTORY]      # writes it, by default to `data` beside this file

- detection and segmentation: scenes/*.png, scenes.json (boxes, COCO), masks/*.png (0 is the background, 255 the rim of a digit)
- a sequence of digits: lines/*.png, lines.csv (image, text)
- two outputs, one a regression: turned/*.png, turned.csv (image, digit, angle in degrees)
- a token encoder: pairs.npz (input_ids, attention_mask: [N, 2, 64]; y: 1 for two of the same digit)

Digits that train the networks (``train.py``) are not among these.
"""

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits

Floats = npt.NDArray[np.float64]
SCENE, LINE, TURNED = 64, (24, 96), 32
TOKENS = 64
RIM = 255
_TRAIN_PER_CLASS = 60


@dataclass(frozen=True, slots=True)
class Digits:
    """Images [N, 8, 8] with values 0..16, and labels [N]."""

    images: Floats
    labels: npt.NDArray[np.int64]


def split() -> tuple[Digits, Digits]:
    """Return the digits that train the networks, and all others."""
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    chosen = np.zeros(len(order), dtype=bool)
    for label in range(10):
        chosen[order[bunch.target[order] == label][:_TRAIN_PER_CLASS]] = True
    return tuple(Digits(bunch.images[part], bunch.target[part].astype(np.int64)) for part in (chosen, ~chosen))  # type: ignore


def _enlarged(digit: Floats, height: int, width: int) -> Floats:
    image = Image.fromarray((digit * 15).astype(np.uint8)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.float64)


def _noisy(canvas: Floats, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    return np.clip(canvas + rng.normal(0, 6, canvas.shape), 0, 255).astype(np.uint8)


def scene(digits: Digits, rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], list[list[float]], npt.NDArray[np.uint8]]:
    """Return an image [64, 64] of one to four digits, their boxes (digit, x, y, width, height), and the mask [64, 64]."""
    canvas, mask = np.zeros((SCENE, SCENE)), np.zeros((SCENE, SCENE), dtype=np.uint8)
    boxes: list[list[float]] = []
    taken = np.zeros((SCENE, SCENE), dtype=bool)
    for _ in range(int(rng.integers(1, 5))):
        index, side = int(rng.integers(len(digits.labels))), int(rng.integers(16, 29))
        top, left = (int(value) for value in rng.integers(0, SCENE - side + 1, 2))
        window = (slice(top, top + side), slice(left, left + side))
        if taken[window].any():
            continue
        taken[window] = True
        ink = _enlarged(digits.images[index], side, side)
        canvas[window] = ink
        mask[window] = np.where(ink > 90, digits.labels[index] + 1, np.where(ink > 45, RIM, 0))
        rows, columns = np.flatnonzero((ink > 60).any(axis=1)), np.flatnonzero((ink > 60).any(axis=0))
        x, y = left + int(columns[0]), top + int(rows[0])
        boxes.append([int(digits.labels[index]), x, y, int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1])
    return _noisy(canvas, rng), boxes, mask


def line(digits: Digits, rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], str]:
    """Return an image [24, 96] of three to six digits in a row, and what it says."""
    canvas = np.zeros(LINE)
    chosen = rng.integers(len(digits.labels), size=int(rng.integers(3, 7)))
    left = 0
    for index in chosen:
        width = int(rng.integers(11, 16))
        top = int(rng.integers(0, 5))
        canvas[top : top + 20, left : left + width] = _enlarged(digits.images[index], 20, width)
        left += width + int(rng.integers(0, 2))
    return _noisy(canvas, rng), "".join(str(label) for label in digits.labels[chosen])


def turned(digits: Digits, rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], int, float]:
    """Return an image [32, 32] of a digit turned by up to 45 degrees, the digit and the angle in degrees."""
    index, angle = int(rng.integers(len(digits.labels))), round(float(rng.uniform(-45, 45)), 2)
    ink = Image.fromarray(_enlarged(digits.images[index], TURNED, TURNED).astype(np.uint8))
    canvas = np.asarray(ink.rotate(angle, Image.Resampling.BILINEAR), dtype=np.float64)
    return _noisy(canvas, rng), int(digits.labels[index]), angle


def tokens(digits: Digits, indices: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return digits as sequences of tokens [N, 64], one per pixel (1 + its value, 0 is padding), and their masks [N, 64].

    Blank pixels at the end are left out, so that sequences differ in length.
    """
    values = digits.images[indices].reshape(len(indices), TOKENS).astype(np.int64)
    lengths = TOKENS - np.argmax(values[:, ::-1] > 0, axis=1)
    mask = (np.arange(TOKENS) < lengths[:, None]).astype(np.int64)
    return (values + 1) * mask, mask


def pairs(digits: Digits, n_pairs: int, rng: np.random.Generator) -> dict[str, npt.NDArray[np.int64]]:
    """Return pairs of digits, half of them of the same one."""
    first = rng.integers(len(digits.labels), size=n_pairs)
    second = rng.integers(len(digits.labels), size=n_pairs)
    for place in range(0, n_pairs, 2):
        second[place] = rng.choice(np.flatnonzero(digits.labels == digits.labels[first[place]]))
    both = [tokens(digits, part) for part in (first, second)]
    return {
        "input_ids": np.stack([ids for ids, _ in both], axis=1),
        "attention_mask": np.stack([mask for _, mask in both], axis=1),
        "y": (digits.labels[first] == digits.labels[second]).astype(np.int64),
    }


def write(folder: Path, n_items: int = 240) -> None:
    """Write the data of all examples."""
    _, digits = split()
    rng = np.random.default_rng(1)
    for name in ("scenes", "masks", "lines", "turned"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(n_items):
        picture, boxes, mask = scene(digits, rng)
        name = f"{number:04}.png"
        Image.fromarray(picture).save(folder / "scenes" / name)
        Image.fromarray(mask).save(folder / "masks" / name)
        images.append({"id": number, "file_name": name, "width": SCENE, "height": SCENE})
        for digit, *box in boxes:
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": digit, "bbox": box, "iscrowd": 0})
    categories = [{"id": digit, "name": str(digit)} for digit in range(10)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "scenes.json").write_text(json.dumps(content), encoding="utf-8")
    rows: dict[str, list[list[object]]] = {"lines": [["image", "text"]], "turned": [["image", "digit", "angle"]]}
    for number in range(n_items):
        for name, (picture, *truth) in {"lines": line(digits, rng), "turned": turned(digits, rng)}.items():
            Image.fromarray(picture).save(folder / name / f"{number:04}.png")
            rows[name].append([f"{name}/{number:04}.png", *truth])
    for name, table in rows.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows(table)
    np.savez_compressed(folder / "pairs.npz", **pairs(digits, n_items, rng))  # type: ignore[arg-type]


def boxes(outputs: dict[str, npt.NDArray[np.float32]]) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """Return the boxes (x1, y1, x2, y2), scores and digits that output ``cells`` [1, 15, 8, 8] tells.

    Each cell of 8x8 pixels tells whether a digit's centre lies in it, where, its size, and ten scores. Of boxes that overlap by
    more than half the best one stays.
    """
    cells = outputs["cells"][0].reshape(15, -1).astype(np.float64)
    rows, columns = np.divmod(np.arange(64), 8)
    share = 1 / (1 + np.exp(-cells[:5]))
    centres = np.stack([columns + share[1], rows + share[2]]) * 8
    sizes = share[3:5] * 32
    corners = np.concatenate([centres - sizes / 2, centres + sizes / 2]).T
    odds = np.exp(cells[5:] - cells[5:].max(axis=0))
    scores = share[0] * (odds / odds.sum(axis=0)).max(axis=0)
    kept: list[int] = []
    for index in np.argsort(-scores):
        if scores[index] > 0.05 and all(_overlap(corners[index], corners[other]) <= 0.5 for other in kept):
            kept.append(int(index))
    return corners[kept], scores[kept], cells[5:].argmax(axis=0)[kept]


def _overlap(first: Floats, second: Floats) -> float:
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    both = float(np.prod(np.maximum(sides, 0)))
    return both / (float(np.prod(first[2:] - first[:2])) + float(np.prod(second[2:] - second[:2])) - both)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the data of the task examples.")
    parser.add_argument("directory", type=Path, nargs="?", default=Path(__file__).with_name("data"))
    write(parser.parse_args().directory)
