"""What scripts/ make of a benchmark's files: the figures of comparisons are no better than this reading."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import bench_json
import peers


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
