"""The default dataset, read by the programs that people read it with.

Holds one test per promise of the dataset card, each asked of a real reader: Hugging Face datasets, PyArrow, pandas,
Polars, DuckDB and PyTorch. What the images must look like is computed here out of the decoded pixels, never out of
another column that the same program wrote. Writes nothing beside the dataset; every cache lies in pytest's own folder.

    MULTIDIGIT_DATASET        the dataset's folder, default artifacts/dataset; the plan is looked for beside it
    MULTIDIGIT_REQUIRE_MNIST  set and not empty: glyphs that are not MNIST's are a failure, not a reason to skip

The dataset is that of the default pipeline.yaml: DoubleMNIST, 100 classes of 1000 images, split by class.
"""

import base64
import csv
import hashlib
import io
import itertools
import json
import os
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
import yaml
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DATASET = Path(os.environ.get("MULTIDIGIT_DATASET") or ROOT / "artifacts" / "dataset").resolve()
PLAN = DATASET.parent / "plan" / "plan.parquet"
GOLDEN = ROOT / "tests" / "golden" / "double_seed123_n1000.csv"

COUNTS = {"train": 64_000, "val": 16_000, "test": 20_000}
CLASSES = [f"{label:02}" for label in range(100)]
DIGITS = 2
SIDE = 64

INT64 = pa.int64()
COLUMNS = [
    ("image", pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])),
    ("label", INT64),
    ("digits", pa.list_(INT64, DIGITS)),
    ("index", INT64),
    ("source_index", pa.list_(INT64, DIGITS)),
    ("boxes", pa.list_(pa.list_(INT64, 4), DIGITS)),
]


def sql_text(path):
    """A path or pattern as an SQL string: quotes in a folder's name must not end it."""
    return "'" + str(path).replace("'", "''") + "'"


def shards(split):
    found = sorted((DATASET / "data").glob(f"{split}-*-of-*.parquet"))
    assert found, f"no {split} shard in {DATASET / 'data'}: run `make dataset` first"
    return found


def every_shard():
    return [path for split in COUNTS for path in shards(split)]


@pytest.fixture(scope="session")
def card():
    text = (DATASET / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\n"), "the card does not begin with a YAML header"
    header, body = text[4:].split("\n---\n", 1)
    return yaml.safe_load(header), body


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("datasets-cache"))


@pytest.fixture(scope="session")
def folder(cache):
    """load_dataset on the folder: the card's header decides what the columns are."""
    return datasets.load_dataset(str(DATASET), cache_dir=cache)


@pytest.fixture(scope="session")
def single(cache):
    """load_dataset on one file: only the file's own metadata can tell what the columns are."""
    return datasets.load_dataset("parquet", data_files=str(shards("val")[0]), split="train", cache_dir=cache)


@pytest.fixture(scope="session")
def tables():
    return {split: pa.concat_tables([pq.read_table(path) for path in shards(split)]) for split in COUNTS}


@pytest.fixture(scope="session")
def pixels(tables):
    """Every image of a split, decoded by Pillow: uint8 of shape (rows, height, width), in the shards' order."""

    def decode(table):
        images = np.empty((table.num_rows, SIDE, SIDE), np.uint8)
        for row, data in enumerate(table["image"].combine_chunks().field("bytes")):
            with Image.open(io.BytesIO(data.as_py())) as image:
                assert (image.format, image.mode, image.size) == ("PNG", "L", (SIDE, SIDE))
                images[row] = np.asarray(image)
        return images

    return {split: decode(table) for split, table in tables.items()}


def column(table, name):
    """An integer column as an array: (rows,), (rows, digits) or (rows, digits, 4)."""
    array = table[name].combine_chunks()
    assert array.null_count == 0, f"{name} has nulls"
    shape = [len(array)]
    while pa.types.is_fixed_size_list(array.type):
        shape.append(array.type.list_size)
        array = array.flatten()
    return array.to_numpy(zero_copy_only=False).reshape(shape)


