"""A split of the data set for PyTorch, read from the shards."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ._extras import extra
from ._folders import dataset_folder

with extra("torch"):
    import numpy as np
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    import torch
    from PIL import Image

__all__ = ["Split"]


class Split(torch.utils.data.Dataset[tuple[Any, torch.Tensor]]):
    """One split of a data set, in the order of its shards.

    Sample `i` is a pair of the image, uint8 of shape (1, height, width), and its digits from left to right, int64 of shape
    (digits,). `transform` is applied to the image, such as one of `torchvision.transforms.v2`.

    A split keeps its images in memory as they are in the shards: as PNG files, which are decoded when a sample is read, or
    as the raw bytes of the column `pixels` if the shards have it.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        split: str,
        transform: Callable[[torch.Tensor], Any] | None = None,
    ) -> None:
        """Opens the split `train`, `val` or `test` in a folder of artifacts, or in the folder of the data set itself.

        A folder of augmented images, such as `artifacts/augment/epoch-000`, has the split `train`.

        Raises FileNotFoundError if there is no data set, or if shards of the split are missing.
        """
        files = _shards(dataset_folder(folder) / "data", split)
        self.transform = transform
        #: Height and width of the images in pixels.
        self.size: tuple[int, int] = _decode(_first_png(files[0])).shape
        self._is_raw = "pixels" in pq.read_schema(files[0]).names
        table = pq.read_table(files, columns=["digits", "pixels" if self._is_raw else "image"])
        self._images = table["pixels"] if self._is_raw else pc.struct_field(table["image"], "bytes")
        self._digits = table["digits"]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Any, torch.Tensor]:
        encoded = self._images[index].as_py()
        # copies, because a tensor must not share memory that is read-only
        pixels = np.array(np.frombuffer(encoded, np.uint8)) if self._is_raw else _decode(encoded)
        image = torch.from_numpy(pixels).reshape(1, *self.size)
        digits = torch.tensor(self._digits[index].as_py())
        return (image if self.transform is None else self.transform(image)), digits


def _shards(folder: Path, split: str) -> list[Path]:
    """The shards of a split in order."""
    found = sorted(folder.glob(f"{split}-*-of-*.parquet"))
    if not found:
        splits = sorted({path.name.split("-")[0] for path in folder.glob("*-*-of-*.parquet")})
        raise FileNotFoundError(f"{folder}: no shards of a split {split}; there are shards of {', '.join(splits)}")
    expected = [f"{split}-{number:05}-of-{len(found):05}.parquet" for number in range(len(found))]
    if [path.name for path in found] != expected:
        told = f"{len(found)} shards of {split} whose names do not form one set"
        raise FileNotFoundError(f"{folder}: {told}; expected {split}-00000-of-0000N.parquet, N files")
    return found


def _first_png(file: Path) -> bytes:
    batch = next(pq.ParquetFile(file).iter_batches(1, columns=["image.bytes"]))
    png: bytes = batch["image"][0]["bytes"].as_py()
    return png


def _decode(png: bytes) -> Any:
    """The pixels of a PNG file as a new array (height, width)."""
    with Image.open(io.BytesIO(png)) as image:
        return np.array(image)
