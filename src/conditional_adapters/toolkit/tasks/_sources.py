"""Openers of every kind of source: "imdb", "reviews.csv", "pets/" or "packaged:bbc".

An existing file or folder wins. Everything else is the name of a data set on a hub, unless it can
only be a path.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ...errors import DataError
from ._files import FILE_OPENERS, open_file
from ._table import Row, Table, class_names, in_label_order

if TYPE_CHECKING:
    import datasets
    import numpy as np
    from numpy.typing import NDArray

_Split = TypeVar("_Split", bound=str)

_IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
_BATCH_SIZE = 100  # rows of a stored data set read at a time; they may be images of a megabyte


def open_source(source: str, split: str | None) -> Table:
    """Open a source; see `DataSpec` for its forms and when a split is needed."""
    path = Path(source)
    if source.startswith("packaged:"):
        return _open_packaged(source, split)
    if path.is_dir():
        return _open_folder(path, split)
    if path.is_file():
        _refuse_split(source, split)
        return open_file(path)
    if _is_surely_a_path(source):
        raise DataError(
            f"There is no file or folder {source!r} (looked for {path.absolute()}). Check the path."
        )
    return _open_hub(source, split)


def _is_surely_a_path(source: str) -> bool:
    """Whether a source that does not exist cannot be a hub name."""
    is_deep = source.count("/") > 1 or "\\" in source
    return is_deep or source.startswith((".", "/", "~")) or Path(source).suffix in FILE_OPENERS


def _open_folder(folder: Path, split: str | None) -> Table:
    """Open a folder written by `save_to_disk`, or else an image folder."""
    import datasets

    if not any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return _open_image_folder(folder / (split or ""))
    try:
        stored = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise DataError(f"The data set in {folder} is damaged ({error}). Save it again.") from error
    return _open_stored(str(folder), stored, split)


def _open_image_folder(folder: Path) -> Table:
    """Open images in one sub-folder per class; images outside the sub-folders have no class."""
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}. Check the path and the split.")
    children = [c.name for c in folder.iterdir() if c.is_dir() and not c.name.startswith(".")]
    names = in_label_order(child for child in children if _images_in(folder / child))
    if not names and not _images_in(folder):
        raise DataError(
            f"{folder} holds neither a data set written by save_to_disk nor images as"
            f" class_name/image.png. Its folders: {', '.join(sorted(children)) or 'none'}."
            " If these are splits, choose one with --split."
        )
    return Table(
        read=partial(_read_image_folder, folder, names),
        columns=("image", "label"),
        class_names={"label": names},
    )


def _read_image_folder(folder: Path, names: Sequence[str], _: Sequence[str]) -> Iterator[Row]:
    """Yield the path of every image; opens none."""
    for path in _images_in(folder):
        yield Row(str(path), {"image": str(path), "label": None})
    for label, name in enumerate(names):
        for path in _images_in(folder / name):
            yield Row(str(path), {"image": str(path), "label": label})


def _images_in(folder: Path) -> list[Path]:
    """List the image files directly in a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _IMAGE_SUFFIXES)


def _open_hub(source: str, split: str | None) -> Table:
    """Load a data set by name, from the hub or the local cache of `datasets`."""
    import datasets

    name, _, configuration = source.partition(":")
    try:
        loaded = datasets.load_dataset(name, configuration or None, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"{source!r} is neither a file, nor a folder, nor a reachable data set ({error})."
            f" Give a file ({', '.join(FILE_OPENERS)}), a folder, a hub name such as imdb or"
            f" nyu-mll/glue:sst2, or one of {', '.join(_PACKAGED_OPENERS)}."
        ) from error
    return _open_stored(source, loaded, None if isinstance(loaded, datasets.Dataset) else split)


def _open_stored(
    source: str, stored: "datasets.Dataset | datasets.DatasetDict", split: str | None
) -> Table:
    """Open one split of what `datasets` loaded."""
    import datasets

    if isinstance(stored, datasets.Dataset):
        _refuse_split(source, split)
        dataset = stored
    else:
        dataset = stored[_choose_split(source, list(stored), split)]
    return Table(
        read=partial(_read_dataset, source, dataset),
        columns=dataset.column_names,
        class_names=class_names(dataset.features),
        dataset=dataset,
    )


