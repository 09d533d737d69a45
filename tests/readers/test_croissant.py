"""The description of the default data set in the format Croissant, read by mlcroissant and, for what mlcroissant does not know,
as RDF by rdflib.

    MULTIDIGIT_DATASET  the data set's folder, default artifacts/dataset; the plan is looked for beside it
"""

import hashlib
import io
import itertools
import json
import os
from pathlib import Path

import mlcroissant
import numpy as np
import pyarrow.parquet as pq
import pytest
import rdflib
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DATASET = Path(os.environ.get("MULTIDIGIT_DATASET") or ROOT / "artifacts" / "dataset").resolve()
FILE = DATASET / "croissant.json"
PROV = rdflib.Namespace("http://www.w3.org/ns/prov#")
RAI = rdflib.Namespace("http://mlcommons.org/croissant/RAI/")
SCHEMA = rdflib.Namespace("https://schema.org/")
SPLITS = ("train", "val", "test")
# What only the publisher of the data set knows.
LEFT_OPEN = {"https://schema.org/datePublished"}


@pytest.fixture(scope="module")
def described():
    return mlcroissant.Dataset(jsonld=FILE)


@pytest.fixture(scope="module")
def graph():
    return rdflib.Graph().parse(FILE, format="json-ld", base="https://example.org/")


def test_mlcroissant_finds_no_error_and_misses_only_what_the_publisher_adds(described):
    issues = described.metadata.ctx.issues
    assert issues.errors == set()
    assert all(any(left in warning for left in LEFT_OPEN) for warning in issues.warnings), issues.warnings
    assert described.metadata.ctx.is_v1_1()


@pytest.mark.parametrize("split", SPLITS)
def test_mlcroissant_loads_the_records_that_the_shards_hold(described, split):
    shard = sorted((DATASET / "data").glob(f"{split}-*.parquet"))[0]
    rows = next(pq.ParquetFile(shard).iter_batches(10)).to_pylist()
    records = list(itertools.islice(described.records(split), 10))
    assert len(records) == 10
    for row, record in zip(rows, records):
        assert list(record) == [f"{split}/{name}" for name in row]
        image = record.pop(f"{split}/image")
        assert np.array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(row.pop("image")["bytes"]))))
        # lists of NumPy's integers
        assert json.loads(json.dumps(record, default=int)) == {f"{split}/{name}": value for name, value in row.items()}


def test_every_shard_is_listed_with_its_sha256():
    listed = {part["contentUrl"]: part for part in json.loads(FILE.read_text())["distribution"] if "contentUrl" in part}
    shards = sorted((DATASET / "data").glob("*.parquet"))
    assert sorted(listed) == [f"data/{path.name}" for path in shards]
    for path in shards:
        part = listed[f"data/{path.name}"]
        assert part["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert part["contentSize"] == f"{path.stat().st_size} B"


def test_the_provenance_names_glyphs_and_plan_by_the_digests_of_their_records(graph):
    plan = json.loads((DATASET.parent / "plan" / "record.json").read_text())
    facts = json.loads(pq.ParquetFile(DATASET.parent / "plan" / "plan.parquet").metadata.metadata[b"multidigit"])
    digests = {f"blake3:{facts['glyphs']['digest']}", f"blake3:{plan['content']}"}
    sources = set(graph.objects(None, PROV.wasDerivedFrom))
    assert {str(graph.value(source, SCHEMA.identifier)) for source in sources} == digests
    activity = next(graph.objects(None, PROV.wasGeneratedBy))
    assert set(graph.objects(activity, PROV.used)) == sources
    settings = next(text for source in sources for text in graph.objects(source, PROV.value))
    assert json.loads(settings) == facts["plan"]


def test_the_properties_for_responsible_ai_are_those_that_neurips_asks_for(graph):
    asked = ["dataLimitations", "dataBiases", "personalSensitiveInformation", "dataUseCases", "dataSocialImpact"]
    for name in [*asked, "dataCollection"]:
        assert all(len(str(text)) > 20 for text in graph.objects(None, RAI[name])), name
        assert next(graph.objects(None, RAI[name]), None) is not None, name
    assert next(graph.objects(None, RAI.hasSyntheticData)).toPython() is True
