"""Trained networks as ONNX, on the whole test split of the default data set: onnxruntime gives the answers of `evaluate`.

Every run beside the data set is asked that is evaluated with the weights that it exports. `make quickstart` trains one, with the
recipe fast; whoever trains others has them tried, too. The logits of all five networks are compared with PyTorch's in
test_train.py, on a small data set.

    MULTIDIGIT_DATASET        the data set's folder, default artifacts/dataset; the runs are looked for beside it, in train/
    MULTIDIGIT                the program, default target/release/multidigit
    MULTIDIGIT_REQUIRE_MNIST  set and not empty: no run is a failure, not a reason to skip
"""

import io
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.special import softmax

ROOT = Path(__file__).resolve().parents[2]
DATASET = Path(os.environ.get("MULTIDIGIT_DATASET") or ROOT / "artifacts" / "dataset").resolve()
PROGRAM = Path(os.environ.get("MULTIDIGIT") or ROOT / "target" / "release" / "multidigit").resolve()
EVALUATED = DATASET.parent / "evaluate"
RUNS = sorted(path.parent.name for path in EVALUATED.glob("*/metrics.json"))
BATCH = 256
# What f32 costs: a probability of onnxruntime is as far from the program's.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def test_images():
    shards = sorted((DATASET / "data").glob("test-*.parquet"))
    rows = [row for path in shards for row in pq.read_table(path, columns=["image"])["image"].to_pylist()]
    return np.stack([np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in rows])[:, None]


def test_there_is_a_run():
    if not RUNS and not os.environ.get("MULTIDIGIT_REQUIRE_MNIST"):
        pytest.skip("no evaluated run beside the data set: `make quickstart` trains one")
    assert RUNS, f"no evaluated run in {EVALUATED}: run `make quickstart` first"


@pytest.mark.parametrize("name", RUNS)
def test_onnxruntime_answers_as_evaluate_does_on_the_whole_test_split(name, test_images, tmp_path):
    weights = json.loads((EVALUATED / name / "metrics.json").read_text())["weights"]
    path = tmp_path / "network.onnx"
    run = DATASET.parent / "train" / name / "weights" / f"{weights}.safetensors"
    subprocess.run([PROGRAM, "export", "onnx", "--run", run, "--out", path, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    onnx.checker.check_model(path, full_check=True)
    network = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    batches = np.split(test_images, range(BATCH, len(test_images), BATCH))
    logits = np.concatenate([np.stack(network.run(None, {"images": batch}), axis=1) for batch in batches])
    found = softmax(logits.astype(np.float64), axis=-1)

    told = pq.read_table(EVALUATED / name / "predictions.parquet")
    # not by PyArrow's filter with an expression, which loses values of nested lists beyond its first 32,768 rows
    is_test = np.array(told["split"].to_pylist()) == "test"
    probabilities, predicted = (np.array(told[name].to_pylist())[is_test] for name in ("probabilities", "predicted"))
    assert found.shape == probabilities.shape == (len(test_images), predicted.shape[1], 10)
    np.testing.assert_allclose(found, probabilities, rtol=0, atol=TOLERANCE)
    # another digit is best only where two are equal as far as f32 tells
    second, first = np.sort(probabilities)[..., -2], np.sort(probabilities)[..., -1]
    other = found.argmax(-1) != predicted
    assert (first - second <= 2 * TOLERANCE)[other].all()
