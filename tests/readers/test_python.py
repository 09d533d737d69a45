"""The Python package `multidigit` on what the program writes: data sets, runs, and the notebook docs/tour.ipynb.

Images are read here with PyArrow and Pillow, and logits are compared with the program's own `predictions.parquet`. Data sets and
networks are made of synthetic glyphs in pytest's own folder.

    MULTIDIGIT    the program, default target/release/multidigit
"""

import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

import datasets
import nbclient
import nbformat
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torchvision.transforms import v2

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python"))
import multidigit
from multidigit import models
from multidigit.torch import Split

PROGRAM = Path(os.environ.get("MULTIDIGIT") or ROOT / "target" / "release" / "multidigit").resolve()
COUNTS = {"train": 256, "val": 64, "test": 80}
WEIGHTS = ("best", "last", "ema")
DATA = ["raw.source=synthetic", "plan.samples_per_class=4", "dataset.rows_per_shard=100"]
# The normalisation is not the default one, so that a network must have it from its file.
TRAINING = ["augment.epochs=0", "train.epochs=2", "train.samples=64", "train.batch_size=32", "train.ema=0.9",
            "train.mean=0.2", "train.std=0.4"]
# The width is no multiple of the number of digits: slots begin at columns 0, 30 and 61.
WIDE = ["plan.digits=3", "plan.image_size=[50,92]", "plan.samples_per_class=1"]
# By the name of the run: the folder of artifacts and the settings.
RUNS = {name: ("artifacts", [f"train.model={name}"]) for name in models.NETWORKS} | {
    "narrow": ("artifacts", ["train.model=towers", "train.trunk.channels=16", "train.trunk.margin=0",
                             "train.trunk.pool=mean"]),
    "thin": ("artifacts", ["train.model=attention", "train.trunk.channels=16"]),
} | {f"wide-{name}": ("wide", [f"train.model={name}"]) for name in ("alexnet", "towers", "attention")}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


def call(home, *words, artifacts="artifacts", settings=()):
    sets = [word for setting in settings for word in ("--set", setting)]
    command = [PROGRAM, *words, "--quiet", "--artifacts", artifacts, *sets]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Everything that datasets keeps goes with the test: an old cache must not answer for a new data set."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def artifacts(home):
    call(home, "run", "dataset", settings=DATA)
    return home / "artifacts"


@pytest.fixture(scope="module")
def raw_pixels(home):
    """The same data set with the column `pixels`."""
    call(home, "run", "dataset", artifacts="pixels", settings=[*DATA, "dataset.pixels=true"])
    return home / "pixels"


def read(artifacts, split):
    """A split's pixels (images, height, width) and digits (images, digits), by PyArrow and Pillow."""
    shards = sorted((artifacts / "dataset" / "data").glob(f"{split}-*.parquet"))
    table = pa.concat_tables([pq.read_table(path, columns=["image", "digits"]) for path in shards])
    encoded = table["image"].combine_chunks().field("bytes").to_pylist()
    return np.stack([np.asarray(Image.open(io.BytesIO(png))) for png in encoded]), np.array(table["digits"].to_pylist())


# ---- load


@pytest.mark.parametrize("inside", ["", "dataset"])
def test_load_gives_every_split_with_decoded_columns(artifacts, inside):
    data = multidigit.load(artifacts / inside)
    assert isinstance(data, datasets.DatasetDict)
    assert {name: split.num_rows for name, split in data.items()} == COUNTS
    for split in data.values():
        assert list(split.features) == ["image", "label", "digits", "index", "source_index", "boxes"]
        assert split.features["label"].names == [f"{label:02}" for label in range(100)]
        assert split.features["image"] == datasets.Image(mode="L")


def test_load_reads_the_folder_artifacts_by_default(home, artifacts, monkeypatch):
    monkeypatch.chdir(home)
    assert multidigit.load()["val"].num_rows == COUNTS["val"]


def test_load_names_a_folder_without_a_data_set(home):
    with pytest.raises(FileNotFoundError) as error:
        multidigit.load(home / "nowhere")
    assert str(error.value) == (
        f"{home}/nowhere: no folder dataset/data or data in it; expected a folder of artifacts; `multidigit run dataset` "
        "makes the data set in artifacts/dataset"
    )


# ---- Split


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("inside", ["", "dataset"])
def test_split_gives_the_images_and_digits_of_datasets(artifacts, name, inside):
    expected = multidigit.load(artifacts)[name]
    found = Split(artifacts / inside, name)
    assert len(found) == COUNTS[name] and found.size == (64, 64)
    for (image, digits), row in zip(found, expected, strict=True):
        assert image.dtype == torch.uint8 and digits.dtype == torch.int64
        assert np.array_equal(image.numpy(), np.asarray(row["image"])[None])
        assert digits.tolist() == row["digits"]


