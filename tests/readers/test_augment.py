"""A stored epoch of augmented images, read by the programs that people read it with, and replayed by torchvision.

The parameter columns are worth something only if another program makes the same pixels of them: a few hundred samples
are taken from the dataset's own train shards, transformed by torchvision on Pillow images with the parameters that the
epoch's shards hold, and compared to the last pixel. Each digit is moved alone in the same way, and its box is compared with
the one in the shards. The rest asks each reader for the columns.

    MULTIDIGIT_DATASET  the dataset's folder, default artifacts/dataset; the epoch is looked for beside it, in augment/
    MULTIDIGIT          the program, default target/release/multidigit

The epoch is that of the default pipeline.yaml: the paper's recipe. Some tests make a small data set of their own, to replay
augmentation by slot and an exchange of digits, and to load several epochs at once.
"""

import io
import json
import os
import subprocess
from pathlib import Path

# Before the readers are imported: nothing here may ask the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

import datasets
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision.transforms.functional as F
from huggingface_hub import DatasetCard
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DATASET = Path(os.environ.get("MULTIDIGIT_DATASET") or ROOT / "artifacts" / "dataset").resolve()
PROGRAM = Path(os.environ.get("MULTIDIGIT") or ROOT / "target" / "release" / "multidigit").resolve()
EPOCH = DATASET.parent / "augment" / "epoch-000"
PATTERN = str(EPOCH / "data" / "train-*.parquet")
SQL_PATTERN = "'" + PATTERN.replace("'", "''") + "'"

ROWS = 64_000
# Every so many rows are replayed: 320 samples out of all shards.
STRIDE = 200
PARAMETERS = [
    ("angle", pa.float64()),
    ("translate", pa.list_(pa.int64(), 2)),
    ("scale", pa.float64()),
    ("shear", pa.list_(pa.float64(), 2)),
    ("erased", pa.list_(pa.int64(), 4)),
]
NAMES = [name for name, _ in PARAMETERS]
COLUMNS = ["image", "label", "digits", "index", "source_index", "boxes", "epoch", *NAMES]
NOTHING = [0, 0, 0, 0]


def shards(folder):
    found = sorted((folder / "data").glob("train-*-of-*.parquet"))
    assert found, f"no train shard in {folder / 'data'}: run `make augment` first"
    return found


@pytest.fixture(scope="module")
def table():
    return pa.concat_tables([pq.read_table(path) for path in shards(EPOCH)])


@pytest.fixture(scope="module")
def parameters(table):
    """The parameter columns as lists of Python values, as PyArrow reads them."""
    return {name: table[name].to_pylist() for name in NAMES}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("datasets-cache"))
    return datasets.load_dataset(str(EPOCH), split="train", cache_dir=cache)


def opened(png):
    image = Image.open(io.BytesIO(png))
    assert (image.format, image.mode) == ("PNG", "L")
    return image


def moved(image, row):
    """What torchvision's rotation and affine map make of a Pillow image, given what was drawn for it."""
    return F.affine(F.rotate(image, row["angle"]), 0.0, row["translate"], row["scale"], row["shear"])


def replay(image, row, grey):
    """What torchvision makes of a Pillow image, given what was drawn for it."""
    pixels = torch.from_numpy(np.array(moved(image, row)))[None]
    x, y, width, height = row["erased"]
    return F.erase(pixels, y, x, height, width, torch.tensor(grey, dtype=torch.uint8))[0].numpy()


def moved_box(image, box, row):
    """The box, as Pillow computes it, around the ink in a box of an image after the map."""
    x, y, width, height = box
    alone = Image.new("L", image.size)
    alone.paste(image.crop((x, y, x + width, y + height)), (x, y))
    left, top, right, bottom = moved(alone, row).getbbox() or NOTHING
    return [left, top, right - left, bottom - top]


def test_torchvision_replays_the_epoch_to_the_last_pixel(table):
    originals = pa.concat_tables([pq.read_table(path, columns=["image", "label", "index", "boxes"]) for path in shards(DATASET)])
    assert originals.num_rows == table.num_rows == ROWS
    place = {key: at for at, key in enumerate(zip(originals["label"].to_pylist(), originals["index"].to_pylist()))}
    recipe = json.loads(pq.ParquetFile(shards(EPOCH)[0]).metadata.metadata[b"augment"])
    chosen = table.take(list(range(0, ROWS, STRIDE))).to_pylist()
    erased = 0
    for row in chosen:
        at = place[row["label"], row["index"]]
        original = originals["image"][at].as_py()
        got = np.asarray(opened(row["image"]["bytes"]))
        want = replay(opened(original["bytes"]), row, recipe["erasing"]["value"])
        assert np.array_equal(got, want), (row["label"], row["index"])
        assert not np.array_equal(got, np.asarray(opened(original["bytes"])))
        boxes = originals["boxes"][at].as_py()
        assert row["boxes"] == [moved_box(opened(original["bytes"]), box, row) for box in boxes]
        assert row["boxes"] != boxes and row["epoch"] == 0
        erased += row["erased"] != NOTHING
    # A quarter of 320, binomial: standard deviation 7.7; five of them.
    assert abs(erased - 80) < 39


