"""`scripts/publish.py`, which pushes a data set to Hugging Face: what it would push, what it refuses, and what it tells `hf`.

No network: a stub in the place of `hf` stores its arguments and the files that it was given, and the real `hf` talks to a server
of this test. The data set is made of synthetic glyphs.

    MULTIDIGIT    the program, default target/release/multidigit
"""

import base64
import http.server
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("MULTIDIGIT") or ROOT / "target" / "release" / "multidigit").resolve()
SETTINGS = ["--set", "raw.source=synthetic", "--set", "plan.samples_per_class=4", "--set", "dataset.rows_per_shard=100"]
REPOSITORY = "someone/double-mnist"
SHARDS = [f"data/{split}-{shard:05}-of-{shards:05}.parquet"
          for split, shards in (("test", 1), ("train", 3), ("val", 1)) for shard in range(shards)]
FILES = ["README.md", "croissant.json", *SHARDS, "montage.png"]
STUB = """#!{python}
import json, os, pathlib, sys
files = {{path.as_posix(): path.stat().st_size for path in pathlib.Path().rglob("*") if path.is_file()}}
pathlib.Path({told!r}).write_text(json.dumps({{"words": sys.argv[1:], "files": files}}))
sys.exit(int(os.environ.get("STUB_EXIT", "0")))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    home = tmp_path_factory.mktemp("made")
    subprocess.run([PROGRAM, "run", "dataset", "--quiet", *SETTINGS], cwd=home, stdout=subprocess.DEVNULL, check=True)
    return home


@pytest.fixture
def home(made, tmp_path):
    """A folder with a data set of its own, and a stub of `hf` in `bin`."""
    home = tmp_path / "home"
    shutil.copytree(made, home)
    stub = home / "bin" / "hf"
    stub.parent.mkdir()
    stub.write_text(STUB.format(python=sys.executable, told=str(home / "told.json")))
    stub.chmod(0o755)
    return home


def publish(home, *words, path=None, settings=SETTINGS, **variables):
    path = os.pathsep.join([str(home / "bin"), os.environ["PATH"]]) if path is None else path
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "publish.py", *words, "--program", PROGRAM, *settings],
        cwd=home, capture_output=True, text=True, timeout=120, env={**os.environ, **variables, "PATH": path},
    )


def told(home):
    """The arguments of the stub and the files beside it, or None if it did not run."""
    path = home / "told.json"
    return json.loads(path.read_text()) if path.exists() else None


def refusal(home, *words, **options):
    done = publish(home, *words, **options)
    assert done.returncode == 1 and told(home) is None, done.stdout + done.stderr
    assert done.stderr.startswith("publish: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("publish: ").strip()


def test_the_recorded_files_are_pushed_and_no_others(home):
    folder = home / "artifacts" / "dataset"
    (folder / ".hidden").write_text("a lock")
    (folder / "notes.txt").write_text("the user's own")
    done = publish(home, REPOSITORY)
    assert done.returncode == 0, done.stderr
    words, files = told(home)["words"], told(home)["files"]
    assert files == {name: (folder / name).stat().st_size for name in FILES}
    content = json.loads((folder / "record.json").read_text())["content"][:12]
    assert words == ["upload", REPOSITORY, ".", ".", "--type", "dataset", "--delete", "data/*.parquet",
                     "--commit-message", f"Data set of 400 images, content {content}"]
    assert done.stdout.endswith(f"publish: the data set is in {REPOSITORY}\n")


def test_a_dry_run_prints_the_files_their_sizes_and_the_command_and_pushes_nothing(home):
    done = publish(home, REPOSITORY, "--dry-run")
    assert done.returncode == 0 and told(home) is None, done.stderr
    *lines, total, command = done.stdout.splitlines()
    folder = home / "artifacts" / "dataset"
    assert [line.split() for line in lines] == [[f"{(folder / name).stat().st_size:,}", "bytes", name] for name in FILES]
    assert total.split()[:5] == [f"{sum((folder / name).stat().st_size for name in FILES):,}", "bytes", "in", "8", "files:"]
    announced = shlex.split(command.split(": ", 1)[1])
    assert publish(home, REPOSITORY).returncode == 0
    assert announced == ["hf", *told(home)["words"]]


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of Hugging Face as a push asks for. The repository has a shard of an earlier push."""

    commits = []

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        here = f"http://127.0.0.1:{self.server.server_port}/datasets/{REPOSITORY}"
        answer = {}
        if self.path.endswith("/api/repos/create"):
            answer = {"url": here}
        elif "/tree/" in self.path:
            paths = ["README.md", ".gitattributes", "data/train-00000-of-00001.parquet"]
            answer = [{"type": "file", "path": path, "size": 1, "oid": "0" * 40} for path in paths]
        elif "/preupload/" in self.path:
            answer = {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                                for file in json.loads(body)["files"]]}
        elif "/commit/" in self.path:
            self.commits.append([json.loads(line) for line in body.splitlines()])
            answer = {"commitOid": "0" * 40, "commitUrl": f"{here}/commit/{'0' * 40}"}
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_HEAD = do_POST = answer

    def log_message(self, *_):
        pass