@pytest.mark.parametrize("name", COUNTS)
def test_split_prefers_the_column_of_raw_pixels(artifacts, raw_pixels, name, tmp_path):
    # every PNG file is replaced by the first one, so that it cannot be where the pixels are from
    (tmp_path / "data").mkdir()
    for shard in (raw_pixels / "dataset" / "data").glob(f"{name}-*"):
        table = pq.read_table(shard)
        images = pa.array([table["image"][0].as_py()] * len(table), table.schema.field("image").type)
        pq.write_table(table.set_column(0, table.schema.field("image"), images), tmp_path / "data" / shard.name)
    found = Split(tmp_path, name)
    for (image, digits), (expected_image, expected_digits) in zip(found, Split(artifacts, name), strict=True):
        assert torch.equal(image, expected_image) and torch.equal(digits, expected_digits)


def test_split_and_load_read_augmented_images(home, artifacts):
    call(home, "run", "augment", settings=DATA)
    folder = artifacts / "augment" / "epoch-000"
    plain, augmented, loaded = Split(artifacts, "train"), Split(folder, "train"), multidigit.load(folder)["train"]
    assert len(plain) == len(augmented) == len(loaded)
    same = 0
    for (before, _), (after, digits), row in zip(plain, augmented, loaded, strict=True):
        assert np.array_equal(after[0].numpy(), np.asarray(row["image"])) and digits.tolist() == row["digits"]
        same += torch.equal(before, after)
    assert same < len(plain) / 10


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_split_works_in_a_loader_with_workers(artifacts, context):
    # three shards
    pixels, expected = read(artifacts, "train")
    loader = torch.utils.data.DataLoader(
        Split(artifacts, "train"), batch_size=48, num_workers=2, multiprocessing_context=context
    )
    batches = list(loader)
    assert [len(digits) for _, digits in batches] == [48] * 5 + [16]
    images, digits = (torch.cat(parts) for parts in zip(*batches))
    assert np.array_equal(images.numpy(), pixels[:, None])
    assert np.array_equal(digits.numpy(), expected)


def test_split_applies_the_transform_to_the_image(artifacts):
    pixels, _ = read(artifacts, "test")
    change = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.25])])
    images = torch.stack([image for image, _ in Split(artifacts, "test", change)])
    torch.testing.assert_close(images, (torch.from_numpy(pixels)[:, None].float() / 255 - 0.5) / 0.25)


def test_images_do_not_lie_in_read_only_memory(artifacts, raw_pixels):
    # in a process of its own, because PyTorch warns of it once
    for folder in (artifacts, raw_pixels):
        read_one = f"warnings.simplefilter('error'); Split({str(folder)!r}, 'val')[0]"
        done = python(f"import warnings; from multidigit.torch import Split; {read_one}")
        assert done.returncode == 0, done.stderr


def test_split_names_the_splits_that_there_are(artifacts):
    with pytest.raises(FileNotFoundError) as error:
        Split(artifacts, "vla")
    told = "no shards of a split vla; there are shards of test, train, val"
    assert str(error.value) == f"{artifacts}/dataset/data: {told}"


def test_split_refuses_a_set_of_shards_with_a_gap(artifacts, tmp_path):
    (tmp_path / "data").mkdir()
    shards = sorted((artifacts / "dataset" / "data").glob("train-*"))
    assert len(shards) == 3
    for shard in (shards[0], shards[2]):
        (tmp_path / "data" / shard.name).symlink_to(shard)
    with pytest.raises(FileNotFoundError) as error:
        Split(tmp_path, "train")
    told = "2 shards of train whose names do not form one set; expected train-00000-of-0000N.parquet, N files"
    assert str(error.value) == f"{tmp_path}/data: {told}"


