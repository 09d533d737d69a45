"""`python -m multidigit.ray` on a Ray cluster of two nodes, which are processes of this machine.

The content of a data set is compared with pipeline.lock, and the tables of a sweep with those of the program alone.

    MULTIDIGIT                the program, default target/release/multidigit
    MULTIDIGIT_TEST_MNIST     the folder with the MNIST files; without it, the test that needs them is skipped
    MULTIDIGIT_REQUIRE_MNIST  set and not empty: missing MNIST files are a failure, not a reason to skip
"""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
from ray.cluster_utils import Cluster

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("MULTIDIGIT") or ROOT / "target" / "release" / "multidigit").resolve()
MNIST = os.environ.get("MULTIDIGIT_TEST_MNIST")
SMALL = ["raw.source=synthetic", "plan.samples_per_class=10"]
TRAINING = ["train.model=fcn", "train.epochs=1", "train.samples=64", "train.batch_size=32", "evaluate.samples=20"]
# A lost node is noticed after three checks.
HEALTH = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 3}


@pytest.fixture(scope="module")
def cluster():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": HEALTH})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def sets(settings):
    return [word for setting in settings for word in ("--set", setting)]


def begin(home, *words, settings=(), **variables):
    """Starts the engine in a folder, with the program or with what stands in its place."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "python"), "MULTIDIGIT": str(PROGRAM)} | variables
    command = [sys.executable, "-m", "multidigit.ray", *words, *sets(settings)]
    return subprocess.Popen(
        command, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def end(process):
    """The exit code, the results and the messages of the engine, which never shows a traceback."""
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert "Traceback" not in err, err
    return process.returncode, out, err


def call(home, *words, settings=()):
    done = subprocess.run([PROGRAM, *words, *sets(settings)], cwd=home, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return done.stdout


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def wait_for(path, process):
    until = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, f"no {path}"
        time.sleep(0.05)


def test_a_data_set_has_the_pinned_content_though_a_node_is_lost(cluster, tmp_path):
    if not MNIST:
        assert not os.environ.get("MULTIDIGIT_REQUIRE_MNIST"), "MULTIDIGIT_TEST_MNIST names no folder"
        pytest.skip("MULTIDIGIT_TEST_MNIST names no folder with the MNIST files")
    # on the third node, no part ever ends
    program = script(tmp_path / "program", f'[ -z "$NEVER" ] || {{ touch begun; exec sleep 600; }}\nexec {PROGRAM} "$@"')
    lost = cluster.add_node(num_cpus=1, env_vars={"NEVER": "1"})
    words = ["dataset", "--parts", "16", "--address", cluster.address, "--raw", MNIST, "--artifacts", "made/here"]
    process = begin(tmp_path, *words, settings=["dataset.rows_per_shard=5000"], MULTIDIGIT=program)
    try:
        wait_for(tmp_path / "begun", process)
    finally:
        cluster.remove_node(lost, allow_graceful=False)
    code, out, err = end(process)
    assert code == 0, err
    assert "dataset   done       100000 images" in out
    parts = re.findall(r"dataset   part (\d+)/16  (\d+) of 21 shards written, 0 were there", err)
    assert sorted(int(part) for part, _ in parts) == list(range(16)) and sum(int(count) for _, count in parts) == 21
    record = json.loads((tmp_path / "made" / "here" / "dataset" / "record.json").read_text(encoding="utf-8"))
    pinned = json.loads((ROOT / "pipeline.lock").read_text(encoding="utf-8"))
    assert record["content"] == pinned["stages"]["dataset"]["content"]


def test_augment_is_made_in_parts_after_the_data_set_on_a_local_ray(tmp_path):
    code, out, err = end(begin(tmp_path, "augment", "--parts", "2", settings=SMALL, RAY_ADDRESS=""))
    assert code == 0, err
    stages = [line.split()[:2] for line in out.splitlines()]
    assert stages == [["raw", "done"], ["plan", "done"], ["dataset", "done"], ["augment", "done"]]
    assert "[2 of 2] augment   part " in err
    assert call(tmp_path, "status", settings=SMALL).count(" fresh ") >= 4


def test_a_sweep_over_two_data_sets_has_the_tables_of_the_program_alone(cluster, tmp_path):
    def rows(folder):
        with open(folder / "artifacts" / "sweep" / "four" / "sweep.csv", newline="", encoding="utf-8") as file:
            return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]

    # with the rate of the bad runs, the loss is not finite after a step; they are passed over
    splits, rates = "plan.split.by: [class, sample]", "rate: {good: {}, bad: {train.learning_rate: 1e38}}"
    alone, together = tmp_path / "alone", tmp_path / "together"
    for home in (alone, together):
        home.mkdir()
        (home / "four.yaml").write_text(f"description: two good, two bad\ngrid: {{{splits}, {rates}}}\n")
        (home / "good.yaml").write_text(f"description: two good\ngrid: {{{splits}}}\n")
    settings = SMALL + TRAINING
    command = [PROGRAM, "sweep", "four.yaml", *sets(settings)]
    done = subprocess.run(command, cwd=alone, capture_output=True, text=True, timeout=180)
    code, out, err = end(begin(together, "sweep", "four.yaml", "--address", cluster.address, settings=settings))
    assert code == done.returncode == 1
    assert err.splitlines()[-1] == "error: 2 of 4 runs failed; their messages are above"
    assert err.splitlines().count(done.stderr.splitlines()[-1]) == 2, err
    assert len(re.findall(r"^\[\d of 2\] fcn-\S+  val ", err, re.MULTILINE)) == 2, err
    assert len(re.findall(r"^\[\d of 2\] run fcn-lr\S+ failed  \([\d.]+\)$", err, re.MULTILINE)) == 2, err
    assert len(rows(alone)) == 2 and rows(together) == rows(alone)
    call(together, "report", settings=settings)
    assert (together / "artifacts" / "report" / "index.html").is_file()
    # no cluster is needed where all runs are done
    code, out, err = end(begin(together, "sweep", "good.yaml", "--address", "127.0.0.1:1", settings=settings))
    assert (code, err) == (0, "") and out.startswith("wrote artifacts/sweep/good/sweep.csv\n")


def test_a_part_that_fails_ends_with_the_message_of_the_program(cluster, tmp_path):
    settings = [*SMALL, "dataset.rows_per_shard=100"]
    call(tmp_path, "run", "plan", settings=settings)
    call(tmp_path, "run", "dataset", "--part", "0/10", settings=settings)
    (key,) = (tmp_path / "artifacts" / "dataset.parts").iterdir()
    (key / "data" / "val-00000-of-00002.parquet").write_text("mine")
    code, out, err = end(begin(tmp_path, "dataset", "--parts", "2", "--address", cluster.address, settings=settings))
    assert code == 1
    last = err.splitlines()[-1]
    assert last.startswith(f"error: `artifacts/dataset.parts/{key.name}`: holds data/val-00000-of-00002.parquet, which no record")
    assert re.search(r"^\[\d of 2\] dataset, part 1/2 failed  \([\d.]+\)$", err, re.MULTILINE), err


def test_a_node_without_the_program_is_named(cluster, tmp_path):
    beside = shutil.which("multidigit", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]))
    if beside:
        pytest.skip(f"the nodes find {beside}")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "multidigit").symlink_to(PROGRAM)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    words = ["dataset", "--parts", "1", "--address", cluster.address]
    code, out, err = end(begin(tmp_path, *words, settings=SMALL, MULTIDIGIT="", PATH=path))
    expected = "error: multidigit: no such program beside Python or on the PATH; install it: pip install multidigit"
    assert code == 1 and err.splitlines()[-1] == expected, err


def test_ctrl_c_ends_the_programs_on_the_nodes(cluster, tmp_path):
    text = f"""case "$*" in *--part*) ;; *) exec {PROGRAM} "$@";; esac
