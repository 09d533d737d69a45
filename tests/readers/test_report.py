"""The report in a real browser: headless Chromium, spoken to by its own DevTools protocol.

Four pages are made in folders of pytest's own: of a data set without runs, of an evaluated run, of the runs of a sweep, and
of runs that never ended. Each is opened as a file, on a phone and on a desk, light and dark. What is looked at is what a
reader would trip over: errors in the console, requests to anywhere, anything wider than the screen, pictures without a word
for those who do not see them, tables without a caption, headings out of order, text that is hard to read. The model card is
read by the library that Hugging Face reads it with.

    MULTIDIGIT                  the program, default target/release/multidigit
    MULTIDIGIT_REQUIRE_BROWSER  set and not empty: no browser is a failure, not a reason to skip
"""

import base64
import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from browser import browser  # noqa: F401 (a fixture)
from huggingface_hub import ModelCard
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("MULTIDIGIT") or ROOT / "target" / "release" / "multidigit").resolve()
SETTINGS = ["raw.source=synthetic", "plan.samples_per_class=8", "train.model=fcn", "train.epochs=2", "train.samples=64",
            "train.batch_size=32", "train.augment=false", "train.run=short"]
# Runs with names as long as names are.
SWEEP = """
description: Four groups of runs.
settings:
  train: {model: towers, trunk: {channels: 4}, samples: 12800, val_samples: 64, batch_size: 32, augment: false, epochs: 2}
grid:
  train.learning_rate: [0.01, 0.003, 0.001, 0.00025]
  train.seed: [0, 1, 2]
"""
PHONE, DESK = 390, 1280


