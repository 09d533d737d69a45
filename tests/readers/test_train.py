"""Runs that the program trained, read by the programs that people read them with: PyTorch, first of all.

Each network is trained here for two short epochs on synthetic glyphs, in pytest's own folder. Its weights are then
loaded into the PyTorch modules of python/multidigit/models.py, which compute in f64 what the program computed in f32.

    MULTIDIGIT    the program, default target/release/multidigit
"""

import io
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.plugins.hparams.api_pb2 import Status

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python"))
from multidigit import models

PROGRAM = Path(os.environ.get("MULTIDIGIT") or ROOT / "target" / "release" / "multidigit").resolve()
WEIGHTS = ("best", "last", "ema")
EPOCHS = 2
STEPS = 2  # of an epoch
RATE = 5e-4
MEAN, STD = 0.1307, 0.3081
SETTINGS = ["raw.source=synthetic", "plan.samples_per_class=4", "augment.epochs=0", f"train.epochs={EPOCHS}",
            "train.samples=64", "train.batch_size=32", "train.ema=0.9"]
# By the name of the run: the network, the arguments of its PyTorch module, and the settings that they stand for.
RUNS = {name: (name, {}, []) for name in models.NETWORKS} | {
    "narrow": ("towers", {"channels": 16, "margin": 0, "pool": "mean"},
               ["train.trunk.channels=16", "train.trunk.margin=0", "train.trunk.pool=mean"]),
    "seeking": ("attention", {"channels": 16}, ["train.trunk.channels=16"]),
}
# An answer is clear where its logit and the next best are this far apart: ten times what f32 costs here.
CLEAR = 1e-5


def multidigit(home, *words):
    done = subprocess.run([PROGRAM, *words, "--quiet"], cwd=home, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def images(home):
    """The data set's val and test splits, by name: grey pixels (images, 1, 64, 64) and digits (images, 2)."""
    multidigit(home, "run", "dataset", *(word for setting in SETTINGS for word in ("--set", setting)))

    def read(split):
        shards = sorted((home / "artifacts" / "dataset" / "data").glob(f"{split}-*.parquet"))
        table = pa.concat_tables([pq.read_table(path, columns=["image", "digits"]) for path in shards])
        encoded = table["image"].combine_chunks().field("bytes").to_pylist()
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(png))) for png in encoded])
        return torch.from_numpy(pixels)[:, None], torch.tensor(table["digits"].to_pylist())

    return {split: read(split) for split in ("val", "test")}


@dataclass
class Run:
    """A trained network: its folder, and what `evaluate` said with each of its files of weights."""

    model: str
    arguments: dict
    settings: list
    folder: Path
    metrics: dict
    predictions: dict

    def weights(self, which):
        return self.folder / "weights" / f"{which}.safetensors"

    def module(self, which):
        """PyTorch's own, in f64, with this run's weights."""
        module = models.NETWORKS[self.model](**self.arguments)
        with safe_open(self.weights(which), "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}
        # PyTorch counts a batch norm's batches, for a mode that the networks do not use.
        counts = {name: value for name, value in module.state_dict().items() if name.endswith(".num_batches_tracked")}
        assert not counts.keys() & state.keys()
        module.load_state_dict(state | counts, strict=True)
        return module.double().eval()


@pytest.fixture(scope="module", params=RUNS)
def run(request, home, images):
    model, arguments, more = RUNS[request.param]
    metrics, predictions = {}, {}
    settings = [*SETTINGS, f"train.model={model}", *more]
    for which in WEIGHTS:
        chosen = [*settings, f"train.run={request.param}", f"evaluate.weights={which}"]
        multidigit(home, "run", "evaluate", *(word for setting in chosen for word in ("--set", setting)))
        folder = home / "artifacts" / "evaluate" / request.param
        metrics[which] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        predictions[which] = pq.read_table(folder / "predictions.parquet")
    return Run(model, arguments, settings, home / "artifacts" / "train" / folder.name, metrics, predictions)


@pytest.fixture(scope="module", params=WEIGHTS)
def answers(request, run, images):
    """PyTorch's logits of one file of weights: its name, and (heads, images, 10) for each split."""
    module = run.module(request.param)
    with torch.inference_mode():
        normalised = {split: (pixels.double() / 255 - MEAN) / STD for split, (pixels, _) in images.items()}
        return request.param, {split: torch.stack(module(values)) for split, values in normalised.items()}


def loss(logits, digits):
    return sum(F.cross_entropy(head, target) for head, target in zip(logits, digits.T)).item()


def table_of(run):
    return pd.read_csv(run.folder / "metrics.csv")


# ---- weights


@pytest.mark.parametrize("which", WEIGHTS)
def test_weights_load_into_pytorchs_module_by_name_and_shape(run, which):
    module = run.module(which)
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())
    with safe_open(run.weights(which), "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F32"}
        description = json.loads(file.metadata()["multidigit"])
    told = {key: description[key] for key in ("model", "digits", "height", "width", "mean", "std")}
    assert told == {"model": run.model, "digits": 2, "height": 64, "width": 64, "mean": MEAN, "std": STD}
    assert description["epoch"] == run.metrics[which]["epoch"]
    assert run.metrics[which]["parameters"] == sum(parameter.numel() for parameter in module.parameters())