def test_the_real_hf_commits_the_files_and_removes_the_shards_of_an_earlier_push(home):
    hub = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        # No stub on this path: the `hf` beside this Python is taken.
        done = publish(home, REPOSITORY, path=os.defpath, HF_ENDPOINT=f"http://127.0.0.1:{hub.server_port}", HF_TOKEN="hf_token",
                       HF_HOME=str(home / "huggingface"), HF_HUB_OFFLINE="0")
    finally:
        hub.shutdown()
        hub.server_close()
    assert done.returncode == 0, done.stdout + done.stderr
    [[header, *changes]] = Hub.commits
    assert header["value"]["summary"].startswith("Data set of 400 images, content ")
    contents = {change["value"]["path"]: base64.b64decode(change["value"]["content"])
                for change in changes if change["key"] == "file"}
    assert contents == {name: (home / "artifacts" / "dataset" / name).read_bytes() for name in FILES}
    removed = [change["value"]["path"] for change in changes if change["key"] == "deletedFile"]
    assert removed == ["data/train-00000-of-00001.parquet"]


@pytest.mark.parametrize("name", ["", "double-mnist", "a/b/c", "someone/", "-x/y", "https://example.org/a"])
def test_what_is_no_name_of_a_repository_is_refused(home, name):
    words = ["--", name] if name.startswith("-") else [name]
    expected = f"REPO={name}: expected owner/name, as in `make publish REPO=owner/name`"
    done = subprocess.run([sys.executable, ROOT / "scripts" / "publish.py", *words], cwd=home, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"publish: {expected}\n")


def test_without_a_data_set_nothing_is_pushed(home):
    shutil.rmtree(home / "artifacts" / "dataset")
    assert refusal(home, REPOSITORY) == (
        "artifacts/dataset: no data set, as there is no record.json; expected one; `make dataset` makes it")


def test_a_record_that_is_none_is_refused(home):
    (home / "artifacts" / "dataset" / "record.json").write_text("{")
    assert refusal(home, REPOSITORY).startswith("artifacts/dataset/record.json: not a record (")


def test_a_data_set_of_other_settings_is_refused(home):
    found = refusal(home, REPOSITORY, settings=[*SETTINGS, "--set", "plan.seed=7"])
    assert found == ("artifacts/dataset: stale (input plan is stale), expected fresh; `multidigit status` says more; "
                     "`make dataset` makes it anew, and settings that it was made with are named here too")


def test_wrong_settings_are_refused_in_the_words_of_the_program(home):
    assert "plan.sed" in refusal(home, REPOSITORY, settings=["--set", "plan.sed=7"])


def test_a_missing_shard_is_refused(home):
    (home / "artifacts" / "dataset" / SHARDS[1]).unlink()
    assert f"output {SHARDS[1]} is missing" in refusal(home, REPOSITORY)


def test_damage_that_changed_neither_size_nor_time_is_refused(home):
    shard = home / "artifacts" / "dataset" / SHARDS[0]
    # Renews the stamps in the record, which still are those of the folder that this one was copied from.
    subprocess.run([PROGRAM, "run", "dataset", "--quiet", *SETTINGS], cwd=home, stdout=subprocess.DEVNULL, check=True)
    before = shard.stat()
    with shard.open("r+b") as file:
        file.seek(before.st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert refusal(home, REPOSITORY) == (
        f"artifacts/dataset: {SHARDS[0]} was changed; expected what its record says; "
        "`make dataset ARGS=--force` makes it anew")


def test_without_hf_nothing_is_pushed(home):
    # A link to the interpreter in a folder of its own, so that no `hf` stands beside it.
    alone = home / "alone"
    alone.mkdir()
    python = alone / "python"
    python.symlink_to(Path(sys.executable).resolve())
    done = subprocess.run([python, ROOT / "scripts" / "publish.py", REPOSITORY, "--program", PROGRAM, *SETTINGS], cwd=home,
                          capture_output=True, text=True, env={**os.environ, "PATH": str(alone)})
    assert (done.returncode, done.stderr) == (1, "publish: hf: not found; expected the command of huggingface_hub; "
                                                 "`pip install huggingface_hub` installs it\n")


def test_a_program_that_is_not_there_is_named(home):
    done = publish(home, REPOSITORY, settings=["--program", "absent", *SETTINGS])
    assert done.returncode == 1
    assert done.stderr == ("publish: absent: cannot run it (No such file or directory); expected the program; "
                           "`make build` makes it\n")


def test_a_failure_of_hf_is_a_failure(home):
    done = publish(home, REPOSITORY, STUB_EXIT="3")
    assert done.returncode == 1 and told(home) is not None
    assert done.stderr == "publish: hf upload: exit status 3; what it printed says why; the same command tries again\n"