def ink(images):
    """Per image and half, the tight box of all that is not black: x, y, width, height, shape (rows, DIGITS, 4)."""
    boxes = np.empty((len(images), DIGITS, 4), np.int64)
    half = SIDE // DIGITS
    for position in range(DIGITS):
        cell = images[:, :, position * half : (position + 1) * half] > 0
        for axis, start, extent, offset in ((1, 0, 2, position * half), (2, 1, 3, 0)):
            line = cell.any(axis=axis)
            assert line.any(axis=1).all(), f"an image has no ink in half {position}"
            first = line.argmax(axis=1)
            last = line.shape[1] - 1 - line[:, ::-1].argmax(axis=1)
            boxes[:, position, start] = first + offset
            boxes[:, position, extent] = last - first + 1
    return boxes


def assert_features(features):
    assert list(features) == [name for name, _ in COLUMNS]
    assert isinstance(features["image"], datasets.Image)
    assert features["image"].mode == "L"
    assert isinstance(features["label"], datasets.ClassLabel)
    assert features["label"].names == CLASSES
    assert features["digits"].length == DIGITS
    assert isinstance(features["digits"].feature, datasets.ClassLabel)
    assert features["digits"].feature.names == [str(digit) for digit in range(10)]
    assert features["index"] == datasets.Value("int64")
    assert (features["source_index"].length, features["source_index"].feature) == (DIGITS, datasets.Value("int64"))
    assert features["boxes"].length == DIGITS
    assert (features["boxes"].feature.length, features["boxes"].feature.feature) == (4, datasets.Value("int64"))


def assert_row(row, table, images, at):
    """One row as datasets hands it out against the same row as PyArrow and Pillow read it."""
    image = row["image"]
    assert isinstance(image, Image.Image)
    assert (image.mode, image.size) == ("L", (SIDE, SIDE))
    assert np.array_equal(np.asarray(image), images[at])
    assert row["label"] == row["digits"][0] * 10 + row["digits"][1]
    for name, _ in COLUMNS[1:]:
        assert row[name] == table[name][at].as_py(), name


# ---- Hugging Face datasets


def test_the_folder_loads_with_the_splits_and_the_decoded_types_of_the_card(folder):
    assert {name: split.num_rows for name, split in folder.items()} == COUNTS
    for split in folder.values():
        assert_features(split.features)


def test_one_file_loads_with_the_same_types_out_of_its_own_metadata(single):
    assert single.num_rows == pq.ParquetFile(shards("val")[0]).metadata.num_rows
    assert_features(single.features)


@pytest.mark.parametrize("split", COUNTS)
def test_rows_of_the_folder_are_decoded_images_with_their_labels(folder, tables, pixels, split):
    for at in itertools.chain(range(100), range(100, COUNTS[split], 499)):
        assert_row(folder[split][at], tables[split], pixels[split], at)


def test_rows_of_one_file_are_decoded_images_with_their_labels(single, tables, pixels):
    for at in range(0, single.num_rows, 97):
        assert_row(single[at], tables["val"], pixels["val"], at)


def test_streaming_gives_the_same_rows_in_the_same_order(tables, pixels, cache):
    streamed = datasets.load_dataset(str(DATASET), streaming=True, cache_dir=cache)
    assert set(streamed) == set(COUNTS)
    for split, rows in streamed.items():
        assert_features(rows.features)
        for at, row in enumerate(rows.take(300)):
            assert_row(row, tables[split], pixels[split], at)
        assert at == 299


def test_streaming_one_file_gives_the_same_rows(tables, pixels, cache):
    file = str(shards("test")[0])
    rows = datasets.load_dataset("parquet", data_files=file, split="train", streaming=True, cache_dir=cache)
    for at, row in enumerate(rows.take(300)):
        assert_row(row, tables["test"], pixels["test"], at)
    assert at == 299