def test_the_files_of_weights_are_of_the_epochs_that_they_should_be(run):
    table = table_of(run)
    assert run.metrics["last"]["epoch"] == run.metrics["ema"]["epoch"] == EPOCHS
    assert run.metrics["best"]["epoch"] == table["epoch"][table["val_loss"].idxmin()]


def test_pytorch_finds_the_same_digits(run, images, answers):
    which, logits = answers
    table = run.predictions[which]
    assert len(table) == sum(len(digits) for _, digits in images.values())
    for split, (_, digits) in images.items():
        rows = table.filter(pc.equal(table["split"], split))
        found = torch.tensor(rows["predicted"].to_pylist())
        top = logits[split].topk(2).values
        clear = (top[..., 0] - top[..., 1] > CLEAR).T
        assert clear.float().mean() > 0.99
        assert torch.equal(found[clear], logits[split].argmax(-1).T[clear])
        assert rows["correct"].to_pylist() == (found == digits).all(1).tolist()


def test_pytorch_computes_the_same_losses_and_accuracies(run, images, answers):
    which, logits = answers
    told = {split["split"]: split for split in run.metrics[which]["splits"]}
    assert told.keys() == images.keys()
    for split, (_, digits) in images.items():
        assert told[split]["samples"] == len(digits)
        assert told[split]["loss"] == pytest.approx(loss(logits[split], digits), rel=1e-5)
        right = (logits[split].argmax(-1).T == digits).all(1).double().mean().item()
        assert told[split]["accuracy"]["value"] == pytest.approx(right, abs=1e-5)


def test_pytorch_gives_the_same_probabilities(run, images, answers):
    which, logits = answers
    table = run.predictions[which]
    for split in images:
        rows = table.filter(pc.equal(table["split"], split))
        told = torch.tensor(rows["probabilities"].to_pylist(), dtype=torch.float64).transpose(0, 1)
        # Their logarithms are the logits, but for a constant per head that says nothing.
        torch.testing.assert_close(told.log(), logits[split].log_softmax(-1), rtol=0, atol=2e-6)


def test_pytorch_computes_the_validation_loss_of_the_epoch(run, images, answers):
    which, logits = answers
    if which == "ema":
        pytest.skip("the table holds the validation of the weights that are trained, not of their average")
    row = table_of(run).set_index("epoch").loc[run.metrics[which]["epoch"]]
    digits = images["val"][1]
    assert row["val_loss"] == pytest.approx(loss(logits["val"], digits), rel=1e-5)
    right = (logits["val"].argmax(-1).T == digits).all(1).double().mean().item()
    assert row["val_accuracy"] == pytest.approx(right, abs=1e-5)


# ---- ONNX


