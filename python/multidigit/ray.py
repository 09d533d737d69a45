"""Makes a stage in parts, or trains the runs of a sweep, as tasks of a Ray cluster. Needs the extra `ray`.

    python -m multidigit.ray dataset --parts 64 --address auto
    python -m multidigit.ray augment --parts 64 --address auto
    python -m multidigit.ray sweep sweeps/table1.yaml --gpus 1 --address auto

All work is that of the program `multidigit`. Each task calls it for one part or one run, on the node where Ray starts the task.
What comes before the tasks and after them is called on this machine: `multidigit run plan` and the commit of a stage, the data
and the tables of a sweep. All nodes must have the current folder, on a file system that they share, under the same path.

The program is the one that is installed beside the Python of a node, or else the one on the node's PATH. The variable MULTIDIGIT
names another one, by a path that is valid on all nodes.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ._extras import extra

try:
    with extra("ray"):
        import ray
except ImportError as missing:
    if __name__ != "__main__":
        raise
    sys.exit(f"error: {missing}")

if TYPE_CHECKING:
    from ray import ObjectRef

__all__ = ["main"]

#: The stages that are made in parts, each after those that it needs.
STAGES = ("dataset", "augment")

#: How often a task is started again if its node is lost.
RETRIES = 3

#: How long cancelled tasks may take to end, in seconds: a training writes a checkpoint first.
GRACE = 60

#: The exit code and the output of a program on a node, and the address of the node.
Outcome = tuple[int, str, str, str]


class Failure(Exception):
    """What ends the work: an exit code, and a message that is empty if the program has told the reason."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(message)
        self.code = code


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the command line asks for, and returns the exit code: that of the program if the program failed."""
    options = _parser().parse_args(arguments)
    try:
        if options.work == "sweep":
            _sweep(options)
        else:
            _stage(options)
    except Failure as failure:
        if str(failure):
            _tell(f"error: {failure}")
        return failure.code
    except ray.exceptions.RayError as error:
        _tell(f"error: {_first_line(error)}")
        return 1
    except KeyboardInterrupt:
        _tell("error: interrupted; what was finished before stays")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m multidigit.ray",
        description="Make a stage in parts, or train the runs of a sweep, as tasks of a Ray cluster.",
        epilog="All nodes must have the program multidigit, and the current folder on a file system that they share.",
        allow_abbrev=False,
    )
    works = parser.add_subparsers(dest="work", required=True, metavar="dataset|augment|sweep")
    for stage in STAGES:
        needed = " and ".join(STAGES[: STAGES.index(stage) + 1])
        work = works.add_parser(stage, help=f"make {needed} in parts", allow_abbrev=False)
        work.add_argument("--parts", type=_count, metavar="N", help="parts [default: as many as run at once]")
        _add_common(work)
        work.add_argument("--recipe", metavar="NAME", help="as of `multidigit run`")
    work = works.add_parser("sweep", help="train and evaluate the runs of a sweep", allow_abbrev=False)
    work.add_argument("file", metavar="FILE", help="the YAML file of the sweep")
    work.add_argument(
        "--gpus",
        type=_share_of_gpu,
        default=0.0,
        metavar="N",
        help="train on GPUs: 1 for a GPU per run, 0.5 for two runs on a GPU [default: 0, train on the CPU]",
    )
    _add_common(work)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", metavar="A", help="of the Ray cluster, or auto [default: RAY_ADDRESS, else a local Ray]")
    parser.add_argument("--cpus", type=_count, default=1, metavar="N", help="cores of each task [default: 1]")
    for flag, value in (("--artifacts", "DIR"), ("--raw", "DIR"), ("--config", "FILE")):
        parser.add_argument(flag, metavar=value, help="as of `multidigit run`")
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE", help="as of `multidigit run`; repeatable")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text}; expected a number from 1")
    return int(text)


def _share_of_gpu(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"found {text}; expected 0 to 1, as a run is trained on one GPU")
    return share


def _flags(options: argparse.Namespace) -> list[str]:
    """The flags that the program is called with."""
    given = vars(options)
    single = [word for name in ("artifacts", "raw", "config", "recipe") if given.get(name) for word in (f"--{name}", given[name])]
    return single + [word for setting in options.set for word in ("--set", setting)]


def _stage(options: argparse.Namespace) -> None:
    """Makes a stage, and the one that it needs, in parts."""
    flags = _flags(options)
    _call(["run", "plan", *flags])
    _connect(options.address, {"CPU": options.cpus})
    parts = options.parts or max(1, int(ray.cluster_resources().get("CPU", 0)) // options.cpus)
    for stage in STAGES[: STAGES.index(options.work) + 1]:
        shares = [f"{number}/{parts}" for number in range(parts)]
        failed = _work({f"{stage}, part {share}": ["run", stage, "--part", share, *flags] for share in shares}, options.cpus)
        if failed:
            raise Failure(failed[0])
        _call(["run", stage, "--commit", *flags])


def _sweep(options: argparse.Namespace) -> None:
    """Trains the runs of a sweep that are not done, and writes its tables.

    A folder of artifacts holds one data set at a time. If the runs need several, each is made when the runs on the one before
    are done.
    """
    flags = _flags(options)
    if options.gpus:
        flags += ["--set", "train.device=cuda", "--set", "evaluate.device=cuda"]
    sweep = ["sweep", options.file, *flags]
    runs = [run for run in json.loads(_call([*sweep, "--dry-run", "--json"], stdout=subprocess.PIPE)) if not run["is_done"]]
    failed = []
    if runs:
        _connect(options.address, {"CPU": options.cpus, "GPU": options.gpus})
    for data in sorted({run["data"] for run in runs}):
        names = [run["run"] for run in runs if run["data"] == data]
        _call([*sweep, "--data", names[0]])
        tasks = {f"run {name}": [*sweep, "--run", name] for name in names}
        failed += _work(tasks, options.cpus, options.gpus, goes_on=True)
    _call([*sweep, "--commit"])
    if failed:
        raise Failure(failed[0], f"{len(failed)} of {len(runs)} runs failed; their messages are above")


def _call(words: list[str], stdout: int | None = None) -> str:
    """Calls the program on this machine, and returns what it printed if `stdout` is a pipe. Its messages go to the terminal."""
    process = _start(words, os.getcwd(), os.environ.get("MULTIDIGIT"), stdout=stdout)
    if isinstance(process, str):
        raise Failure(1, process)
    try:
        printed, _ = process.communicate()
    except KeyboardInterrupt:
        # the terminal has sent the signal to the program, too, which ends with a message of its own
        process.communicate()
        if process.returncode == 0:
            raise
    if process.returncode != 0:
        raise Failure(process.returncode)
    return printed or ""


def _connect(address: str | None, needs: Mapping[str, float]) -> None:
    """Joins the cluster, or starts a local Ray.

    If no node has what a task needs, the tasks of a cluster wait, since a cluster may get further nodes.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    is_local = address == "local"
    try:
        _reach(address)
        ray.init(
            address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if is_local else None,
        )
    except (OSError, RuntimeError, ValueError) as error:
        system = error.strerror if isinstance(error, OSError) else None
        reason = system or _first_line(error).rstrip(".")
        advice = "expected the address of a running cluster, such as auto or 10.0.0.1:6379"
        raise Failure(1, f"--address {address}: {reason}; {advice}") from error
    # as Ctrl-C: Ray's own handler aborts, and leaves the programs on the nodes no time to end
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(name, 0) >= amount for name, amount in needs.items()) for node in nodes):
        wanted = ", ".join(f"{name} {amount:g}" for name, amount in needs.items() if amount)
        if is_local:
            raise Failure(1, f"this machine does not have what a task needs ({wanted})")
        _tell(f"warning: no node of the cluster has what a task needs ({wanted}); the tasks wait for one")


