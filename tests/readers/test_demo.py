"""The page that `multidigit export demo` writes, in a real browser.

Small networks of every architecture are trained on synthetic glyphs, in pytest's own folder. Each page is opened as a file. Its
answers for images of the test split are compared with those of `multidigit predict`, and a mouse and a finger draw on it.

    MULTIDIGIT                  the program, default target/release/multidigit
    MULTIDIGIT_REQUIRE_BROWSER  set and not empty: no browser is a failure, not a reason to skip
"""

import base64
import json
import os
import re
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from browser import SECONDS, browser  # noqa: F401 (a fixture)
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("MULTIDIGIT") or ROOT / "target" / "release" / "multidigit").resolve()
PHONE, DESK = 390, 1280
SETTINGS = ["raw.source=synthetic", "train.epochs=2", "train.samples=64", "train.batch_size=32", "train.augment=false"]
IMAGES = 100
# By the name of a data set: its settings. The numbers of samples give 100 images in each test split, and 200 in that of triples.
DATA = {
    "pairs": ["plan.samples_per_class=5"],
    "low pairs": ["plan.samples_per_class=5", "plan.image_size=[28, 57]"],
    "singles": ["plan.digits=1", "plan.image_size=[30, 41]", "plan.samples_per_class=50", "plan.split.by=sample"],
    "triples": ["plan.digits=3", "plan.image_size=[50, 91]", "plan.samples_per_class=1"],
}
# By the name of a run: its data set, its network and further settings. The ResNet takes small images, since it is slow.
RUNS = {
    "towers": ("pairs", "towers", []),
    "attention": ("pairs", "attention", []),
    "alexnet": ("pairs", "alexnet", []),
    "fcn": ("pairs", "fcn", []),
    "resnet": ("low pairs", "resnet", []),
    "narrow": ("singles", "towers", ["train.trunk.channels=6", "train.trunk.margin=0", "train.trunk.pool=mean"]),
    "three": ("triples", "towers", ["train.trunk.channels=16"]),
    "three seeking": ("triples", "attention", ["train.trunk.channels=5"]),
}


def multidigit(home, *words, settings=()):
    sets = [word for setting in settings for word in ("--set", setting)]
    done = subprocess.run([PROGRAM, *words, *sets, "--quiet"], cwd=home, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    """The folder of each data set, with the images of its test split in `tree`."""
    folders = {}
    for name, settings in DATA.items():
        folders[name] = tmp_path_factory.mktemp(name.replace(" ", "-"))
        multidigit(folders[name], "run", "dataset", settings=[*SETTINGS, *settings])
        multidigit(folders[name], "export", "tree", "--splits", "test", "--out", "tree")
    return folders


@pytest.fixture(scope="module")
def export(homes):
    """Trains and exports a run, once; its folder of artifacts and its page."""
    done = {}

    def export(run):
        if run not in done:
            data, model, more = RUNS[run]
            settings = [*SETTINGS, *DATA[data], f"train.model={model}", f'train.run="{run}"', *more]
            multidigit(homes[data], "run", "evaluate" if run == "towers" else "train", settings=settings)
            told = multidigit(homes[data], "export", "demo", "--run", run)
            assert told == f"artifacts/export/{run}-demo.html\n"
            done[run] = homes[data], homes[data] / told.strip()
        return done[run]

    return export


@pytest.mark.parametrize("run", RUNS)
def test_the_page_gives_the_answers_of_predict(export, browser, run):
    home, page = export(run)
    files = sorted((home / "tree").rglob("*.png"))[:IMAGES]
    assert len(files) == IMAGES
    told = json.loads(multidigit(home, "predict", *files, "--run", run, "--json"))
    browser.open(page, DESK, "light")
    found = []
    for start in range(0, IMAGES, 10):
        pixels = [np.asarray(Image.open(file)).ravel().tolist() for file in files[start : start + 10]]
        found += browser.value(f"""(async () => {{
            const readings = [];
            for (const pixels of {pixels}) readings.push(await multidigit.read(pixels));
            return readings;
        }})()""")
    for file, here, there in zip(files, found, told, strict=True):
        probabilities = [position["probabilities"] for position in there["positions"]]
        assert np.allclose(here["probabilities"], probabilities, rtol=0, atol=1e-4), file
        assert "".join(map(str, here["digits"])) == there["digits"], file


# ---- drawing


class Page:
    """A page in the browser, with a hand that draws. Places are shares of the drawing area's width and height."""

    def __init__(self, browser, page, width=DESK, scheme="light"):
        self.browser = browser
        browser.open(page, width, scheme)
        assert self.reading() == "Nothing is drawn."

    def value(self, expression):
        return self.browser.value(expression)

    def reading(self):
        """What the page says to those who do not see it, once the network has read the last state of the drawing."""
        late = time.monotonic() + SECONDS
        while self.value("document.getElementById('reading').ariaBusy") != "false":
            assert time.monotonic() < late, "the network does not answer"
            time.sleep(0.02)
        return self.value("document.getElementById('status').textContent")

    def positions(self):
        """The positions, counted from 1, of which there is a reading."""
        return [int(position) for position in re.findall(r"digit (\d) is \d, [\d.]+%", self.reading())]

    def digits(self):
        return self.value("[...document.querySelectorAll('.digit')].map(digit => digit.textContent)")

    def click(self, selector):
        self.value(f"document.querySelector({json.dumps(selector)}).click()")

    def seen(self):
        """The image that the network reads."""
        values = self.value("""(() => {
            const canvas = document.getElementById('seen');
            const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
            return { shape: [canvas.height, canvas.width], grey: [...data].filter((_, i) => i % 4 === 0) };
        })()""")
        return np.array(values["grey"], np.uint8).reshape(values["shape"])

    def places(self, points):
        left, top, width, height = self.value("""(() => {
            const box = document.getElementById('drawing').getBoundingClientRect();
            return [box.left, box.top, box.width, box.height];
        })()""")
        corners = [np.array([left + x * width, top + y * height]) for x, y in points]
        steps = np.linspace(0, 1, 6)[1:]
        return [corners[0], *(a + (b - a) * step for a, b in zip(corners, corners[1:]) for step in steps)]

    def draw(self, *points):
        def mouse(kind, place, buttons):
            x, y = place.tolist()
            self.browser.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=buttons, clickCount=1)

        first, *others = self.places(points)
        mouse("mousePressed", first, 1)
        for place in others:
            mouse("mouseMoved", place, 1)
        mouse("mouseReleased", others[-1], 0)

    def touch(self, *points):
        def finger(kind, places):
            touches = [dict(zip("xy", place.tolist())) for place in places]
            self.browser.ask("Input.dispatchTouchEvent", type=kind, touchPoints=touches)

        first, *others = self.places(points)
        finger("touchStart", [first])
        for place in others:
            finger("touchMove", [place])
        finger("touchEnd", [])


