"""metrics.json against scikit-learn and SciPy, on the predictions.parquet beside it.

A network is trained for a moment on synthetic glyphs in a folder of pytest's own, so the numbers are poor and every case
occurs: wrong digits, classes never found, full and empty bins. Then one network with one head is evaluated on files that
Hugging Face datasets, PyArrow and Polars wrote. What is expected is computed here from the table's digits and
probabilities.

    MULTIDIGIT    the program, default target/release/multidigit
"""

import io
import json
import os
import subprocess
from collections import Counter
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

import datasets
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss, recall_score

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("MULTIDIGIT") or ROOT / "target" / "release" / "multidigit").resolve()
BINS = 15
EXACT = 1e-12


def call(folder, *arguments, code=0):
    sets = [word for key in SETTINGS[folder.name] for word in ("--set", key)]
    environment = {key: value for key, value in os.environ.items() if key != "MULTIDIGIT_MIRRORS"}
    done = subprocess.run(
        [PROGRAM, *arguments, *sets], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == code, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout if code == 0 else done.stderr


SETTINGS = {
    "two": ["raw.source=synthetic", "plan.samples_per_class=20", "train.model=fcn", "train.epochs=1",
            "train.batch_size=32", "train.learning_rate=1e-3", "train.run=short", "train.augment=false"],
    "one": ["raw.source=synthetic", "plan.samples_per_class=40", "plan.digits=1", "plan.image_size=[28,28]",
            "plan.split.by=sample", "train.model=resnet", "train.epochs=1", "train.batch_size=32",
            "train.run=short", "train.augment=false"],
}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A network of two heads, trained and evaluated."""
    folder = tmp_path_factory.mktemp("metrics") / "two"
    folder.mkdir()
    call(folder, "run", "evaluate")
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A network of one head on images of MNIST's own size."""
    folder = tmp_path_factory.mktemp("metrics") / "one"
    folder.mkdir()
    call(folder, "run", "evaluate")
    return folder


def results(folder, name="short"):
    home = folder / "artifacts" / "evaluate" / name
    metrics = json.loads((home / "metrics.json").read_text())
    table = pq.read_table(home / "predictions.parquet")
    return home, metrics, table


def rows_of(table, split):
    return table.filter(pa.compute.equal(table["split"], split))


def column(table, name):
    array, shape = table[name].combine_chunks(), [table.num_rows]
    while pa.types.is_fixed_size_list(array.type):
        shape.append(array.type.list_size)
        array = array.flatten()
    return array.to_numpy(zero_copy_only=False).reshape(shape)


def check_interval(accuracy):
    interval = binomtest(accuracy["correct"], accuracy["samples"]).proportion_ci(0.95, method="wilson")
    assert accuracy["value"] == pytest.approx(accuracy["correct"] / accuracy["samples"], abs=EXACT)
    assert (accuracy["low"], accuracy["high"]) == pytest.approx((interval.low, interval.high), abs=EXACT)


def check_calibration(calibration, confidence, right):
    assert len(calibration["bins"]) == BINS
    edges = np.linspace(0, 1, BINS + 1)
    counts = np.bincount(np.searchsorted(edges[1:-1], confidence), minlength=BINS)
    assert [row["samples"] for row in calibration["bins"]] == counts.tolist()
    assert [row["above"] for row in calibration["bins"]] == pytest.approx(edges[:-1].tolist())
    share, mean = calibration_curve(right, confidence, n_bins=BINS, strategy="uniform")
    filled = [row for row in calibration["bins"] if row["samples"]]
    assert [row["accuracy"] for row in filled] == pytest.approx(share.tolist(), abs=EXACT)
    assert [row["confidence"] for row in filled] == pytest.approx(mean.tolist(), abs=EXACT)
    error = np.sum(counts[counts > 0] / counts.sum() * np.abs(share - mean))
    assert calibration["expected_error"] == pytest.approx(error, abs=EXACT)


def check_split(home, metrics, table):
    """Every number of one split, out of digits and probabilities alone."""
    digits, found, odds = column(table, "digits"), column(table, "predicted"), column(table, "probabilities")
    n, positions = digits.shape
    assert metrics["samples"] == n
    assert np.array_equal(odds.argmax(axis=2), found)
    assert np.allclose(odds.sum(axis=2), 1, atol=1e-12)
    classes = ["".join(map(str, row)) for row in digits]
    answers = ["".join(map(str, row)) for row in found]
    right = (digits == found).all(axis=1)
    assert np.array_equal(column(table, "correct"), right)
    assert metrics["accuracy"]["value"] == pytest.approx(accuracy_score(classes, answers), abs=EXACT)
    check_interval(metrics["accuracy"])
    loss = sum(log_loss(digits[:, p], odds[:, p], labels=range(10)) for p in range(positions))
    assert metrics["loss"] == pytest.approx(loss, abs=1e-9)
    joint = odds.max(axis=2).prod(axis=1)
    assert column(table, "probability") == pytest.approx(joint, abs=EXACT)
    check_calibration(metrics["calibration"], joint, right)
    for p, position in enumerate(metrics["positions"]):
        truth, answer = digits[:, p], found[:, p]
        assert position["position"] == p + 1
        assert position["accuracy"]["value"] == pytest.approx(accuracy_score(truth, answer), abs=EXACT)
        check_interval(position["accuracy"])
        score = f1_score(truth, answer, average="macro", zero_division=0)
        assert position["macro_f1"] == pytest.approx(score, abs=EXACT)
        matrix = confusion_matrix(truth, answer, labels=range(10))
        assert position["confusion"] == matrix.tolist()
        written = np.loadtxt(home / f"confusion_{metrics['split']}_{p + 1}.csv", delimiter=",", skiprows=1, dtype=int)
        assert np.array_equal(written, np.column_stack([range(10), matrix]))
        check_calibration(position["calibration"], odds[:, p].max(axis=1), truth == answer)
    names = sorted(set(classes))
    assert [row["class"] for row in metrics["classes"]] == names
    recall = recall_score(classes, answers, labels=names, average=None, zero_division=0)
    assert [row["accuracy"]["value"] for row in metrics["classes"]] == pytest.approx(recall.tolist(), abs=EXACT)
    for row in metrics["classes"]:
        check_interval(row["accuracy"])
    wrong = Counter((truth, answer) for truth, answer in zip(classes, answers) if truth != answer)
    expected = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:50]
    assert [((row["class"], row["predicted"]), row["count"]) for row in metrics["confusions"]] == expected
    worst = sorted(np.flatnonzero(~right), key=lambda row: (-joint[row], row))[:24]
    assert [row["row"] for row in metrics["mistakes"]] == worst
    for row in metrics["mistakes"]:
        at = row["row"]
        assert (row["class"], row["predicted"]) == (classes[at], answers[at])
        assert row["index"] == column(table, "index")[at]
        of_class = np.prod([odds[at, p, digits[at, p]] for p in range(positions)])
        assert row["class_probability"] == pytest.approx(of_class, rel=1e-9)
        assert row["probability"] == pytest.approx(joint[at], abs=EXACT)