def _reach(address: str) -> None:
    """Raises OSError if nothing listens at an address with a port: Ray itself would try for a quarter of an hour."""
    host, _, port = address.split("://")[-1].rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _work(tasks: Mapping[str, list[str]], cpus: int, gpus: float = 0, goes_on: bool = False) -> list[int]:
    """Calls the program once for each task, on the nodes of the cluster. The tasks have names.

    Returns the exit codes of the tasks that failed. After the first, the others are cancelled, unless the work goes on.
    """
    run = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES, scheduling_strategy="SPREAD")(_run)
    flags = ["--quiet", "--threads", str(cpus)]
    place = (os.getcwd(), os.environ.get("MULTIDIGIT"))
    names = {run.options(name=name).remote([*words, *flags], *place): name for name, words in tasks.items()}
    waiting = list(names)
    failed: list[int] = []
    try:
        while waiting and (goes_on or not failed):
            (done,), waiting = ray.wait(waiting, num_returns=1)
            code = _tell_outcome(names[done], done, f"{len(tasks) - len(waiting)} of {len(tasks)}")
            if code != 0:
                failed.append(code)
    finally:
        for task in waiting:
            ray.cancel(task)
        if waiting:
            ray.wait(waiting, num_returns=len(waiting), timeout=GRACE)
    return failed


def _tell_outcome(name: str, task: ObjectRef[Outcome], count: str) -> int:
    """Prints the result of a task that has ended, or that it failed, and the messages of the program. Returns the exit code."""
    try:
        code, printed, messages, node = ray.get(task)
    except ray.exceptions.RayError as error:
        code, printed, messages, node = 1, "", f"error: {_first_line(error)}", "the cluster"
    result = printed.strip() if code == 0 else f"{name} failed"
    _tell(f"[{count}] {result}  ({node})")
    if messages:
        _tell(messages.rstrip())
    return code


def _first_line(error: Exception) -> str:
    """What happened. In errors of Ray, a traceback follows, or advice about log files."""
    return str(error).partition("\n")[0]


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---- on the nodes: nothing of this module has to be installed there, since Ray sends these functions along


def _run(words: list[str], folder: str, program: str | None) -> Outcome:
    """Calls the program in a folder of this node. If the task is cancelled, so is the program."""
    node = ray.util.get_node_ip_address()
    process = _start(words, folder, program, subprocess.PIPE, subprocess.PIPE)
    if isinstance(process, str):
        return 1, "", f"error: {process}", node
    while True:
        try:
            printed, messages = process.communicate(timeout=0.5)
            return process.returncode, printed, messages, node
        except subprocess.TimeoutExpired:
            # Ray cancels a task only while Python runs
            continue
        except BaseException:
            process.terminate()
            process.communicate()
            raise


def _start(
    words: list[str], folder: str, program: str | None, stdout: int | None = None, stderr: int | None = None
) -> subprocess.Popen[str] | str:
    """Starts the program in a folder, or says what is missing."""
    here = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    found = program or shutil.which("multidigit", path=here)
    if found is None:
        return "multidigit: no such program beside Python or on the PATH; install it: pip install multidigit"
    try:
        return subprocess.Popen([found, *words], cwd=folder, stdout=stdout, stderr=stderr, text=True)
    except OSError as error:
        advice = "expected the same folder and program on all nodes"
        return f"`{error.filename}`: cannot be used ({error.strerror}); {advice}"


if __name__ == "__main__":
    sys.exit(main())