ONE = (0.25, 0.3), (0.22, 0.7)
SEVEN = (0.6, 0.3), (0.85, 0.3), (0.7, 0.75)


@pytest.fixture(scope="module")
def pairs(export):
    return export("towers")[1]


def test_digits_are_read_as_they_are_drawn(pairs, browser):
    page = Page(browser, pairs)
    disabled = "['undo', 'clear'].map(id => document.getElementById(id).disabled)"
    assert page.digits() == ["–", "–"] and page.value(disabled) == [True, True]
    page.draw(*ONE)
    assert page.positions() == [1]
    one, none = page.digits()
    assert one.isdigit() and none == "–"
    page.draw(*SEVEN)
    assert page.positions() == [1, 2]
    reading = page.value(f"multidigit.read({page.seen().ravel().tolist()})")
    assert page.digits() == list(map(str, reading["digits"]))
    shares = page.value("[...document.querySelectorAll('.share')].map(share => share.textContent)")
    expected = [100 * share for position in reading["probabilities"] for share in position]
    assert [float(share.rstrip("%")) for share in shares] == pytest.approx(expected, abs=0.06)

    page.click("#undo")
    assert page.positions() == [1] and page.value(disabled) == [False, False]
    page.click("#clear")
    assert page.reading() == "Nothing is drawn." and not page.seen().any() and page.value(disabled) == [False, True]
    page.click("#undo")
    assert page.positions() == [1]


def test_a_finger_draws_and_does_not_scroll_the_page(pairs, browser):
    browser.ask("Emulation.setTouchEmulationEnabled", enabled=True)
    page = Page(browser, pairs, PHONE)
    page.touch(*SEVEN)
    assert page.positions() == [2] and page.value("scrollY") == 0
    browser.ask("Emulation.setTouchEmulationEnabled", enabled=False)


def test_drawn_digits_get_the_size_of_mnist_and_stay_in_their_fields(pairs, browser):
    page = Page(browser, pairs)
    for left, top, side in [(0.02, 0.02, 0.4), (0.38, 0.9, 0.08), (0.1, 0.3, 0.2)]:
        page.draw((left, top), (left + side / 2, top), (left + side / 2, top + side))
        assert page.positions() == [1]
        ink = page.seen()
        rows, columns = (np.flatnonzero(ink.any(axis)) for axis in (1, 0))
        assert np.ptp(rows) + 1 in (20, 21), "as tall as MNIST's digits, wherever the edge of a pixel is"
        assert columns.max() < 32
        assert ink.max() == 255 and ((ink > 0) & (ink < 255)).any(), "white strokes with soft edges"
        page.click("#clear")
    # a dot stays a dot
    page.draw((0.2, 0.5), (0.2, 0.5))
    assert page.positions() == [1] and np.ptp(np.flatnonzero(page.seen().any(1))) <= 4


