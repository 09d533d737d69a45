"""Reads the data sets and networks of the program `multidigit`, and runs it on a Ray cluster.

    multidigit.load            the data set as a `DatasetDict` of Hugging Face `datasets`; needs the extra `datasets`
    multidigit.torch.Split     one split as a data set of PyTorch; needs the extra `torch`
    multidigit.models          the networks in PyTorch, and `from_run` to load a trained one; needs the extra `torch`
    python -m multidigit.ray   a stage in parts, or the runs of a sweep, as tasks of Ray; needs the extra `ray`

An extra is installed by `pip install "multidigit[torch]"`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ._extras import extra
from ._folders import dataset_folder

if TYPE_CHECKING:
    from datasets import DatasetDict

__all__ = ["load"]


def load(folder: str | os.PathLike[str] = "artifacts") -> DatasetDict:
    """The data set in a folder of artifacts, or in the folder of the data set itself, such as `artifacts/dataset`.

    Each split has the columns of the shards: `image` as a Pillow image, `label` and `digits` as class labels, and `index`,
    `source_index` and `boxes` as integers.

    Raises FileNotFoundError if there is no data set, and ImportError without the extra `datasets`.
    """
    with extra("datasets"):
        from datasets import load_dataset
    data: DatasetDict = load_dataset(str(dataset_folder(folder)))
    return data