@pytest.mark.parametrize("exchange", ["null", "strict", "free"])
def test_torchvision_replays_slots_and_exchanges_to_the_last_pixel(tmp_path, exchange):
    # Three slots of 33 columns begin at the columns 0, 33 and 67.
    settings = ["raw.source=synthetic", "plan.digits=3", "plan.image_size=[40,101]", "plan.samples_per_class=1"]
    settings += ["plan.split.ratio=[4,1,1]", "augment.by=slot", f"augment.exchange={exchange}"]
    words = ["run", "augment", "--quiet", *(word for setting in settings for word in ("--set", setting))]
    subprocess.run([PROGRAM, *words], cwd=tmp_path, stdout=subprocess.DEVNULL, check=True)
    dataset, epoch = tmp_path / "artifacts" / "dataset", tmp_path / "artifacts" / "augment" / "epoch-000"
    originals = pa.concat_tables([pq.read_table(path) for path in shards(dataset)]).to_pylist()
    by_key = {(row["label"], row["index"]): row for row in originals}
    rows = pa.concat_tables([pq.read_table(path) for path in shards(epoch)]).to_pylist()
    loaded = datasets.load_dataset(str(epoch), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == len(originals) == loaded.num_rows
    moved = 0
    for row, original in zip(rows, originals):
        if exchange == "null":
            assert "donor_label" not in row
            donors = [(row["label"], row["index"])] * 3
        else:
            donors = list(zip(row["donor_label"], row["donor_index"]))
        assert donors[0] == (original["label"], original["index"])
        got = np.asarray(opened(row["image"]["bytes"]))
        assert got.shape == (40, 101) and not got[:, 66].any() and not got[:, 100].any()
        for slot, (left, key) in enumerate(zip((0, 33, 67), donors)):
            donor = by_key[key]
            assert donor["digits"][slot] == row["digits"][slot]
            assert donor["source_index"][slot] == row["source_index"][slot]
            names = {name: row[f"{name}_{slot}"] for name in NAMES}
            image = opened(donor["image"]["bytes"]).crop((left, 0, left + 33, 40))
            x, *rest = donor["boxes"][slot]
            x, *rest = moved_box(image, [x - left, *rest], names)
            assert row["boxes"][slot] == ([x + left, *rest] if rest[1] else NOTHING), (key, slot)
            assert np.array_equal(got[:, left : left + 33], replay(image, names, 33)), (key, slot)
        assert int("".join(map(str, row["digits"]))) == row["label"]
        moved += row["label"] != original["label"]
    assert (moved > 0) == (exchange == "free")


def test_the_parameters_lie_where_the_recipe_puts_them(parameters):
    angle, scale = np.array(parameters["angle"]), np.array(parameters["scale"])
    translate, shear = np.array(parameters["translate"]), np.array(parameters["shear"])
    assert (np.abs(angle) <= 15).all() and np.abs(angle).max() > 14.9
    assert (np.abs(translate) <= 6).all()
    assert ((scale >= 0.9) & (scale <= 1.1)).all()
    assert (np.abs(shear[:, 0]) <= 10).all() and (shear[:, 1] == 0).all()
    erased = np.array([box for box in parameters["erased"] if box != NOTHING])
    # A quarter of 64,000, binomial: standard deviation 110; five of them.
    assert abs(len(erased) - 16_000) < 548
    x, y, width, height = erased.T
    assert (x >= 0).all() and (y >= 0).all() and (x + width <= 64).all() and (y + height <= 64).all()


def test_pyarrow_sees_the_documented_schema():
    for path in shards(EPOCH):
        schema = pq.read_schema(path)
        assert schema.names == COLUMNS
        assert [(name, schema.field(name).type) for name in NAMES] == PARAMETERS
        assert all(schema.field(name).nullable for name in NAMES)
        assert list(json.loads(schema.metadata[b"huggingface"])["info"]["features"]) == COLUMNS


def test_datasets_loads_the_folder_with_its_parameters(loaded, table, parameters):
    features = loaded.features
    assert (loaded.num_rows, list(features)) == (ROWS, COLUMNS)
    assert isinstance(features["image"], datasets.Image)
    assert features["angle"] == features["scale"] == datasets.Value("float64")
    for name, dtype, length in (("translate", "int64", 2), ("shear", "float64", 2), ("erased", "int64", 4)):
        assert (features[name].feature, features[name].length) == (datasets.Value(dtype), length)
    for at in range(0, ROWS, 499):
        row = loaded[at]
        assert np.array_equal(np.asarray(row["image"]), np.asarray(opened(table["image"][at].as_py()["bytes"])))
        assert {name: row[name] for name in NAMES} == {name: parameters[name][at] for name in NAMES}
        assert row["boxes"] == table["boxes"][at].as_py()


def test_no_column_has_a_null(table):
    assert {name: table[name].null_count for name in table.column_names} == dict.fromkeys(COLUMNS, 0)


def test_datasets_makes_tensors_of_every_column(loaded):
    row = loaded.with_format("torch")[0]
    assert (row["image"].shape, row["boxes"].shape, row["erased"].shape) == ((1, 64, 64), (2, 4), (4,))
    assert row["epoch"].item() == 0
    batch = next(iter(torch.utils.data.DataLoader(loaded.with_format("torch"), batch_size=8)))
    assert batch["boxes"].shape == (8, 2, 4)


def test_datasets_loads_all_epochs_by_their_card_and_tells_them_apart(tmp_path):
    settings = ["raw.source=synthetic", "plan.samples_per_class=2", "augment.epochs=3", "augment.affine.translate=[1,1]"]
    words = ["run", "augment", "--quiet", *(word for setting in settings for word in ("--set", setting))]
    subprocess.run([PROGRAM, *words], cwd=tmp_path, stdout=subprocess.DEVNULL, check=True)
    folder = tmp_path / "artifacts" / "augment"
    epochs = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert list(epochs) == ["train"] and epochs["train"].num_rows == 3 * 128
    assert epochs["train"]["epoch"][:] == [epoch for epoch in range(3) for _ in range(128)]
    # Digits are shifted by up to an image, so that of some nothing is left.
    boxes = np.array(epochs["train"]["boxes"][:])
    gone = (boxes == 0).all(axis=2)
    assert gone.any() and (boxes[~gone][:, 2:] > 0).all()
    card = DatasetCard.load(folder / "README.md")
    assert card.data.pretty_name == "DoubleSynthetic, augmented"
    assert "3 epochs of the 128 training images of DoubleSynthetic" in card.text
    assert "| `augment.affine` | `{\"translate\":[1.0,1.0]," in card.text


def test_datasets_streams_the_same_parameters(parameters):
    rows = datasets.load_dataset(str(EPOCH), split="train", streaming=True)
    for at, row in enumerate(rows.take(200)):
        assert {name: row[name] for name in NAMES} == {name: parameters[name][at] for name in NAMES}
    assert at == 199


def test_pandas_reads_the_parameters(parameters):
    frame = pd.read_parquet(shards(EPOCH)[0])
    assert list(frame.columns) == COLUMNS
    assert frame["angle"].dtype == np.float64
    assert frame["angle"].tolist() == parameters["angle"][: len(frame)]
    assert [list(pair) for pair in frame["translate"]] == parameters["translate"][: len(frame)]
    assert [list(box) for box in frame["erased"]] == parameters["erased"][: len(frame)]


def test_polars_reads_the_parameters_as_arrays(parameters):
    frame = pl.read_parquet(PATTERN)
    assert {name: frame.schema[name] for name in NAMES} == {
        "angle": pl.Float64,
        "translate": pl.Array(pl.Int64, 2),
        "scale": pl.Float64,
        "shear": pl.Array(pl.Float64, 2),
        "erased": pl.Array(pl.Int64, 4),
    }
    for name in NAMES:
        assert frame[name].to_list() == parameters[name], name


def test_duckdb_reads_the_parameters(parameters):
    rows = duckdb.sql(
        f"select {', '.join(NAMES)} from read_parquet({SQL_PATTERN}, filename = true, file_row_number = true) "
        "order by filename, file_row_number"
    ).fetchall()
    as_list = lambda value: list(value) if isinstance(value, (tuple, list)) else value
    for at, name in enumerate(NAMES):
        assert [as_list(row[at]) for row in rows] == parameters[name], name
