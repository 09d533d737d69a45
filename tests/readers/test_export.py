"""Exports of a small data set, read by the programs that they are made for.

Each export is compared with the shards that it was made of, as PyArrow and Pillow read them.

    MULTIDIGIT    the program, default target/release/multidigit
"""

import io
import json
import os
import subprocess
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torchvision
import webdataset
import yaml
from PIL import Image
from pycocotools.coco import COCO

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("MULTIDIGIT") or ROOT / "target" / "release" / "multidigit").resolve()
COUNTS = {"train": 640, "val": 160, "test": 200}
SETTINGS = ["raw.source=synthetic", "plan.samples_per_class=10", "plan.image_size=[60, 90]", "dataset.row_group_rows=100"]


def multidigit(home, *words):
    done = subprocess.run([PROGRAM, *words, "--quiet"], cwd=home, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    multidigit(home, "run", "dataset", *(word for setting in SETTINGS for word in ("--set", setting)))
    return home


@pytest.fixture(scope="module")
def samples(home):
    """The samples of each split in the order of the shards: the columns of a row, and its pixels."""

    def read(split):
        shards = sorted((home / "artifacts" / "dataset" / "data").glob(f"{split}-*.parquet"))
        rows = pa.concat_tables([pq.read_table(path) for path in shards]).to_pylist()
        return [row | {"pixels": np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))} for row in rows]

    found = {split: read(split) for split in COUNTS}
    assert {split: len(rows) for split, rows in found.items()} == COUNTS
    return found


def export(home, form, *more):
    multidigit(home, "export", form, *more)
    return home / "artifacts" / "export" / form


@pytest.fixture(scope="module")
def tree(home):
    return export(home, "tree")


@pytest.fixture(scope="module")
def tars(home):
    return export(home, "webdataset")


@pytest.fixture(scope="module")
def coco(home):
    return export(home, "coco")


def name(row):
    """The name of a sample in the reference generator's tree."""
    return f"{row['index']}_{row['label']:02}"


# ---- the tree


@pytest.mark.parametrize("split", COUNTS)
def test_torchvision_reads_the_tree(tree, samples, split):
    folder = torchvision.datasets.ImageFolder(tree / split)
    classes = sorted({f"{row['label']:02}" for row in samples[split]})
    assert folder.classes == classes
    by_name = {name(row): row for row in samples[split]}
    assert len(folder) == len(by_name)
    for path, target in folder.samples:
        row = by_name[Path(path).stem]
        assert folder.classes[target] == f"{row['label']:02}" == Path(path).parent.name
        assert np.array_equal(np.asarray(Image.open(path)), row["pixels"])


def test_datasets_reads_the_tree(tree, samples):
    data = datasets.load_dataset("imagefolder", data_dir=str(tree))
    assert {split: len(rows) for split, rows in data.items() if split != "validation"} | {
        "val": len(data["validation"])
    } == COUNTS
    names = data["test"].features["label"].names
    by_class = {}
    for row in samples["test"]:
        by_class.setdefault(f"{row['label']:02}", set()).add(row["pixels"].tobytes())
    for row in data["test"]:
        assert np.asarray(row["image"].convert("L")).tobytes() in by_class[names[row["label"]]]


# ---- WebDataset


@pytest.mark.parametrize("split", COUNTS)
def test_webdataset_reads_the_tars_in_the_order_of_the_shards(tars, samples, split):
    urls = [str(path) for path in sorted(tars.glob(f"{split}-*.tar"))]
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode("l8"))
    assert len(found) == COUNTS[split]
    for got, row in zip(found, samples[split]):
        assert got["__key__"] == name(row)
        assert np.array_equal(got["png"], row["pixels"]) and got["cls"] == row["label"]
        assert got["json"] == {key: row[key] for key in ("label", "digits", "index", "source_index", "boxes")}


def test_datasets_reads_the_tars(tars, samples):
    files = {split: str(tars / f"{split}-*.tar") for split in COUNTS}
    data = datasets.load_dataset("webdataset", data_files=files)
    assert {split: len(rows) for split, rows in data.items()} == COUNTS
    for got, row in zip(data["val"], samples["val"], strict=True):
        assert np.array_equal(np.asarray(got["png"]), row["pixels"]) and got["json"]["digits"] == row["digits"]


