"""What scripts/ make of a benchmark's files, and PyTorch's side of the comparison on a GPU, tried without one.

The figures of comparisons are no better than this reading and that side.

    MULTIDIGIT    the program, default target/release/multidigit
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torchvision.transforms import functional

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import bench_json
import bench_peers_cuda
import peers

PROGRAM = Path(os.environ.get("MULTIDIGIT") or ROOT / "target" / "release" / "multidigit").resolve()


@pytest.fixture
def measured(tmp_path):
    """Two benchmarks as criterion writes them: half a second for 64 images by the slope, 2 s by the mean."""
    for name, images, times in (("training step/alexnet", 64, {"slope": 5e8, "mean": 9e8}), ("plain", None, {"mean": 2e9})):
        new = tmp_path / name / "new"
        new.mkdir(parents=True)
        throughput = {"Elements": images} if images else None
        (new / "benchmark.json").write_text(json.dumps({"full_id": name, "throughput": throughput}))
        estimates = {"slope": None} | {kind: {"point_estimate": value} for kind, value in times.items()}
        (new / "estimates.json").write_text(json.dumps(estimates))
    return bench_json.measured(tmp_path, 0)


def test_a_benchmark_on_images_is_told_in_images_per_second_and_another_in_seconds(measured):
    assert measured == [
        {"name": "plain", "value": 2.0, "unit": "s"},
        {"name": "training step/alexnet", "value": 128.0, "unit": "images/s"},
    ]


def test_a_comparison_takes_the_rate_of_the_one_benchmark_that_is_called_so(measured):
    assert peers.rate(measured, "training step/alexnet") == 128.0
    for name in ("plain", "alexnet", "training step"):
        with pytest.raises(SystemExit, match="0 benchmarks in images/s"):
            peers.rate(measured, name)


def test_peak_memory_is_the_commands_own_and_not_its_parents():
    ballast = b"\1" * 300_000_000
    small = peers.peak_memory(sys.executable, "-S", "-c", "pass")
    large = peers.peak_memory(sys.executable, "-S", "-c", "b'1' * 200_000_000")
    assert len(ballast) > 250_000_000 > large > 200_000_000 > 100_000_000 > small
    with pytest.raises(SystemExit, match="exit status 3"):
        peers.peak_memory(sys.executable, "-c", "raise SystemExit(3)")


# ---- the comparison on a GPU


@pytest.fixture
def compare(tmp_path, monkeypatch, capsys):
    """Runs the comparison on the CPU, on a few images of synthetic glyphs: what it prints, and its file's rows."""
    (tmp_path / "pipeline.yaml").write_text("raw: {source: synthetic}\nplan: {samples_per_class: 2}\n")
    subprocess.run([PROGRAM, "run", "dataset", "--quiet"], cwd=tmp_path, stdout=subprocess.DEVNULL, check=True)
    out = tmp_path / "out.json"

    def run(*words):
        flags = ["--program", PROGRAM, "--work", tmp_path, "--out", out, "--device", "cpu", "--commit", "abc"]
        flags += ["--images", 40, "--batches", 16, "--precisions", "tf32", "--kinds", "eager"]
        monkeypatch.setattr(sys, "argv", ["bench_peers_cuda.py", *map(str, flags), *words])
        bench_peers_cuda.main()
        return capsys.readouterr(), json.loads(out.read_text(encoding="utf-8"))["rows"]

    yield run
    left = [path for path in tmp_path.glob("artifacts/train/*") if path.is_dir()]
    assert not left, "the measured runs are removed"


def test_both_sides_are_measured_for_as_many_epochs_and_what_stands_is_not_measured_again(compare):
    told, [fcn] = compare("--models", "fcn", "--epochs", "2")
    assert {side: len(rates) for side, rates in fcn["rates"].items()} == {"ours": 2, "eager": 2}
    assert all(rate > 0 for rates in fcn["rates"].values() for rate in rates)
    assert "commit abc;" in told.out and "2 whole epochs of 40 images" in told.out and "| tf32 | fcn | 16 | " in told.out
    told, rows = compare("--models", "fcn,alexnet", "--epochs", "2")
    assert rows[0] == fcn and [row["network"] for row in rows] == ["fcn", "alexnet"]
    assert "| tf32 | fcn | 16 | " in told.out and "| tf32 | alexnet | 16 | " in told.out
    with pytest.raises(SystemExit, match="measured with epochs 2, here 1; name another --out"):
        compare("--models", "fcn", "--epochs", "1")


