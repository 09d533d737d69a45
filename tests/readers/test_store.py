"""Outputs in an object store: `multidigit run --artifacts s3://...`, against moto's S3 server in this process.

moto, since it comes from PyPI in seconds and knows conditional puts; Garage and s3s-fs would have to be compiled. In front of it
stands a server that can answer with errors and cut connections.

    MULTIDIGIT_CLOUD  a program with the feature `cloud`; without it, these tests are skipped
"""

import http.client
import http.server
import json
import logging
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.parse
from pathlib import Path

import boto3
import moto.server
import pyarrow.fs
import pyarrow.parquet
import pytest

pytestmark = pytest.mark.skipif(
    "MULTIDIGIT_CLOUD" not in os.environ, reason="needs MULTIDIGIT_CLOUD, a program with the feature `cloud`"
)

PROGRAM = Path(os.environ.get("MULTIDIGIT_CLOUD", "")).resolve()
SETTINGS = "raw: {source: synthetic}\nplan: {samples_per_class: 20}\ndataset: {rows_per_shard: 100, row_group_rows: 50}\n"
BUCKET, KEY, SECRET = "data", "AKIATESTTESTTEST", "secret-of-the-test"
STAGES = ["plan", "dataset", "augment"]
SHARDS = 13 + 4 + 4


class Front(http.server.BaseHTTPRequestHandler):
    """Passes requests on to moto, and does what the faults of its server say."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle_any(self):
        server = self.server
        body_size = int(self.headers.get("Content-Length") or 0)
        name = urllib.parse.unquote(self.path.split("?")[0])
        with server.lock:
            fault = next((fault for fault in server.faults if fault.matches(self.command, name)), None)
            if fault:
                fault.left -= 1
                if not fault.left:
                    server.faults.remove(fault)
                    server.faults.extend(fault.then)
        if fault and fault.kind == "cut":
            self.rfile.read(body_size // 2)
            self.cut()
            return
        body = self.rfile.read(body_size)
        if fault and isinstance(fault.kind, int):
            self.answer(fault.kind, {"Content-Type": "application/xml"}, fault.body.encode())
            return
        with server.lock:
            server.requests.append((self.command, name))
        inner = http.client.HTTPConnection("127.0.0.1", server.behind, timeout=60)
        inner.request(self.command, self.path, body, dict(self.headers))
        answered = inner.getresponse()
        content = answered.read()
        if fault:
            assert fault.kind == "cut after"
            self.cut()
            return
        headers = {name: value for name, value in answered.getheaders() if name.lower() not in ("transfer-encoding", "connection", "content-length")}
        length = answered.getheader("Content-Length") if self.command == "HEAD" else None
        self.answer(answered.status, headers, content, length)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any

    def answer(self, status, headers, content, length=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def cut(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


class Fault:
    """An answer to the next requests of a kind. `then` are faults that begin after it."""

    def __init__(self, kind, command, pattern, times=1, body="", then=()):
        self.kind, self.command, self.pattern, self.left, self.body = kind, command, re.compile(pattern), times, body
        self.then = then

    def matches(self, command, name):
        return command == self.command and self.pattern.search(name)


@pytest.fixture(scope="module")
def front():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    behind = moto.server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    behind.start()
    _, port = behind.get_host_and_port()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Front)
    server.behind, server.faults, server.requests, server.lock = port, [], [], threading.Lock()
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1",
                                 aws_access_key_id=KEY, aws_secret_access_key=SECRET)
    server.client.create_bucket(Bucket=BUCKET)
    yield server
    server.shutdown()
    behind.stop()


@pytest.fixture
def store(front, request):
    """The front, without faults and requests of other tests, and a prefix of this test's own."""
    front.faults.clear()
    front.requests.clear()
    front.prefix = re.sub(r"\W+", "-", request.node.name)
    return front


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """What the same commands write into a folder."""
    home = tmp_path_factory.mktemp("local")
    (home / "pipeline.yaml").write_text(SETTINGS)
    subprocess.run([PROGRAM, "run", *STAGES, "--quiet"], cwd=home, stdout=subprocess.DEVNULL, check=True)
    return home