# ---- COCO and YOLO


@pytest.mark.parametrize("split", COUNTS)
def test_pycocotools_reads_boxes_and_categories(coco, samples, split):
    found = COCO(coco / "annotations" / f"instances_{split}.json")
    assert len(found.getImgIds()) == COUNTS[split] and len(found.getAnnIds()) == 2 * COUNTS[split]
    assert {category["id"]: category["name"] for category in found.loadCats(found.getCatIds())} == {
        digit + 1: str(digit) for digit in range(10)
    }
    for number, row in zip(found.getImgIds(), samples[split], strict=True):
        (image,) = found.loadImgs(number)
        assert (image["file_name"], image["height"], image["width"]) == (f"{name(row)}.png", 60, 90)
        pixels = np.asarray(Image.open(coco / "images" / split / image["file_name"]))
        assert np.array_equal(pixels, row["pixels"])
        boxes = found.loadAnns(found.getAnnIds(number))
        assert [box["category_id"] - 1 for box in boxes] == row["digits"]
        assert [box["bbox"] for box in boxes] == row["boxes"]
        for box in boxes:
            x, y, width, height = box["bbox"]
            ink = pixels[y : y + height, x : x + width]
            # tight: there is ink on each of the four sides
            assert ink[0].any() and ink[-1].any() and ink[:, 0].any() and ink[:, -1].any()
            assert box["area"] == width * height and box["iscrowd"] == 0


def test_yolos_boxes_are_shares_of_the_image(coco, samples):
    description = yaml.safe_load((coco / "data.yaml").read_text(encoding="utf-8"))
    assert description["names"] == {digit: str(digit) for digit in range(10)}
    for split, rows in samples.items():
        assert description[split] == f"images/{split}"
        for row in rows:
            lines = (coco / "labels" / split / f"{name(row)}.txt").read_text(encoding="utf-8").splitlines()
            assert [int(line.split()[0]) for line in lines] == row["digits"]
            for line, (x, y, width, height) in zip(lines, row["boxes"], strict=True):
                told = [float(word) for word in line.split()[1:]]
                expected = [(x + width / 2) / 90, (y + height / 2) / 60, width / 90, height / 60]
                assert told == pytest.approx(expected, abs=1e-12)


# ---- NumPy


def test_numpy_reads_the_arrays(home, samples):
    path = export(home, "npz") / "multidigit.npz"
    with np.load(path, allow_pickle=False) as arrays:
        assert sorted(arrays.files) == sorted(f"{array}_{split}" for split in COUNTS for array in ("x", "y", "digits"))
        for split, rows in samples.items():
            images, labels, digits = (arrays[f"{array}_{split}"] for array in ("x", "y", "digits"))
            assert (images.dtype, labels.dtype, digits.dtype) == (np.uint8, np.int64, np.uint8)
            assert np.array_equal(images, np.stack([row["pixels"] for row in rows]))
            assert labels.tolist() == [row["label"] for row in rows]
            assert digits.tolist() == [row["digits"] for row in rows]


# ---- episodes


def test_episodes_name_samples_of_the_shards(home, samples):
    path = export(home, "episodes", "--ways", "4", "--shots", "3", "--queries", "2", "--episodes", "5") / "episodes.parquet"
    table = pq.read_table(path)
    assert json.loads(pq.read_metadata(path).metadata[b"episodes"]) == {
        "ways": 4, "shots": 3, "queries": 2, "episodes": 5, "seed": 0,
    }
    frame = table.to_pandas()
    assert len(frame) == 3 * 5 * 4 * (3 + 2)
    for row in frame.to_dict("records"):
        sample = samples[row["split"]][row["row"]]
        assert (sample["label"], sample["index"]) == (row["label"], row["index"])
    for (split, episode), rows in frame.groupby(["split", "episode"]):
        assert rows["label"].nunique() == rows["way"].nunique() == 4
        assert rows["row"].is_unique
        assert rows.groupby(["label", "role"]).size().unstack().to_dict("list") == {"query": [2] * 4, "support": [3] * 4}
