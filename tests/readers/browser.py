"""A real browser for tests of pages: headless Chromium, spoken to by its own DevTools protocol.

    MULTIDIGIT_REQUIRE_BROWSER  set and not empty: no browser is a failure, not a reason to skip
"""

import base64
import io
import json
import os
import shutil
import subprocess
import time

import pytest
import websocket
from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 60


class Browser:
    """One tab of a headless Chromium."""

    def __init__(self, program, profile):
        flags = ["--headless", "--disable-gpu", "--no-first-run", "--hide-scrollbars", "--remote-debugging-port=0",
                 f"--user-data-dir={profile}", "--disable-background-networking", "about:blank"]
        if os.geteuid() == 0:
            flags.insert(0, "--no-sandbox")  # Chromium refuses to start its sandbox as root
        self.process = subprocess.Popen([program, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port_file, late = profile / "DevToolsActivePort", time.monotonic() + SECONDS
        while not (port_file.exists() and port_file.read_text().count("\n")):
            assert time.monotonic() < late and self.process.poll() is None, "the browser did not start"
            time.sleep(0.05)
        port, path = port_file.read_text().split("\n")[:2]
        address = f"ws://127.0.0.1:{port}{path}"
        self.socket = websocket.create_connection(address, timeout=SECONDS, suppress_origin=True)
        self.number, self.session, self.events = 0, None, []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.socket.send(json.dumps(message))
        while True:
            heard = json.loads(self.socket.recv())
            if heard.get("id") == self.number:
                assert "error" not in heard, f"{method}: {heard}"
                return heard["result"]
            self.events.append(heard)

    def open(self, page, width, scheme):
        mobile = width < 600
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=mobile)
        scheme = {"name": "prefers-color-scheme", "value": scheme}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.events = []
        self.ask("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(json.loads(self.socket.recv()))

    def value(self, expression):
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self):
        data = self.ask("Page.captureScreenshot", format="png")["data"]
        return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")

    def close(self):
        self.socket.close()
        self.process.terminate()
        self.process.wait(timeout=SECONDS)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if program is None:
        word = f"no browser: none of {', '.join(BROWSERS)} is installed"
        assert not os.environ.get("MULTIDIGIT_REQUIRE_BROWSER"), word
        pytest.skip(word)
    browser = Browser(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()