def test_every_number_is_scikit_learns(two):
    home, metrics, table = results(two)
    assert [split["split"] for split in metrics["splits"]] == ["val", "test"]
    for split in metrics["splits"]:
        rows = rows_of(table, split["split"])
        check_split(home, split, rows)
        shards = sorted((two / "artifacts/dataset/data").glob(f"{split['split']}-*.parquet"))
        data = pa.concat_tables([pq.read_table(path) for path in shards])
        for name in ("label", "index", "digits"):
            assert np.array_equal(column(rows, name), column(data, name))
    assert 0 < metrics["splits"][0]["accuracy"]["value"] < 1, "a case where nothing is to be told apart"


def test_the_splits_of_one_digit_are_measured_alike(one):
    home, metrics, table = results(one)
    for split in metrics["splits"]:
        check_split(home, split, rows_of(table, split["split"]))


def single_digits(folder):
    """The test split of one-digit images as (PNG bytes, label)."""
    table = pq.read_table(sorted((folder / "artifacts/dataset/data").glob("test-*.parquet"))[0])
    return [(row["image"]["bytes"], row["label"]) for row in table.select(["image", "label"]).to_pylist()]


def write_datasets(path, rows):
    """As Hugging Face publishes MNIST: an image and its label."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    images = [Image.open(io.BytesIO(png)) for png, _ in rows]
    data = datasets.Dataset.from_dict({"image": images, "label": [label for _, label in rows]}, features=features)
    data.to_parquet(path)


def write_pyarrow(path, rows):
    image = pa.array([{"bytes": png, "path": None} for png, _ in rows],
                     pa.struct([("bytes", pa.large_binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"label": pa.array([label for _, label in rows], pa.uint8()), "image": image}), path)


def write_polars(path, rows):
    image = [{"bytes": png, "path": ""} for png, _ in rows]
    frame = pl.DataFrame({"image": image, "label": [label for _, label in rows], "digits": [[n] for _, n in rows]})
    frame.write_parquet(path)


@pytest.mark.parametrize("write", [write_datasets, write_pyarrow, write_polars])
def test_files_that_others_wrote_give_the_same_numbers(one, tmp_path, write):
    path = tmp_path / "mnist" / "test-00000-of-00001.parquet"
    path.parent.mkdir()
    write(path, single_digits(one))
    call(one, "run", "evaluate", "--set", f"evaluate.data={path.parent}")
    # the digest of the files at the end of the name tells the writers' files apart
    found = [results(one, folder.name) for folder in (one / "artifacts" / "evaluate").glob("short@mnist-*")]
    [(home, metrics, table)] = [result for result in found if result[1]["data"] == [str(path.parent)]]
    assert [split["split"] for split in metrics["splits"]] == ["test"]
    check_split(home, metrics["splits"][0], table)
    _, own, answers = results(one)
    answers = rows_of(answers, "test")
    assert np.array_equal(column(table, "probabilities"), column(answers, "probabilities"))
    assert np.array_equal(column(table, "label"), column(answers, "label"))
    assert metrics["splits"][0]["accuracy"] == own["splits"][1]["accuracy"]
    assert metrics["data"] == [str(path.parent)]


def test_a_network_of_two_heads_refuses_images_of_one_digit(one, two, tmp_path):
    path = tmp_path / "test.parquet"
    write_datasets(path, single_digits(one))
    message = call(two, "run", "evaluate", "--set", f"evaluate.data={path}", code=1)
    assert "a network for 2 digits on 64x64 pixels; expected 2 digits on 28x28 pixels, as the test split has" in message


def test_a_prediction_is_what_evaluation_says_of_the_same_image(one, tmp_path):
    rows = single_digits(one)[:3]
    paths = [tmp_path / f"{n}.png" for n in range(len(rows))]
    for path, (png, _) in zip(paths, rows):
        path.write_bytes(png)
    answers = json.loads(call(one, "predict", "--json", *map(str, paths)))
    _, _, table = results(one)
    table = rows_of(table, "test")
    for row, answer in enumerate(answers):
        assert answer["image"] == str(paths[row])
        assert answer["digits"] == str(column(table, "predicted_label")[row])
        odds = answer["positions"][0]["probabilities"]
        # other batches, the same numbers but for their rounding
        assert odds == pytest.approx(column(table, "probabilities")[row, 0].tolist(), abs=1e-5)
        assert answer["probability"] == pytest.approx(max(odds), abs=EXACT)
    shown = call(one, "predict", *map(str, paths), "--run", "short")
    assert [line.split()[1] for line in shown.splitlines()[1:]] == [answer["digits"] for answer in answers]