def test_test_images_are_read_unchanged(pairs, export, browser):
    home, _ = export("towers")
    page = Page(browser, pairs)
    split = {}
    for file in (home / "tree").rglob("*.png"):
        split[np.asarray(Image.open(file)).tobytes()] = file.parent.name
    names = page.value("[...document.querySelectorAll('#examples button')].map(button => button.ariaLabel)")
    assert len(names) == 12
    for number, name in enumerate(names, 1):
        page.click(f"#examples button:nth-child({number})")
        assert page.positions() == [1, 2]
        assert name == f"Show a test image of {split[page.seen().tobytes()]}"
    # a stroke begins a new drawing
    page.draw(*ONE)
    assert page.positions() == [1]


def test_the_keyboard_reaches_every_button(pairs, browser):
    page = Page(browser, pairs)

    def press(key, code, text=""):
        for kind in ("keyDown", "keyUp"):
            browser.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)

    def name():
        return page.value("document.activeElement.ariaLabel ?? document.activeElement.textContent")

    press("Tab", 9)
    first = name()
    assert first.startswith("Show a test image of "), "without a drawing, nothing can be undone or cleared"
    press("Enter", 13, "\r")
    assert page.positions() == [1, 2]
    found = {first}
    for _ in range(20):
        press("Tab", 9)
        found.add(name())
    assert {"Undo", "Clear"} < found
    page.value("document.getElementById('undo').focus()")
    press("Enter", 13, "\r")
    assert page.reading() == "Nothing is drawn."


# ---- the page


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("run", ["towers", "narrow", "three"])
def test_the_page_fits_the_screen_asks_nothing_of_any_network_and_the_console_is_silent(export, browser, run, width, scheme):
    page = Page(browser, export(run)[1], width, scheme)
    page.draw(*ONE)
    assert page.positions() == [1]
    assert page.value("document.documentElement.clientWidth") == width
    assert page.value("document.documentElement.scrollWidth") <= width
    wide = page.value("""[...document.body.querySelectorAll('*')]
        .filter(part => part.getBoundingClientRect().right > innerWidth + 0.5).map(part => part.tagName)""")
    assert wide == []
    loud = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    assert [event for event in browser.events if event["method"] in loud] == []
    asked = [event["params"]["request"]["url"] for event in browser.events if event["method"] == "Network.requestWillBeSent"]
    # the page itself; the worker's script is made from its text
    assert [url for url in asked if not url.startswith("blob:null/")] == [export(run)[1].as_uri()]
    levels = page.value("[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(part => +part.tagName[1])")
    assert levels[0] == 1 and set(levels[1:]) == {2}
    assert page.value("document.documentElement.lang") == "en"
    assert page.value("[...document.querySelectorAll('canvas')].filter(it => !it.ariaLabel && !it.closest('button')).length") == 0
    background = page.value("getComputedStyle(document.body).backgroundColor")
    assert (np.mean(json.loads(background[3:].replace("(", "[").replace(")", "]"))) > 128) == (scheme == "light")


def test_the_browser_refuses_requests_of_the_page(pairs, browser):
    page = Page(browser, pairs)
    refused = page.value("""new Promise((resolve) => {
        document.addEventListener('securitypolicyviolation', (event) => resolve(event.effectiveDirective));
        fetch('http://127.0.0.1:9/').catch(() => {});
    })""")
    assert refused == "connect-src"


def test_the_page_says_what_is_known_of_the_run(pairs, export, browser, tmp_path):
    home, _ = export("towers")
    metrics = json.loads((home / "artifacts" / "evaluate" / "towers" / "metrics.json").read_text(encoding="utf-8"))
    accuracy = next(split["accuracy"] for split in metrics["splits"] if split["split"] == "test")
    page = Page(browser, pairs)
    text = page.value("document.body.innerText")
    assert f"both digits right in {100 * accuracy['value']:.2f}% of the 100 test images" in text
    assert f"{metrics['parameters']:,} parameters" in text and "DoubleSynthetic" in text and "Synthetic glyphs." in text
    # of a file of weights alone, the page knows neither the data set nor the accuracy
    multidigit(tmp_path, "export", "demo", "--run", home / "artifacts/train/towers/weights/last.safetensors", "--out", "a.html")
    page = Page(browser, tmp_path / "a.html")
    text = page.value("document.body.innerText")
    assert "It has not been evaluated" in text and "Test images" not in text and "Synthetic" not in text
    page.draw(*SEVEN)
    assert page.positions() == [2]