@pytest.fixture
def home(tmp_path, local):
    (tmp_path / "pipeline.yaml").write_text(SETTINGS)
    (tmp_path / "raw").symlink_to(local / "raw")
    return tmp_path


def environment(store):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return {**kept, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{store.server_port}", "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}


def command(store, *words):
    return [PROGRAM, "run", *words, "--artifacts", f"s3://{BUCKET}/{store.prefix}", "--no-progress"]


def run(store, home, *words, fails=False):
    done = subprocess.run(command(store, *words), cwd=home, env=environment(store), capture_output=True, text=True, timeout=300)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    assert not store.faults, f"{len(store.faults)} faults did not happen"
    return done.stdout + done.stderr


def objects(store):
    """All objects of a test: their bytes by name."""
    pages = store.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{store.prefix}/")
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    return {key.removeprefix(f"{store.prefix}/"): store.client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}


def put(store, name, content):
    store.client.put_object(Bucket=BUCKET, Key=f"{store.prefix}/{name}", Body=content)


def assert_equal_to_local(store, local, stages):
    """The store holds the files of the folder, and nothing else; the records are of the same content."""
    files = {path.relative_to(local / "artifacts").as_posix(): path.read_bytes()
             for stage in stages for path in (local / "artifacts" / stage).rglob("*") if path.is_file()}
    found = objects(store)
    assert sorted(found) == sorted(files)
    for name, content in files.items():
        if name.endswith("record.json"):
            mine, theirs = json.loads(found[name]), json.loads(content)
            assert (mine["key"], mine["content"], mine["rows"]) == (theirs["key"], theirs["content"], theirs["rows"])
            digests = [[(output["path"], output["digest"]) for output in record["outputs"]] for record in (mine, theirs)]
            assert digests[0] == digests[1]
        else:
            assert found[name] == content, name
    return found


def test_the_objects_are_the_files_of_a_run_in_a_folder(store, home, local):
    said = run(store, home, *STAGES)
    assert re.search(r"^dataset +done +2000 images", said, re.M), said
    assert_equal_to_local(store, local, STAGES)
    puts = [name for command, name in store.requests if command == "PUT"]
    assert puts[-1].endswith("augment/record.json")
    said = run(store, home, *STAGES)
    assert re.findall(r"^(\w+) +fresh", said, re.M) == STAGES, said
    assert [name for command, name in store.requests if command == "PUT"] == puts
    assert not list(home.glob("*s3*")) and not (home / "artifacts").exists()


def test_pyarrow_reads_the_shards_where_they_are(store, home, local):
    run(store, home, "dataset")
    s3 = pyarrow.fs.S3FileSystem(access_key=KEY, secret_key=SECRET, region="us-east-1", scheme="http",
                                 endpoint_override=f"127.0.0.1:{store.behind}")
    there = pyarrow.parquet.read_table(f"{BUCKET}/{store.prefix}/dataset/data", filesystem=s3)
    assert there.equals(pyarrow.parquet.read_table(local / "artifacts" / "dataset" / "data"))