def test_onnxruntime_gives_the_same_logits_from_grey_pixels(run, images, answers, tmp_path):
    which, logits = answers
    multidigit(tmp_path, "export", "onnx", "--run", str(run.weights(which)), "--out", "network.onnx")
    path = tmp_path / "network.onnx"
    onnx.checker.check_model(path, full_check=True)
    network = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (taken,) = network.get_inputs()
    assert (taken.name, taken.type, taken.shape) == ("images", "tensor(uint8)", ["batch", 1, 64, 64])
    assert [given.name for given in network.get_outputs()] == ["digit_1", "digit_2"]
    about = network.get_modelmeta().custom_metadata_map
    assert about == {"model": run.model, "digits": "2", "mean": str(MEAN), "std": str(STD),
                     "epoch": str(run.metrics[which]["epoch"])}
    for split, (pixels, _) in images.items():
        heads = network.run(None, {"images": pixels.numpy()})
        found = torch.from_numpy(np.stack(heads))
        torch.testing.assert_close(found.double(), logits[split], rtol=0, atol=1e-4)
        rows = run.predictions[which].filter(pc.equal(run.predictions[which]["split"], split))
        top = logits[split].topk(2).values
        clear = (top[..., 0] - top[..., 1] > CLEAR).T
        told = torch.tensor(rows["predicted"].to_pylist())
        assert torch.equal(found.argmax(-1).T[clear], told[clear])
    # a batch of another size is taken, too
    alone = network.run(None, {"images": images["val"][0][:1].numpy()})
    assert [head.shape for head in alone] == [(1, 10), (1, 10)]


# ---- the run's folder


def test_the_table_of_epochs_has_a_row_per_epoch_and_its_columns(run):
    table = table_of(run)
    digits = [f"{split}_accuracy_{digit}" for split in ("train", "val") for digit in (1, 2)]
    measures = ["train_loss", "train_accuracy", "val_loss", "val_accuracy", "images_per_second", "seconds"]
    assert list(table.columns) == ["epoch", "lr", *measures, *digits]
    assert table["epoch"].tolist() == list(range(1, EPOCHS + 1))
    assert table["lr"].tolist() == [RATE] * EPOCHS
    assert np.isfinite(table[measures]).all(axis=None) and (table[measures[4:]] > 0).all(axis=None)
    for split in ("train", "val"):
        joint, each = table[f"{split}_accuracy"], table[[f"{split}_accuracy_{digit}" for digit in (1, 2)]]
        # All digits are right no more often than the worst of them, and no less than if errors never met.
        assert (joint <= each.min(axis=1) + 1e-12).all() and (joint >= each.sum(axis=1) - 1 - 1e-12).all()


def test_pytorch_computes_the_accuracy_of_each_digit(run, images, answers):
    which, logits = answers
    if which == "ema":
        pytest.skip("the table holds the validation of the weights that are trained, not of their average")
    row = table_of(run).set_index("epoch").loc[run.metrics[which]["epoch"]]
    right = (logits["val"].argmax(-1).T == images["val"][1]).double().mean(0)
    assert [row["val_accuracy_1"], row["val_accuracy_2"]] == pytest.approx(right.tolist(), abs=1e-5)