def test_a_side_that_fails_is_left_empty_and_measured_the_next_time(compare, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(bench_peers_cuda.Peer, "forward", lambda *_: (_ for _ in ()).throw(RuntimeError("no memory")))
        told, [row] = compare("--models", "alexnet", "--epochs", "1")
    assert row["rates"].keys() == {"ours"} and "tf32 alexnet 16, eager: RuntimeError: no memory" in told.err
    last = told.out.splitlines()[-1].split("|")
    assert [cell.strip() for cell in last[1:4]] == ["tf32", "alexnet", "16"]
    assert [cell.strip() for cell in last[5:7]] == ["", ""]
    _, [row] = compare("--models", "alexnet", "--epochs", "1")
    assert row["rates"].keys() == {"ours", "eager"}


def test_the_program_takes_the_arguments_of_the_comparisons(tmp_path):
    words = peers.words(tmp_path, "run", "raw", settings=["raw.source=synthetic"])
    subprocess.run([PROGRAM, *words], check=True, stdout=subprocess.DEVNULL)
    assert any((tmp_path / "raw" / "synthetic").iterdir())


def test_the_peers_augmentation_is_torchvisions_with_the_same_draws(monkeypatch):
    """A quarter turn loses no pixel, so that rotation and affine map at once must equal one after the other."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (3, 1, 64, 64)).float()
    # angle, shear, scale, shifts in shares, erased area in shares, log of its ratio, its place in shares, whether
    drawn = [90, 7, 0.93, 5.2 / 64, -3.1 / 64, 1 / 16, 0, 0.5, 0.9999, 0]
    left = iter(drawn)
    monkeypatch.setattr(bench_peers_cuda, "uniform", lambda pixels, *_: torch.full((len(pixels),), float(next(left))))
    augmented = bench_peers_cuda.augment(images)
    assert next(left, None) is None
    turned = functional.rotate(images, -90)
    moved = functional.affine(turned, angle=0, translate=[5, -3], scale=0.93, shear=[7, 0])
    # 16 by 16 pixels in one of 49 places each way, the last of which is a draw just below 1
    assert torch.equal(augmented, functional.erase(moved, 24, 48, 16, 16, torch.tensor(33.0)))


def test_the_peers_draws_are_those_of_the_default_recipe(monkeypatch):
    bounds = []
    draw = bench_peers_cuda.uniform
    monkeypatch.setattr(bench_peers_cuda, "uniform", lambda *of: bounds.append(of[1:]) or draw(*of))
    bench_peers_cuda.augment(torch.zeros(2, 1, 64, 64))
    recipe = yaml.safe_load((ROOT / "pipeline.yaml").read_text(encoding="utf-8"))["augment"]
    turn, affine, erasing = recipe["rotation"]["degrees"], recipe["affine"], recipe["erasing"]
    shifts = [(-share, share) for share in affine["translate"]]
    ratio = tuple(math.log(bound) for bound in erasing["ratio"])
    asked = [(-turn, turn), (-affine["shear"], affine["shear"]), tuple(affine["scale"]), *shifts]
    asked += [tuple(erasing["scale"]), ratio, (0, 1), (0, 1), (0, 1)]
    assert bounds == asked
    # of many images, all of one grey, those with a rectangle of the recipe's grey
    torch.manual_seed(0)
    images = bench_peers_cuda.augment(torch.full((20_000, 1, 64, 64), 200.0))
    erased = (images == erasing["value"]).flatten(1).any(1).float().mean().item()
    expected = erasing["apply_probability"] * erasing["probability"]
    assert abs(erased - expected) < 4 * math.sqrt(expected * (1 - expected) / len(images))