def test_whoever_streams_sees_many_classes_at_once(tables):
    for split, classes in (("train", 64), ("val", 16), ("test", 20)):
        seen = set(tables[split]["label"].slice(0, 1000).to_pylist())
        # 1000 draws miss one of 64 classes by chance with probability below 1e-5: all must be there.
        assert len(seen) == classes


def test_a_torch_loader_gets_batches_of_tensors(folder, tables, pixels):
    split = folder["val"].select(range(256)).with_format("torch")
    loader = torch.utils.data.DataLoader(split, batch_size=64)
    at = 0
    for batch in loader:
        assert batch["image"].dtype == torch.uint8
        assert tuple(batch["image"].shape) == (64, 1, SIDE, SIDE)
        assert np.array_equal(batch["image"][:, 0].numpy(), pixels["val"][at : at + 64])
        assert tuple(batch["boxes"].shape) == (64, DIGITS, 4)
        assert torch.equal(batch["label"], batch["digits"][:, 0] * 10 + batch["digits"][:, 1])
        assert batch["label"].tolist() == tables["val"]["label"].slice(at, 64).to_pylist()
        at += 64
    assert at == 256


# ---- the card


def test_the_card_and_the_shards_agree_on_the_counts(card):
    info = card[0]["dataset_info"]
    said = {split["name"]: split["num_examples"] for split in info["splits"]}
    held = {split: sum(pq.ParquetFile(path).metadata.num_rows for path in shards(split)) for split in COUNTS}
    assert said == held == COUNTS


def test_the_card_names_every_split_and_its_files(card):
    default = next(config for config in card[0]["configs"] if config["config_name"] == "default")
    for entry in default["data_files"]:
        assert sorted(DATASET.glob(entry["path"])) == shards(entry["split"])
    assert [entry["split"] for entry in default["data_files"]] == list(COUNTS)


def test_hugging_face_reads_the_header_of_the_card(card):
    data = DatasetCard.load(DATASET / "README.md", ignore_metadata_errors=False).data
    title = card[1].split("\n", 2)[1].removeprefix("# ")
    assert (data.pretty_name, data.size_categories) == (title, ["100K<n<1M"])
    assert data.task_categories == ["image-classification"]
    assert data.license in ("cc-by-sa-3.0", "cc0-1.0")
    info = DatasetInfosDict.from_dataset_card_data(data)["default"]
    assert {name: split.num_examples for name, split in info.splits.items()} == COUNTS
    assert list(info.features) == [name for name, _ in COLUMNS]


def test_the_shards_are_numbered_without_gaps():
    for split in COUNTS:
        found = [path.name for path in shards(split)]
        assert found == [f"{split}-{at:05}-of-{len(found):05}.parquet" for at in range(len(found))]


# ---- PyArrow: the files themselves


def test_the_schema_is_the_documented_one_and_every_field_is_nullable():
    for path in every_shard():
        schema = pq.read_schema(path)
        assert [(field.name, field.type) for field in schema] == COLUMNS, path.name
        pending = list(schema)
        while pending:
            field = pending.pop()
            assert field.nullable, f"{path.name}: {field.name}"
            if pa.types.is_struct(field.type):
                pending += [field.type.field(at) for at in range(field.type.num_fields)]
            elif pa.types.is_fixed_size_list(field.type):
                pending.append(field.type.value_field)


def test_the_huggingface_key_stands_in_the_file_and_in_the_arrow_schema():
    for path in every_shard():
        pairs = pq.ParquetFile(path).metadata.metadata
        file_level = json.loads(pairs[b"huggingface"])
        arrow = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(pairs[b"ARROW:schema"])))
        assert json.loads(arrow.metadata[b"huggingface"]) == file_level
        assert list(file_level["info"]["features"]) == [name for name, _ in COLUMNS]


def test_row_groups_hold_between_256_and_2048_rows():
    for path in every_shard():
        metadata = pq.ParquetFile(path).metadata
        rows = [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)]
        assert max(rows) <= 2048, path.name
        # The last group of a file takes what is left.
        assert min(rows[:-1], default=256) >= 256, path.name