def test_parts_at_the_same_time_and_twice_give_the_same_objects(store, home, local):
    run(store, home, "plan")
    said = run(store, home, "dataset", "--commit", fails=True)
    assert f"{SHARDS} of the {SHARDS} shards of these settings and inputs are missing" in said, said
    parts = ["0/3", "1/3", "2/3", "1/3", "0/1"]
    running = [subprocess.Popen(command(store, "dataset", "--part", part), cwd=home, env=environment(store),
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for part in parts]
    for process in running:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
    assert f"0 of {SHARDS} shards written, {SHARDS} were there" in run(store, home, "dataset", "--part", "0/1")
    assert any(name.startswith("dataset.parts/") for name in objects(store))
    commits = [subprocess.Popen(command(store, "dataset", "--commit"), cwd=home, env=environment(store),
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    for process in commits:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
    assert re.search(r"^dataset +fresh", run(store, home, "dataset", "--commit"), re.M)
    assert_equal_to_local(store, local, ["plan", "dataset"])


def test_two_runs_at_the_same_time_agree(store, home, local):
    running = [subprocess.Popen(command(store, *STAGES), cwd=home, env=environment(store),
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    for process in running:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
    run(store, home, *STAGES)
    assert_equal_to_local(store, local, STAGES)


SLOW_DOWN = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@pytest.mark.parametrize("kind, pattern", [
    *[(kind, r"data/train-00003.*\.parquet$") for kind in (500, 503, "cut", "cut after")],
    (500, r"receipts/.*\.json$"),
    ("cut", "plan.parquet$"),
    ("cut after", "dataset/record.json$"),
])
def test_a_fault_that_passes_changes_nothing(store, home, local, kind, pattern):
    store.faults.append(Fault(kind, "PUT", pattern, times=2, body=SLOW_DOWN if kind == 503 else ""))
    run(store, home, "dataset")
    assert_equal_to_local(store, local, ["plan", "dataset"])


@pytest.mark.parametrize("pattern", [r"/plan/record.json$", r"plan.parquet$"])
def test_a_fault_in_reading_that_passes_changes_nothing(store, home, local, pattern):
    run(store, home, "plan")
    store.faults.append(Fault(503, "GET", pattern, times=2, body=SLOW_DOWN))
    run(store, home, "dataset")
    assert_equal_to_local(store, local, ["plan", "dataset"])


def test_a_fault_that_stays_ends_the_command_and_the_next_one_goes_on(store, home, local):
    answer = ("<Error><Code>AccessDenied</Code><Message>Not yours.</Message>"
              f"<AWSAccessKeyId>{KEY}</AWSAccessKeyId><StringToSign>{SECRET}</StringToSign></Error>")
    store.faults.append(Fault(403, "PUT", r"data/val-00002.*\.parquet$", body=answer))
    said = run(store, home, "dataset", fails=True)
    assert re.search(rf"error: `s3://{BUCKET}/{store.prefix}/dataset/data/val-00002-of-00004.parquet`: cannot write it: .*AccessDenied: Not yours\.", said), said
    assert KEY not in said and SECRET not in said
    before = objects(store)
    assert "dataset/record.json" not in before
    store.requests.clear()
    run(store, home, "dataset")
    assert_equal_to_local(store, local, ["plan", "dataset"])
    again = [name for command, name in store.requests
             if command == "PUT" and name.endswith(".parquet") and name.removeprefix(f"/{BUCKET}/{store.prefix}/") in before]
    receipts = {name.split("receipts/")[1].removesuffix(".json") for name in before if name.endswith(".json") and "receipts/" in name}
    assert receipts and not [name for name in again if name.split("dataset/")[1].removesuffix(".parquet") in receipts]


def test_a_kill_leaves_nothing_that_the_same_command_does_not_finish(store, home, local):
    run(store, home, "plan")
    for shards in (1, 5, 12):
        process = subprocess.Popen(command(store, "dataset"), cwd=home, env=environment(store),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            if sum(name.endswith(".parquet") for method, name in store.requests if method == "PUT") > shards:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        process.wait()
    run(store, home, "dataset")
    assert_equal_to_local(store, local, ["plan", "dataset"])


def test_nothing_that_stands_is_replaced(store, home, local):
    put(store, "dataset/data/train-00001-of-00013.parquet", b"mine")
    said = run(store, home, "dataset", fails=True)
    assert f"`s3://{BUCKET}/{store.prefix}/dataset/data/train-00001-of-00013.parquet`: another object; expected none, or one of" in said, said
    assert objects(store)["dataset/data/train-00001-of-00013.parquet"] == b"mine"
    store.prefix += "-2"
    run(store, home, "dataset")
    before = objects(store)
    said = run(store, home, "dataset", "--set", "plan.seed=1", fails=True)
    assert re.search(r"/plan`: holds what other settings or inputs gave \(plan.seed: \d+ -> 1\)", said), said
    said = run(store, home, "dataset", "--set", "dataset.pixels=true", fails=True)
    assert "dataset.pixels: false -> true" in said, said
    assert objects(store) == before


def test_a_record_that_cannot_be_put_leaves_the_stage_unfinished(store, home, local):
    run(store, home, "plan")
    denied = "<Error><Code>AccessDenied</Code></Error>"
    for words in (["dataset"], ["dataset", "--commit"]):
        unreadable = Fault(403, "GET", "dataset/record.json$", body=denied)
        store.faults.append(Fault(403, "PUT", "dataset/record.json$", body=denied, then=[unreadable]))
        assert "dataset/record.json`: cannot write it" in run(store, home, *words, fails=True)
        assert "dataset/record.json" not in objects(store)
    run(store, home, "dataset")
    assert_equal_to_local(store, local, ["plan", "dataset"])


def test_a_bucket_that_does_not_exist_is_named_before_any_work(store, tmp_path):
    (tmp_path / "pipeline.yaml").write_text(SETTINGS)
    words = [PROGRAM, "run", "plan", "--artifacts", "s3://no-such-bucket/x", "--no-progress"]
    done = subprocess.run(words, cwd=tmp_path, env=environment(store), capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert re.search(r"`s3://no-such-bucket/x/plan`: cannot list it: .*no-such-bucket", done.stderr), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline.yaml"]


def test_writers_that_the_store_sends_back_try_again(store, home, local):
    conflict = "<Error><Code>ConditionalRequestConflict</Code></Error>"
    for pattern in (r"data/val-00000.*\.parquet$", "plan.parquet$", "dataset/record.json$"):
        store.faults.append(Fault(409, "PUT", pattern, body=conflict))
    run(store, home, "dataset")
    assert_equal_to_local(store, local, ["plan", "dataset"])


def test_shards_of_other_settings_are_not_mixed_in(store, home):
    run(store, home, "plan")
    denied = "<Error><Code>AccessDenied</Code></Error>"
    store.faults.append(Fault(403, "PUT", r"data/test-00001.*\.parquet$", body=denied))
    run(store, home, "dataset", fails=True)
    before = objects(store)
    for words in (["dataset"], ["dataset", "--part", "0/2"], ["dataset", "--commit"]):
        said = run(store, home, *words, "--set", "dataset.rows_per_shard=200", fails=True)
        assert re.search(r"/dataset.parts`: \w+/receipts/.*, from parts with other settings or inputs; expected none", said), said
    assert objects(store) == before
    run(store, home, "dataset")
    put(store, "dataset/data/train-extra.parquet", b"mine")
    said = run(store, home, "dataset", fails=True)
    assert "/dataset`: 1 object that is not one of these settings and inputs (data/train-extra.parquet)" in said, said


def test_two_plans_at_the_same_time_are_not_mixed(store, home):
    commands = [[*command(store, "plan"), "--set", f"plan.seed={seed}", "--set", "plan.samples_per_class=20000"] for seed in (0, 1)]
    running = [subprocess.Popen(words, cwd=home, env=environment(store), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
               for words in commands]
    said = [process.communicate(timeout=300)[0] for process in running]
    assert sorted(process.returncode for process in running) == [0, 1], said
    winner = [process.returncode for process in running].index(0)
    done = subprocess.run(commands[winner], cwd=home, env=environment(store), capture_output=True, text=True, timeout=300)
    assert re.search("^plan +fresh", done.stdout, re.M), done.stdout + done.stderr


@pytest.mark.parametrize("damage", ["lost", "cut"])
def test_receipts_that_are_damaged_are_made_again(store, home, local, damage):
    run(store, home, "plan")
    run(store, home, "dataset", "--part", "0/1")
    name = next(name for name in objects(store) if name.endswith("val-00001-of-00004.rows"))
    store.client.delete_object(Bucket=BUCKET, Key=f"{store.prefix}/{name}")
    if damage == "cut":
        put(store, name, b"x")
        said = run(store, home, "dataset", fails=True)
        assert f"/{name}`: another object" in said, said
        store.client.delete_object(Bucket=BUCKET, Key=f"{store.prefix}/{name}")
    assert "1 of 21 shards written, 20 were there" in run(store, home, "dataset", "--part", "0/1")
    run(store, home, "dataset", "--commit")
    assert_equal_to_local(store, local, ["plan", "dataset"])


def test_receipts_that_a_kill_left_are_removed_by_the_next_command(store, home, local):
    run(store, home, "plan")
    store.faults.append(Fault(403, "POST", "", times=1000, body="<Error><Code>AccessDenied</Code></Error>"))
    done = subprocess.run(command(store, "dataset"), cwd=home, env=environment(store), capture_output=True, text=True, timeout=300)
    store.faults.clear()
    assert done.returncode == 0 and "warning: receipts of dataset stay" in done.stderr, done.stderr
    assert any("receipts" in name for name in objects(store))
    assert re.search("^dataset +fresh", run(store, home, "dataset"), re.M)
    assert_equal_to_local(store, local, ["plan", "dataset"])


def test_an_interruption_ends_a_request_that_nobody_answers(store, home):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(command(store, "plan"), cwd=home, env={**environment(store), "AWS_ENDPOINT_URL": address},
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        silent.accept()
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=20)
    assert process.returncode == 130 and "error: interrupted" in said, said


@pytest.mark.parametrize("variables, said", [
    ({"AWS_ENDPOINT_URL": "http://me:hunter2@127.0.0.1:1"}, "`AWS_ENDPOINT_URL`: found an address with a user or a password"),
    ({"AWS_ENDPOINT_URL": "not-a-url"}, "`AWS_ENDPOINT_URL`: found no address; expected an address such as https://HOST:PORT"),
    ({"AWS_ACCESS_KEY_ID": None}, "Missing AccessKeyId; expected the environment variables of the store, such as AWS_ACCESS_KEY_ID"),
    ({"AWS_ALLOW_HTTP": "false"}, "URL scheme is not allowed"),
])
def test_an_environment_that_leads_nowhere_is_named(store, home, variables, said):
    changed = {name: value for name, value in {**environment(store), **variables}.items() if value is not None}
    done = subprocess.run(command(store, "plan"), cwd=home, env=changed, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and said in done.stderr and "hunter2" not in done.stderr, done.stderr


def test_an_object_that_is_lost_or_damaged_is_named(store, home):
    run(store, home, "plan")
    name = "plan/plan.parquet"
    content = objects(store)[name]
    put(store, name, content[:-1])
    said = run(store, home, "dataset", fails=True)
    assert f"s3://{BUCKET}/{store.prefix}/plan`: plan.parquet is missing, or has another size" in said, said
    put(store, name, bytes([content[0] ^ 1]) + content[1:])
    said = run(store, home, "dataset", fails=True)
    assert f"`s3://{BUCKET}/{store.prefix}/plan/plan.parquet`: its bytes are not those that were recorded" in said, said
    put(store, "plan/record.json", b"{")
    said = run(store, home, "dataset", fails=True)
    assert f"`s3://{BUCKET}/{store.prefix}/plan/record.json`: not a record" in said, said


@pytest.mark.parametrize("words, said", [
    (["train"], "found the address of an object store for train; expected one of plan, dataset, augment"),
    ([], "found the address of an object store for no stage"),
    (["dataset", "--force"], "`--force`: found one beside the address of an object store"),
    (["plan", "--part", "0/2"], "plan: cannot be made in parts"),
    (["dataset", "--part", "0/2"], "dataset: its input plan is stale (it is not in `s3://"),
])
def test_what_an_object_store_cannot_have_is_refused(store, home, words, said):
    assert said in run(store, home, *words, fails=True)
    assert objects(store) == {}


def test_only_run_knows_addresses(store, home):
    for words in (["status"], ["verify"], ["clean"], ["export", "tree"]):
        done = subprocess.run([PROGRAM, *words, "--artifacts", "s3://a/b"], cwd=home, capture_output=True, text=True)
        assert done.returncode == 2 and "expected a folder: only `run` knows addresses" in done.stderr, done.stderr
    assert not list(home.glob("s3*"))


def test_a_folder_by_its_address_is_a_store_too(home, local):
    artifacts = home / "there"
    subprocess.run([PROGRAM, "run", *STAGES, "--quiet", "--artifacts", f"file://{artifacts}"],
                   cwd=home, stdout=subprocess.DEVNULL, check=True)
    for stage in STAGES:
        files = {path.relative_to(root).as_posix(): path.read_bytes() for root in [local / "artifacts"]
                 for path in (root / stage).rglob("*") if path.is_file() and path.name != "record.json"}
        assert files == {path.relative_to(artifacts).as_posix(): path.read_bytes() for path in (artifacts / stage).rglob("*")
                         if path.is_file() and path.name != "record.json"}