trap 'touch ended; exit 143' TERM
touch begun
while :; do sleep 0.1; done"""
    program = script(tmp_path / "program", text)
    words = ["dataset", "--parts", "1", "--address", cluster.address]
    process = begin(tmp_path, *words, settings=SMALL, MULTIDIGIT=program)
    wait_for(tmp_path / "begun", process)
    process.send_signal(signal.SIGINT)
    code, out, err = end(process)
    assert code == 130 and err.splitlines()[-1] == "error: interrupted; what was finished before stays", err
    assert (tmp_path / "ended").exists()


def test_tasks_wait_for_a_node_that_is_large_enough_until_the_command_is_ended(cluster, tmp_path):
    process = begin(tmp_path, "dataset", "--address", cluster.address, "--cpus", "4096", settings=SMALL)
    lines = iter(process.stderr.readline, "")
    expected = "warning: no node of the cluster has what a task needs (CPU 4096); the tasks wait for one\n"
    assert expected in lines, "no warning"
    process.send_signal(signal.SIGTERM)
    code, out, err = end(process)
    assert (code, err) == (130, "error: interrupted; what was finished before stays\n")


def test_an_address_without_a_cluster_is_an_error_at_once(tmp_path):
    code, out, err = end(begin(tmp_path, "dataset", "--address", "127.0.0.1:1", settings=SMALL))
    expected = "expected the address of a running cluster, such as auto or 10.0.0.1:6379"
    assert code == 1 and err.splitlines()[-1] == f"error: --address 127.0.0.1:1: Connection refused; {expected}"


def test_wrong_flags_and_settings_are_refused_before_the_cluster_is_joined(tmp_path):
    for words, message in (
        (["dataset", "--parts", "0"], "argument --parts: found 0; expected a number from 1"),
        (["sweep", "a.yaml", "--gpus", "2"], "argument --gpus: found 2; expected 0 to 1, as a run is trained on one GPU"),
        (["augment", "--set", "augment.epoch=1"], "error: --set augment.epoch=1: unknown key `augment.epoch`; did you mean"),
    ):
        code, out, err = end(begin(tmp_path, *words, "--address", "127.0.0.1:1"))
        assert code == 2 and message in err.splitlines()[-1], err


def test_a_program_that_is_not_there_is_named(tmp_path):
    code, out, err = end(begin(tmp_path, "dataset", MULTIDIGIT="/nowhere/multidigit"))
    expected = "cannot be used (No such file or directory); expected the same folder and program on all nodes"
    assert (code, err) == (1, f"error: `/nowhere/multidigit`: {expected}\n")


def test_without_ray_the_command_says_how_to_install_it(tmp_path):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text("raise ModuleNotFoundError('No module named ray', name='ray')\n")
    code, out, err = end(begin(tmp_path, "dataset"))
    assert (code, err) == (1, 'error: ray is not installed; install it: pip install "multidigit[ray]"\n')