def test_the_files_name_their_writer():
    for path in every_shard():
        assert pq.ParquetFile(path).metadata.created_by.startswith("multidigit"), path.name


def test_all_shards_stay_within_50_megabytes():
    assert sum(path.stat().st_size for path in every_shard()) <= 50_000_000


@pytest.mark.parametrize("split", COUNTS)
def test_labels_digits_and_paths_tell_the_same(tables, split):
    table = tables[split]
    labels, digits, index = column(table, "label"), column(table, "digits"), column(table, "index")
    assert ((digits >= 0) & (digits <= 9)).all()
    assert np.array_equal(labels, digits[:, 0] * 10 + digits[:, 1])
    paths = table["image"].combine_chunks().field("path").to_pylist()
    assert paths == [f"{at}_{label:02}.png" for at, label in zip(index, labels)]


@pytest.mark.parametrize("split", COUNTS)
def test_every_class_of_a_split_has_the_indexes_0_to_999_once(tables, split):
    keys = column(tables[split], "label") * 1000 + column(tables[split], "index")
    classes = np.unique(column(tables[split], "label"))
    assert np.array_equal(np.sort(keys), (classes[:, None] * 1000 + np.arange(1000)).ravel())


@pytest.mark.parametrize("split", COUNTS)
def test_boxes_are_the_tight_boxes_of_the_ink(tables, pixels, split):
    assert np.array_equal(column(tables[split], "boxes"), ink(pixels[split]))


def test_the_pixels_are_the_reference_generators(card, tables, pixels):
    if "not MNIST" in " ".join(card[1].split()):
        assert not os.environ.get("MULTIDIGIT_REQUIRE_MNIST"), "the card says that the glyphs are not MNIST's"
        pytest.skip("the card says that the glyphs are not MNIST's: the reference digests are those of MNIST")
    with GOLDEN.open(newline="") as file:
        want = {(row["split"], row["class"]): (int(row["count"]), row["sha256"]) for row in csv.DictReader(file)}
    got = {}
    for split, table in tables.items():
        labels, index = column(table, "label"), column(table, "index")
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            rows = rows[np.argsort(index[rows])]
            digest = hashlib.sha256(pixels[split][rows].tobytes()).hexdigest()
            got[split, CLASSES[label]] = (len(rows), digest)
    assert len(want) == 100
    assert got == want


# ---- pandas


def test_pandas_reads_the_shards(tables):
    file = shards("val")[0]
    frame = pd.read_parquet(file)
    assert list(frame.columns) == [name for name, _ in COLUMNS]
    assert frame["label"].dtype == np.int64
    assert frame["label"].tolist() == tables["val"]["label"].slice(0, len(frame)).to_pylist()
    assert (np.stack(frame["digits"]) @ [10, 1] == frame["label"]).all()
    first = frame.iloc[0]
    assert first["image"]["path"] == f"{first['index']}_{first['label']:02}.png"
    with Image.open(io.BytesIO(first["image"]["bytes"])) as image:
        assert (image.mode, image.size) == ("L", (SIDE, SIDE))
    assert [list(box) for box in first["boxes"]] == tables["val"]["boxes"][0].as_py()


# ---- Polars


def test_polars_reads_fixed_lists_as_arrays():
    schema = pl.read_parquet_schema(shards("val")[0])
    assert schema == {
        "image": pl.Struct({"bytes": pl.Binary, "path": pl.String}),
        "label": pl.Int64,
        "digits": pl.Array(pl.Int64, DIGITS),
        "index": pl.Int64,
        "source_index": pl.Array(pl.Int64, DIGITS),
        "boxes": pl.Array(pl.Int64, (DIGITS, 4)),
    }


