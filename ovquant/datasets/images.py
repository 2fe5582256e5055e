"""Images on disk: read with care, named by files that came from elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from PIL import Image

from ovquant.datasets.conform import conform
from ovquant.datasets.preprocess import image_to_array, mask_to_array, model_layout, normalize
from ovquant.errors import DataError, first_line
from ovquant.job import DataSpec, Preprocessing
from ovquant.protocols import Array, Sample
from ovquant.runtime import InputInfo

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
# A small file can unpack to an image that fills the memory; this many pixels are 256 MiB as RGB.
MAX_PIXELS = (256 << 20) // 3


@contextlib.contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image; its pixels are unpacked when they are asked for.

    Raises:
        DataError: it cannot be read, or is too large.
    """
    try:
        with Image.open(path) as image:
            yield checked_size(image)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:
        raise DataError(f"{path}: cannot be read as an image: {first_line(error)}") from error


def checked_size(image: Image.Image) -> Image.Image:
    """Return an image that was opened, and not unpacked yet.

    Raises:
        DataError: it is too large.
    """
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"{image.width}x{image.height} pixels, more than {MAX_PIXELS}: refused, as it may be a decompression bomb; "
            "make it smaller if it is not"
        )
    return image


def inside(root: Path, name: str, where: str) -> Path:
    """Return the file of that name in `root`, or in a folder below.

    Raises:
        DataError: the name leads out of `root`, by itself or through a link.
    """
    path = root / name
    try:
        is_inside = not Path(name).is_absolute() and path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a null byte
        raise DataError(f"{where}: {name!r} is no path: {first_line(error)}") from error
    if not is_inside:
        raise DataError(
            f"{where}: {name!r} leads out of {root}; files are relative to that folder and must lie in it. "
            "Name the folder that holds all of them: data: {path: FOLDER, annotations: FILE}"
        )
    return path


def require_files(paths: Sequence[Path], where: str) -> None:
    """Check that files are there.

    Raises:
        DataError: some are not.
    """
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{where}: {len(missing)} of {len(paths)} files are missing, the first one is {missing[0]}")


def require_once(paths: Sequence[Path], where: str) -> None:
    """Check that no image is listed twice, which could then serve calibration and validation at once.

    Raises:
        DataError: one is.
    """
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise DataError(f"{where}: lists {path} twice; name each image once")
        seen.add(path.resolve())


def only_input(inputs: Sequence[InputInfo], where: str) -> InputInfo:
    """Return the input that images go to.

    Raises:
        DataError: the model has several.
    """
    if len(inputs) != 1:
        raise DataError(f"{where}: images serve models with one input, this one has {len(inputs)}")
    return inputs[0]


class Images:
    """Images with a label each, or without."""

    def __init__(
        self,
        identity: tuple[str, ...],
        paths: Sequence[Path],
        labels: Sequence[Any] | None,
        *,
        spec: DataSpec,
        inputs: Sequence[InputInfo],
        sizes: Mapping[Path, tuple[int, int]] | None = None,
    ) -> None:
        """Keep what images there are; they are read when asked for.

        Args:
            identity: see `Dataset`; the first entry is where they are listed.
            paths: of the images.
            labels: one per image, or None.
            spec: preprocessing.
            inputs: of the model.
            sizes: (width, height) that the images must have, where labels depend on it.
        """
        where = identity[0]
        self._info = only_input(inputs, where)
        self._options = spec.preprocessing
        self._layout = model_layout(self._options, self._info, where)
        self._paths = list(paths)
        self._sizes = sizes or {}
        self.identity = identity
        self.labels = labels

    def __len__(self) -> int:
        return len(self._paths)

    def item_name(self, index: int) -> str:
        """Return the path of the image."""
        return str(self._paths[index])

    def sample(self, index: int) -> Sample:
        """Read, preprocess and check one image."""
        path = self._paths[index]
        with open_image(path) as image:
            told = self._sizes.get(path, image.size)
            if image.size != told:
                raise DataError(
                    f"has {image.width}x{image.height} pixels, {told[0]}x{told[1]} according to "
                    f"{self.identity[0]}: boxes would be off"
                )
            pixels = image_to_array(image, self._options)
        array = normalize(pixels, self._options, self._layout, self._info.dtype)
        return conform(array, [self._info], str(path))


class Lazily(Sequence[Any]):
    """Labels that are made when they are asked for."""

    def __init__(self, make: Callable[[int], Any], length: int) -> None:
        """Keep how to make a label of an index."""
        self._make, self._length = make, length

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self._make(i) for i in range(*index.indices(self._length))]
        if not 0 <= index < self._length:
            raise IndexError(index)
        return self._make(index)


def read_mask(mask: Path, image: Path, options: Preprocessing) -> Array:
    """Return a mask [H, W] after the resize and crop of its image.

    Raises:
        DataError: it is no mask, or has another size than the image.
    """
    with open_image(image) as picture:
        size = picture.size
    with open_image(mask) as stored:
        if stored.size != size:
            raise DataError(
                f"a mask of {stored.width}x{stored.height} pixels, its image {image.name} has {size[0]}x{size[1]}; "
                "they must be equal"
            )
        return mask_to_array(stored, options)


def masked_images(folder: Path, masks: Path, *, spec: DataSpec, inputs: Sequence[InputInfo]) -> Images:
    """Return the images of a folder with the masks of the same names (``.png``) of another one.

    Raises:
        DataError: there are no images, or a mask is missing.
    """
    paths = images_in(folder)
    if not paths:
        raise DataError(f"{folder}: holds no images; with data.masks they lie in the folder itself, not in sub-folders")
    if not masks.is_dir():
        raise DataError(f"{masks}: no such folder (data.masks)")
    names = [masks / f"{path.stem}.png" for path in paths]
    require_files(names, str(masks))
    labels = Lazily(lambda index: read_mask(names[index], paths[index], spec.preprocessing), len(paths))
    return Images((str(folder.resolve()),), paths, labels, spec=spec, inputs=inputs)


def images_in(folder: Path) -> list[Path]:
    """Return the images that lie in a folder itself, sorted; none if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