def _read_dataset(
    source: str, dataset: "datasets.Dataset", columns: Sequence[str]
) -> Iterator[Row]:
    """Read rows in batches; images and recordings stay encoded."""
    import datasets

    view = dataset.with_format(None).select_columns(list(columns))
    for column, kind in view.features.items():
        if isinstance(kind, datasets.Image | datasets.Audio):
            view = view.cast_column(column, type(kind)(decode=False))
    number = 0
    for batch in view.iter(batch_size=_BATCH_SIZE):
        for cells in zip(*batch.values(), strict=True):
            number += 1
            yield Row(f"{source}, row {number}", dict(zip(batch, cells, strict=True)))


def _open_packaged(source: str, split: str | None) -> Table:
    """Open a data set that was installed as a package."""
    opener = _PACKAGED_OPENERS.get(source)
    if opener is None:
        raise DataError(
            f"There is no packaged data set {source!r}. Choose one of"
            f" {', '.join(_PACKAGED_OPENERS)}."
        )
    return opener(source, split)


def _table_of(
    source: str,
    columns: Sequence[str],
    cells: Callable[[], Iterable[Sequence[object]]],
    names: Sequence[str] | None = None,
) -> Table:
    """Make a table of rows that are read anew each time, with class names in label order."""

    def read(_: Sequence[str]) -> Iterator[Row]:
        for number, values in enumerate(cells(), start=1):
            yield Row(f"{source}, row {number}", dict(zip(columns, values, strict=True)))

    class_names = {} if names is None else {"label": names}
    return Table(read=read, columns=columns, class_names=class_names)


def _open_bbc(source: str, split: str | None) -> Table:
    """Open the BBC News articles."""
    from ..assets import bbc_news

    _refuse_split(source, split)
    articles = [(article.text, article.label) for article in bbc_news()]
    names = in_label_order(label for _, label in articles)
    return _table_of(source, ("text", "label"), lambda: articles, names)


def _open_newsgroups(source: str, split: str | None) -> Table:
    """Open one split of 20 Newsgroups."""
    from ..assets import newsgroups

    chosen = _choose_split(source, ("train", "test"), split)
    posts = [(post.text, post.label) for post in newsgroups(chosen)]
    names = in_label_order(label for _, label in posts)
    return _table_of(source, ("text", "label"), lambda: posts, names)


def _open_bbc_headlines(source: str, split: str | None) -> Table:
    """Open the BBC News articles, with the first line as the target of the rest."""
    from ..assets import bbc_news

    _refuse_split(source, split)
    articles = [article.text.partition("\n") for article in bbc_news()]
    cells = [(body.strip(), headline.strip()) for headline, _, body in articles]
    return _table_of(source, ("text", "target"), lambda: cells)


def _open_fashion_mnist(source: str, split: str | None) -> Table:
    """Open one split of Fashion-MNIST; images are encoded one by one as they are read."""
    from ..assets import FASHION_MNIST_CLASSES, fashion_mnist

    images, labels = fashion_mnist(_choose_split(source, ("train", "test"), split))

    def cells() -> Iterator[tuple[bytes, int]]:
        return ((_as_png(image), int(label)) for image, label in zip(images, labels, strict=True))

    return _table_of(source, ("image", "label"), cells, FASHION_MNIST_CLASSES)


def _open_prompts(source: str, split: str | None) -> Table:
    """Open the telephone prompts that fit into one window of Whisper."""
    from ..assets import telephone_prompts

    _refuse_split(source, split)
    prompts = [(p.audio, p.text) for p in telephone_prompts() if p.seconds <= 30]
    return _table_of(source, ("audio", "text"), lambda: prompts)


def _as_png(pixels: "NDArray[np.uint8]") -> bytes:
    """Encode one grey image, fast rather than small."""
    import PIL.Image

    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _choose_split(source: str, splits: Sequence[_Split], split: str | None) -> _Split:
    """Return the wanted split, or the only one."""
    chosen = [name for name in splits if split in (None, name)]
    if len(chosen) != 1:
        problem = "has several splits" if split is None else f"has no split {split!r}"
        raise DataError(f"{source} {problem}. Choose one with --split: {', '.join(splits)}.")
    return chosen[0]


def _refuse_split(source: str, split: str | None) -> None:
    """Refuse a split of a source without splits."""
    if split is not None:
        raise DataError(f"{source} has no splits, got --split {split}. Leave the option out.")


_PACKAGED_OPENERS: Mapping[str, Callable[[str, str | None], Table]] = {
    "packaged:bbc": _open_bbc,
    "packaged:fashion-mnist": _open_fashion_mnist,
    "packaged:20newsgroups": _open_newsgroups,
    "packaged:bbc-headlines": _open_bbc_headlines,
    "packaged:prompts": _open_prompts,
}