def test_the_configuration_is_yaml_with_every_section_and_names_its_overrides(run):
    text = (run.folder / "config.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    assert {"raw", "plan", "dataset", "augment", "train", "evaluate"} <= config.keys()
    expected = {"model": run.model, "epochs": EPOCHS, "samples": 64, "batch_size": 32, "learning_rate": RATE,
                "mean": MEAN, "std": STD}
    assert {key: config["train"][key] for key in expected} == expected
    for setting in run.settings:
        assert f"# --set {setting}\n" in text


def test_the_environment_says_what_the_run_ran_on(run):
    environment = json.loads((run.folder / "env.json").read_text(encoding="utf-8"))
    assert {"version", "cpu", "cores", "threads", "device", "dataset", "started"} <= environment.keys()
    assert environment["version"] in (ROOT / "Cargo.toml").read_text(encoding="utf-8")
    assert environment["device"] == "cpu" and environment["cpu"]
    assert environment["cores"] >= 1 and environment["threads"] >= 1
    record = json.loads((run.folder.parents[1] / "dataset" / "record.json").read_text(encoding="utf-8"))
    assert environment["dataset"] == record["content"]
    assert 0 <= time.time() - environment["started"] < 24 * 3600


def events_of(run):
    found = list(run.folder.glob("events.out.tfevents.*.multidigit"))
    assert len(found) == 1
    events = EventAccumulator(str(run.folder))
    events.Reload()
    return events


def test_tensorboard_reads_the_same_numbers_as_the_table(run):
    events = events_of(run)
    columns = {"epoch": "epoch", "images_per_second": "images_per_second", "loss/train_epoch": "train_loss",
               "loss/val": "val_loss"}
    for split in ("train", "val"):
        columns |= {f"accuracy/{split}": f"{split}_accuracy"}
        columns |= {f"accuracy_digit_{digit}/{split}": f"{split}_accuracy_{digit}" for digit in (1, 2)}
    assert set(events.Tags()["scalars"]) == columns.keys() | {"loss/train", "learning_rate"}
    table = table_of(run)
    for tag, column in columns.items():
        scalars = events.Scalars(tag)
        assert [scalar.step for scalar in scalars] == (STEPS * table["epoch"]).tolist()
        # an event holds f32
        assert [scalar.value for scalar in scalars] == pytest.approx(table[column].tolist(), rel=1e-7, abs=0), tag
    times = [scalar.wall_time for scalar in events.Scalars("loss/val")]
    began = json.loads((run.folder / "env.json").read_text(encoding="utf-8"))["started"]
    assert began <= events.FirstEventTimestamp() <= times[0] <= times[-1] <= time.time() + 1


def test_tensorboard_reads_the_loss_and_the_learning_rate_of_every_step_of_a_short_epoch(run):
    events, table = events_of(run), table_of(run)
    losses, rates = events.Scalars("loss/train"), events.Scalars("learning_rate")
    assert [scalar.step for scalar in losses] == [scalar.step for scalar in rates] == list(range(1, EPOCHS * STEPS + 1))
    assert [scalar.value for scalar in rates] == pytest.approx([RATE] * len(rates), rel=1e-7)
    # the batches of an epoch are equally large, so its loss is the mean of theirs
    means = np.reshape([scalar.value for scalar in losses], (EPOCHS, STEPS)).mean(1)
    assert means.tolist() == pytest.approx(table["train_loss"].tolist(), rel=1e-6)
    times = [scalar.wall_time for scalar in losses]
    ends = [scalar.wall_time for scalar in events.Scalars("loss/val")]
    assert times == sorted(times) and times[STEPS - 1] <= ends[0] <= times[STEPS] and times[-1] <= ends[-1]


def test_tensorboard_shows_the_settings_in_its_tab_hparams(run):
    plugins = events_of(run).PluginTagToContent("hparams")
    assert set(plugins) == {hparams.SESSION_START_INFO_TAG, hparams.SESSION_END_INFO_TAG}
    start = hparams.parse_session_start_info_plugin_data(plugins[hparams.SESSION_START_INFO_TAG])
    end = hparams.parse_session_end_info_plugin_data(plugins[hparams.SESSION_END_INFO_TAG])
    assert end.status == Status.Value("STATUS_SUCCESS") and end.end_time_secs > start.start_time_secs > 0
    told = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    expected = {"train.model": run.model, "train.learning_rate": RATE, "train.epochs": EPOCHS, "train.ema": 0.9,
                "train.augment": True, "train.schedule": "plateau", "augment.affine.translate": "[0.1,0.1]"}
    assert {name: told.get(name) for name in expected} == expected
    config = yaml.safe_load((run.folder / "config.yaml").read_text(encoding="utf-8"))["train"]
    unset = {f"train.{name}" for name, value in config.items() if value is None}
    assert not told.keys() & (unset | {"train.run", "train.checkpoint_every_steps"})


def test_tensorboard_shows_a_picture_of_the_augmentation(run, home):
    (image,) = events_of(run).Images("augmentation")
    multidigit(home, "preview", "augment", "--rows", "4", "--out", f"{run.folder.name}.png",
               *(word for setting in SETTINGS for word in ("--set", setting)))
    shown, drawn = Image.open(io.BytesIO(image.encoded_image_string)), Image.open(home / f"{run.folder.name}.png")
    assert (image.width, image.height, image.step) == (*drawn.size, 0)
    assert shown.convert("RGB").tobytes() == drawn.convert("RGB").tobytes()
