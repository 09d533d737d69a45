"""The templates of deploy/: the jobs are valid by the schemas of Kubernetes, and the commands in them make a data set in parts.

The commands run as the cluster would run them, one after another, with the variables that Slurm and Kubernetes set and with the
program on the PATH.

    MULTIDIGIT  the program, default target/release/multidigit
"""

import os
import re
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("MULTIDIGIT") or ROOT / "target" / "release" / "multidigit").resolve()
SLURM, KUBERNETES = ROOT / "deploy" / "slurm.sh", ROOT / "deploy" / "kubernetes.yaml"
SETTINGS = "raw: {source: synthetic}\nplan: {samples_per_class: 4}\ndataset: {rows_per_shard: 40}\n"


@pytest.fixture
def home(tmp_path):
    (tmp_path / "pipeline.yaml").write_text(SETTINGS)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "multidigit").symlink_to(PROGRAM)
    return tmp_path


def run(home, command, **variables):
    path = f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, cwd=home, env={**os.environ, "PATH": path, **variables}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def jobs():
    return {job["metadata"]["labels"]["step"]: job for job in yaml.safe_load_all(KUBERNETES.read_text())}


def container(job):
    (one,) = job["spec"]["template"]["spec"]["containers"]
    return one


@pytest.mark.parametrize("step", ["plan", "parts", "commit"])
def test_a_job_is_valid_by_the_schemas_of_kubernetes(step):
    kubernetes_validate.validate(jobs()[step], kubernetes_validate.latest_version(), strict=True)


def test_the_jobs_of_kubernetes_make_the_data_set(home):
    all_jobs = jobs()
    parts = all_jobs["parts"]["spec"]
    assert parts["completionMode"] == "Indexed"
    run(home, container(all_jobs["plan"])["command"])
    written = 0
    for index in range(parts["completions"]):
        printed = run(home, container(all_jobs["parts"])["command"], JOB_COMPLETION_INDEX=str(index))
        written += int(re.search(r"(\d+) of 11 shards written", printed)[1])
    assert written == 11
    assert run(home, container(all_jobs["commit"])["command"]).startswith("dataset   done       400 images")


def test_the_array_job_of_slurm_makes_the_data_set(home):
    text = SLURM.read_text()
    first, last = map(int, re.search(r"^#SBATCH --array=(\d+)-(\d+)$", text, re.MULTILINE).groups())
    assert first == 0
    before, after = re.search(r"^#     (multidigit run plan)$", text, re.M)[1], re.search(r"--wrap '([^']+)'", text)[1]
    run(home, before.split())
    for task in range(last + 1):
        run(home, ["bash", SLURM], SLURM_ARRAY_TASK_ID=str(task), SLURM_ARRAY_TASK_COUNT=str(last + 1), SLURM_CPUS_PER_TASK="1")
    assert run(home, after.split()).startswith("dataset   done       400 images")