def test_polars_groups_the_whole_folder(tables):
    frame = (
        pl.scan_parquet(DATASET / "data" / "*.parquet")
        .group_by("label")
        .agg(
            pl.len().alias("rows"),
            pl.col("digits").arr.get(0).unique().alias("tens"),
            pl.col("boxes").arr.get(1).arr.get(0).min().alias("left"),
        )
        .sort("label")
        .collect()
    )
    assert frame["label"].to_list() == list(range(100))
    assert frame["rows"].to_list() == [1000] * 100
    assert frame["tens"].to_list() == [[label // 10] for label in range(100)]
    # The right digit's ink lies in the right half.
    assert frame["left"].min() >= SIDE // DIGITS
    everything = pl.read_parquet(shards("val"))
    assert everything["boxes"].to_list() == tables["val"]["boxes"].to_pylist()


# ---- DuckDB

GLOB = sql_text(DATASET / "data" / "*.parquet")
ROWS = f"""(select split_part(parse_filename(filename), '-', 1) as split, * exclude (filename)
            from read_parquet({GLOB}, filename = true))"""


def test_duckdb_counts_every_class_once_per_index_and_in_one_split_only():
    counted = duckdb.sql(f"select label, split, count(*) from {ROWS} group by all order by label").fetchall()
    assert [(label, rows) for label, _, rows in counted] == [(label, 1000) for label in range(100)]
    splits = duckdb.sql(f"select split, count(distinct label), count(*) from {ROWS} group by all").fetchall()
    assert {split: (classes, rows) for split, classes, rows in splits} == {
        "train": (64, 64_000),
        "val": (16, 16_000),
        "test": (20, 20_000),
    }


def test_duckdb_takes_the_boxes_apart(tables):
    areas = duckdb.sql(
        f"""select label, index, box[1], box[2], box[3], box[4]
            from (select label, index, unnest(boxes) as box from {ROWS} where split = 'val')
            order by all"""
    ).fetchnumpy()
    boxes, labels, index = (column(tables["val"], name) for name in ("boxes", "label", "index"))
    want = np.column_stack([labels.repeat(DIGITS), index.repeat(DIGITS), boxes.reshape(-1, 4)])
    want = want[np.lexsort(want.T[::-1])]
    assert np.array_equal(np.column_stack(list(areas.values())), want)


def test_duckdb_sees_the_huggingface_key():
    keys = duckdb.sql(f"select distinct decode(key) from parquet_kv_metadata({GLOB})").fetchall()
    assert ("huggingface",) in keys


# ---- the plan: where every glyph came from


def test_the_plan_has_the_documented_columns():
    schema = pq.read_schema(PLAN)
    glyphwise = pa.list_(INT64, DIGITS)
    assert [(field.name, field.type) for field in schema] == [
        ("split", pa.string()),
        ("label", INT64),
        ("digits", glyphwise),
        ("index", INT64),
        ("source_index", glyphwise),
        ("y", glyphwise),
        ("x", glyphwise),
    ]


def test_the_dataset_has_the_glyphs_that_the_plan_says():
    joined = duckdb.sql(
        f"""select count(*) as pairs,
                   count(*) filter (d.source_index = p.source_index) as same_glyphs,
                   count(*) filter (d.digits = p.digits) as same_digits,
                   count(*) filter (d.split = p.split) as same_split
            from {ROWS} d full join {sql_text(PLAN)} p using (label, index)"""
    ).fetchall()
    assert joined == [(100_000,) * 4]


def test_every_box_lies_in_its_glyphs_cell_of_the_plan():
    cells = SIDE // DIGITS
    outside = duckdb.sql(
        f"""select count(*) from (
                select box[1] as ink_x, box[2] as ink_y, box[3] as width, box[4] as height,
                       (position - 1) * {cells} + x[position] as cell_x, y[position] as cell_y
                from (select label, index, unnest(boxes) as box, generate_subscripts(boxes, 1) as position from {ROWS})
                join {sql_text(PLAN)} using (label, index))
            where not (ink_x >= cell_x and ink_x + width <= cell_x + 28
                       and ink_y >= cell_y and ink_y + height <= cell_y + 28)"""
    ).fetchall()
    assert outside == [(0,)]