def call(folder, *arguments, settings=SETTINGS):
    sets = [word for key in settings for word in ("--set", key)]
    done = subprocess.run([PROGRAM, *arguments, *sets], cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return folder / "artifacts" / "report" / "index.html"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page of each state, by name. The report of runs that never ended stands beside an evaluated one."""
    none, some, many = (tmp_path_factory.mktemp(name) for name in ("none", "some", "many"))
    found = {"no runs": call(none, "report"), "a run": call(some, "run", "train", "evaluate", "report")}
    (many / "rates.yaml").write_text(SWEEP)
    call(many, "sweep", "rates.yaml", settings=SETTINGS[:2])
    several = call(many, "report", settings=SETTINGS[:2])
    cut = none / "artifacts" / "train" / "cut.unfinished"
    cut.mkdir(parents=True)
    (cut / "config.yaml").write_text("train: {model: fcn, learning_rate: 0.001, epochs: 30, seed: 0}\n")
    shutil.copy(some / "artifacts" / "train" / "short" / "metrics.csv", cut)
    (cut / ".multidigit").touch()
    (cut / "stopped.json").write_text(json.dumps({"step": 9, "epoch": 3, "loss": "NaN", "message": "the loss is NaN"}))
    kept = none.with_name("no-runs.html")
    shutil.copy(found["no runs"], kept)
    return {"no runs": kept, "a run": found["a run"], "several runs": several, "a run that stopped": call(none, "report")}


STATES = ["no runs", "a run", "several runs", "a run that stopped"]


@pytest.fixture(scope="module", params=[(state, width, scheme) for state in STATES for width in (PHONE, DESK)
                                        for scheme in ("light", "dark")], ids=lambda p: f"{p[0]}-{p[1]}-{p[2]}")
def shown(request, pages, browser):
    state, width, scheme = request.param
    browser.open(pages[state], width, scheme)
    heard = list(browser.events)
    browser.value("document.querySelectorAll('details').forEach(part => part.open = true)")
    browser.value("Promise.all([...document.images].map(image => image.decode())).then(() => true)")
    return request.param, heard, browser


def luminance(colour):
    def linear(value):
        value /= 255
        return value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4

    return sum(weight * linear(value) for weight, value in zip((0.2126, 0.7152, 0.0722), colour))


def contrast(a, b):
    """WCAG's, from 1 to 21."""
    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def rgb(text):
    numbers = text[text.index("(") + 1 : -1].replace(",", " ").split()
    return [float(number) for number in numbers[:3]]


def test_the_console_is_silent_and_nothing_is_asked_of_any_network(shown):
    (state, width, scheme), heard, browser = shown
    loud = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    assert [event for event in heard + browser.events if event["method"] in loud] == []
    asked = [event["params"]["request"]["url"] for event in heard if event["method"] == "Network.requestWillBeSent"]
    assert len([url for url in asked if url.startswith("file:")]) == 1
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert browser.value("document.scripts.length") == 0


def test_nothing_is_wider_than_the_screen(shown):
    (state, width, scheme), _, browser = shown
    assert browser.value("document.documentElement.clientWidth") == width
    assert browser.value("document.documentElement.scrollWidth") <= width
    # what may be wider scrolls in a box of its own, which is not
    wide = browser.value("""[...document.body.querySelectorAll('*')]
        .filter(part => !part.closest('.wide') || part.matches('.wide'))
        .filter(part => part.getBoundingClientRect().right > innerWidth + 0.5)
        .map(part => part.tagName + '.' + part.className)""")
    assert wide == []
    if width == DESK:
        boxes = """[...document.querySelectorAll('.wide:has(table)')]
            .map(box => [box.ariaLabel, box.scrollWidth - box.clientWidth])"""
        assert [name for name, over in browser.value(boxes) if over > 0] == [], "a table is to be seen whole on a desk"
    if width == PHONE:
        boxes = "[...document.querySelectorAll('.map')].map(box => box.scrollWidth - box.clientWidth)"
        assert all(over <= 0 for over in browser.value(boxes)), "a map is to be seen whole on a phone"


def test_headings_pictures_and_tables_speak_to_everyone(shown):
    (state, width, scheme), _, browser = shown
    levels = browser.value("[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(part => +part.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:])), levels
    sections = browser.value("[...document.querySelectorAll('h2')].map(part => part.textContent)")
    expected = ["Results", "Runs", "Data", "Augmentation", "Origin"]
    assert sections == [name for name in expected if name != "Runs" or state != "no runs"]
    images = browser.value("[...document.images].map(i => [i.alt.trim().length, i.naturalWidth, i.complete])")
    assert images and all(words > 10 and wide > 0 and complete for words, wide, complete in images)
    captions = browser.value("[...document.querySelectorAll('table')].map(t => t.caption?.textContent.trim() || '')")
    assert captions and all(captions)
    assert browser.value("document.querySelectorAll('th:not([scope])').length") == 0
    assert browser.value("document.documentElement.lang") == "en"
    dead = "[...document.querySelectorAll('a')].filter(a => !document.querySelector(a.getAttribute('href'))).length"
    assert browser.value(dead.replace("a.getAttribute('href')", "'#' + CSS.escape(a.getAttribute('href').slice(1))")) == 0
    assert browser.value("new Set([...document.querySelectorAll('[id]')].map(p => p.id)).size") == browser.value(
        "document.querySelectorAll('[id]').length")


def test_the_chart_of_several_runs_names_them(shown):
    (state, width, scheme), _, browser = shown
    charts = browser.value("[...document.querySelectorAll('.overlay img')].map(image => image.alt)")
    if state != "several runs":
        assert charts == [], "there is nothing to compare"
        return
    (alt,) = charts
    assert alt.startswith("Accuracy on val after each epoch. ")
    groups = browser.value("[...document.querySelectorAll('table')].find(t => t.caption.textContent.includes('seed alone'))"
                           "?.querySelectorAll('tbody tr').length")
    assert groups == alt.count(", 3 seeds, ") == 4
    box = "(b => b.width > 300 && b.right <= innerWidth)(document.querySelector('.overlay img').getBoundingClientRect())"
    assert browser.value(box)


def test_light_is_light_dark_is_dark_and_both_can_be_read(shown):
    (state, width, scheme), _, browser = shown
    browser.value("scrollTo(0, 0)")
    corner = browser.picture().getpixel((2, 2))
    assert (luminance(corner) > 0.8) if scheme == "light" else (luminance(corner) < 0.05), corner
    colours = browser.value("""[...document.querySelectorAll('p, td.words, th, caption, figcaption, li, a, summary, h2')]
        .map(part => getComputedStyle(part).color)""")
    paper = rgb(browser.value("getComputedStyle(document.body).backgroundColor"))
    poor = {colour for colour in colours if contrast(rgb(colour), paper) < 4.5}
    assert poor == set()
    if state != "no runs":
        # the curves are drawn for the page's own ground
        box = browser.value("""(() => { const box = document.querySelector('.plot img').getBoundingClientRect();
            return [box.left, box.top + scrollY, box.width, box.height] })()""")
        left, top, wide, high = box
        clip = {"x": left, "y": top, "width": wide, "height": high, "scale": 1}
        data = browser.ask("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)["data"]
        plot = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
        ground = luminance(max(plot.getcolors(1 << 24))[1])
        assert (ground > 0.8) if scheme == "light" else (ground < 0.05)


def test_a_page_is_small(pages):
    assert all(page.stat().st_size < 5_000_000 for page in pages.values())


def test_the_header_of_the_model_card_of_an_average_has_every_field():
    """The card in tests/golden, which tests/integration/report.rs compares with the program's own."""
    card = ModelCard((ROOT / "tests" / "golden" / "card.snap").read_text(encoding="utf-8").split("---\n", 2)[2])
    header = card.data.to_dict()
    index = header.pop("model-index")
    assert header == {"license": "cc0-1.0", "library_name": "multidigit", "pipeline_tag": "image-classification",
                      "tags": ["mnist", "multi-label", "safetensors", "towers"], "metrics": ["accuracy", "f1"]}
    (model,) = index
    assert model["name"] == "towers-lr0.01-seed0-ema0.99"
    assert [result["dataset"]["split"] for result in model["results"]] == ["val", "test"]
    for result in model["results"]:
        assert result["task"] == {"type": "image-classification", "name": "Multi-digit recognition"}
        assert (result["dataset"]["name"], result["dataset"]["type"]) == ("DoubleSynthetic", "doublesynthetic")
        kinds = [metric["type"] for metric in result["metrics"]]
        assert kinds == ["accuracy", "loss", "accuracy", "f1", "accuracy", "f1", "ece"]
        assert all(isinstance(metric["value"], (int, float)) for metric in result["metrics"])
    words = ("one head for all digits. Trained by", "the weights are the moving average after epoch 4.",
             "| `train.ema` | 0.99 |", "Or load `weights/ema.safetensors`")
    assert [word for word in words if word not in card.text] == []


def test_the_model_card_says_in_its_header_what_metrics_json_says(pages):
    home = pages["a run"].parents[1]
    metrics = json.loads((home / "evaluate" / "short" / "metrics.json").read_text())
    card = ModelCard.load(home / "evaluate" / "short" / "README.md")
    assert (card.data.license, card.data.pipeline_tag) == ("cc0-1.0", "image-classification")
    assert card.data.model_name == "short"
    assert {"accuracy", "f1"} <= set(card.data.metrics)
    found = {(row.dataset_split, row.metric_name): row.metric_value for row in card.data.eval_results}
    for split in metrics["splits"]:
        name = split["split"]
        assert found[name, "joint-digit accuracy"] == split["accuracy"]["value"]
        assert found[name, "loss"] == split["loss"]
        for position in split["positions"]:
            assert found[name, f"accuracy of digit {position['position']}"] == position["accuracy"]["value"]
            assert found[name, f"macro F1 of digit {position['position']}"] == position["macro_f1"]
    assert {row.dataset_name for row in card.data.eval_results} == {"DoubleSynthetic"}
    assert {row.task_type for row in card.data.eval_results} == {"image-classification"}