def test_split_names_a_folder_without_a_data_set(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder dataset/data or data in it; expected a folder of artifacts"):
        Split(tmp_path, "train")


# ---- from_run


@dataclass
class Run:
    """A trained network: its folders, and the predictions with each of its files of weights."""

    artifacts: Path
    folder: Path
    predictions: dict


@pytest.fixture(scope="module", params=RUNS)
def run(request, home):
    folder, more = RUNS[request.param]
    data = [*DATA, *WIDE] if folder == "wide" else DATA
    predictions = {}
    for which in WEIGHTS:
        settings = [*data, *TRAINING, *more, f"train.run={request.param}", f"evaluate.weights={which}"]
        call(home, "run", "evaluate", artifacts=folder, settings=settings)
        predictions[which] = pq.read_table(home / folder / "evaluate" / request.param / "predictions.parquet")
    return Run(home / folder, home / folder / "train" / request.param, predictions)


def test_the_files_of_weights_of_a_run_are_not_the_same(run):
    last, average = (models.from_run(run.folder, which).state_dict() for which in ("last", "ema"))
    assert any((last[name] - average[name]).abs().max() > 1e-3 for name in last)


@pytest.mark.parametrize("which", WEIGHTS)
def test_from_run_gives_the_logits_of_the_program(run, which):
    network = models.from_run(run.folder, which)
    assert not any(module.training for module in network.modules())
    for split in ("val", "test"):
        images, digits = (torch.stack(column) for column in zip(*Split(run.artifacts, split)))
        with torch.inference_mode():
            logits = network(images)
        assert logits.shape == (*digits.shape, 10)
        rows = run.predictions[which].filter(pc.equal(run.predictions[which]["split"], split))
        assert torch.equal(torch.tensor(rows["digits"].to_pylist()), digits)
        told = torch.tensor(rows["probabilities"].to_pylist())
        # The logarithms of probabilities are the logits, but for a constant per head that says nothing.
        torch.testing.assert_close(told.log(), logits.log_softmax(-1), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def trained(home, artifacts):
    """The folder of a run of the network towers, without an average of the weights."""
    settings = [*DATA, *TRAINING, "train.model=towers", "train.ema=null", "train.run=plain"]
    call(home, "run", "train", settings=settings)
    return artifacts / "train" / "plain"


def some_images(artifacts):
    return torch.stack([Split(artifacts, "test")[at][0] for at in range(16)])


def test_images_may_come_without_a_channel(artifacts, trained):
    network, images = models.from_run(trained), some_images(artifacts)
    assert torch.equal(network(images), network(images[:, 0]))


def test_a_loaded_network_can_be_trained_further(artifacts, trained):
    network = models.from_run(trained).train()
    network(some_images(artifacts)).square().sum().backward()
    assert all(parameter.requires_grad and parameter.grad.any() for parameter in network.parameters())


def test_loading_draws_no_random_numbers(trained):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    models.from_run(trained)
    assert torch.equal(torch.rand(1), expected)


def test_a_loaded_network_computes_in_another_type(artifacts, trained):
    images, network = some_images(artifacts), models.from_run(trained)
    with torch.inference_mode():
        single, double = network(images), network.double()(images)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-4)


@pytest.fixture
def changed(trained, tmp_path):
    """A copy of that run whose best weights have other tensors or another description."""

    def change(tensors=lambda tensors: tensors, description=lambda description: description):
        source = trained / "weights" / "best.safetensors"
        with safe_open(source, "pt") as file:
            told = json.loads(file.metadata()["multidigit"])
        path = tmp_path / "weights" / "best.safetensors"
        path.parent.mkdir()
        save_file(tensors(load_file(source)), path, {"multidigit": json.dumps(description(told))})
        return tmp_path

    return change


def refusal(folder):
    with pytest.raises(ValueError) as error:
        models.from_run(folder)
    path = f"{folder}/weights/best.safetensors: "
    assert str(error.value).startswith(path)
    return str(error.value).removeprefix(path)


def test_weights_that_are_not_there_are_named_with_those_that_are(trained):
    with pytest.raises(FileNotFoundError) as error:
        models.from_run(trained, "ema")
    assert str(error.value) == f"{trained}/weights/ema.safetensors: no such file; the run has the weights best, last"


def test_a_folder_that_is_no_run_is_named(trained):
    with pytest.raises(FileNotFoundError) as error:
        models.from_run(trained.parent)
    path = f"{trained.parent}/weights/best.safetensors"
    assert str(error.value) == f"{path}: no such file; expected the folder of a run in artifacts/train"


def test_a_copy_of_the_weights_is_loaded(changed, trained):
    tensors, original = models.from_run(changed()).state_dict(), models.from_run(trained).state_dict()
    assert all(torch.equal(tensors[name], value) for name, value in original.items())


def test_a_file_that_is_no_safetensors_file_is_refused(tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "best.safetensors").write_text("no weights")
    assert refusal(tmp_path).startswith("not a readable safetensors file (")


def test_weights_of_another_program_are_refused(tmp_path):
    (tmp_path / "weights").mkdir()
    save_file({"weight": torch.zeros(1)}, tmp_path / "weights" / "best.safetensors")
    expected = "no `multidigit` in its metadata; expected weights that `multidigit run train` wrote"
    assert refusal(tmp_path) == expected


def test_a_description_of_an_unknown_network_is_refused(changed):
    told = refusal(changed(description=lambda description: description | {"model": "vgg"}))
    assert told.endswith("(ValueError('no network is called vgg')); expected a description of a network")


def test_a_description_of_an_unknown_pool_is_refused(changed):
    told = refusal(changed(description=lambda told: told | {"trunk": told["trunk"] | {"pool": "sum"}}))
    assert "pool 'sum'; expected max or mean" in told


def test_a_description_without_a_mean_is_refused(changed):
    told = refusal(changed(description=lambda told: {key: value for key, value in told.items() if key != "mean"}))
    assert told.endswith("(KeyError('mean')); expected a description of a network")


def test_weights_of_another_network_than_described_are_refused(changed):
    told = refusal(changed(description=lambda description: description | {"model": "resnet"}))
    assert told == "`bn1.bias` is (32,); expected (64,) in weights of resnet"


def test_a_tensor_too_few_or_too_many_is_refused(changed, tmp_path):
    folder = changed(lambda tensors: {name: value for name, value in tensors.items() if name != "head.bias"})
    assert refusal(folder) == "`head.bias` is not there; expected (10,) in weights of towers"
    (folder / "weights" / "best.safetensors").unlink()
    (folder / "weights").rmdir()
    folder = changed(lambda tensors: tensors | {"heads.0.bias": torch.zeros(10)})
    assert refusal(folder) == "`heads.0.bias` is (10,); expected no such tensor in weights of towers"


def test_a_description_of_an_enormous_network_is_refused_before_it_is_made(changed):
    huge = {"model": "alexnet", "height": 100_000, "width": 100_000}
    assert refusal(changed(description=lambda description: description | huge)).endswith("in weights of alexnet")


def test_images_of_another_type_or_size_are_refused(trained):
    network = models.from_run(trained)
    with pytest.raises(TypeError) as error:
        network(torch.zeros(1, 1, 64, 64))
    assert str(error.value) == "images of torch.float32; expected torch.uint8 (`network` takes normalised floats)"
    for shape in ((1, 64, 65), (1, 3, 64, 64), (64, 64)):
        with pytest.raises(ValueError, match=r"expected \(N, 1, 64, 64\)"):
            network(torch.zeros(shape, dtype=torch.uint8))


# ---- the package


def python(text):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "python")}
    return subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, timeout=300)


