"""Where the program puts its files."""

import os
from pathlib import Path


def dataset_folder(folder: str | os.PathLike[str]) -> Path:
    """The folder of the data set in a folder of artifacts, or `folder` itself if it is that of a data set.

    Raises FileNotFoundError if it is neither.
    """
    for path in (Path(folder, "dataset"), Path(folder)):
        if (path / "data").is_dir():
            return path
    advice = "expected a folder of artifacts; `multidigit run dataset` makes the data set in artifacts/dataset"
    raise FileNotFoundError(f"{os.fspath(folder)}: no folder dataset/data or data in it; {advice}")