# Hides a library, as if it were not installed.
ABSENT = """
import sys

class Absent:
    def find_spec(name, path, target=None):
        if name == {0!r}:
            raise ModuleNotFoundError("No module named {0}", name=name)

sys.meta_path.insert(0, Absent)
"""


@pytest.mark.parametrize(
    ("missing", "extra", "use"),
    [
        ("datasets", "datasets", "import multidigit; multidigit.load('.')"),
        ("torch", "torch", "import multidigit.torch"),
        ("pyarrow", "torch", "import multidigit.torch"),
        ("torch", "torch", "import multidigit.models"),
        ("safetensors", "torch", "import multidigit.models as models; models.from_run('.')"),
        ("ray", "ray", "import multidigit.ray"),
    ],
)
def test_a_missing_library_is_named_with_the_command_that_installs_it(missing, extra, use):
    done = python(ABSENT.format(missing) + use)
    expected = f'ImportError: {missing} is not installed; install it: pip install "multidigit[{extra}]"'
    assert done.returncode == 1 and done.stderr.rstrip().endswith(expected), done.stderr


def test_the_package_alone_imports_no_library():
    done = python("import multidigit, sys; print([name for name in ('torch', 'datasets', 'numpy') if name in sys.modules])")
    assert done.stdout == "[]\n", done.stderr


def test_the_package_passes_strict_type_checks(tmp_path):
    command = [sys.executable, "-m", "mypy", "--cache-dir", tmp_path, "python/multidigit"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- the notebook

TOUR = ROOT / "docs" / "tour.ipynb"


def test_the_tour_is_committed_without_outputs():
    cells = nbformat.read(TOUR, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert code and all(cell.outputs == [] and cell.execution_count is None for cell in code)


def test_the_tour_runs_from_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTIDIGIT", str(PROGRAM))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "python"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    tour = nbformat.read(TOUR, as_version=4)
    nbclient.NotebookClient(tour, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in tour.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 3
    text = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    metrics = json.loads((tmp_path / "tour" / "evaluate" / "tour" / "metrics.json").read_text(encoding="utf-8"))
    test = next(split["accuracy"] for split in metrics["splits"] if split["split"] == "test")
    assert f"{test['correct']} of {test['samples']} images" in text
