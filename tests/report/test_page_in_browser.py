"""The page in headless Chromium: no error, no request that leaves it, nothing wider than a phone."""

import base64
import json
import os
import re
import select
import shutil
import subprocess
import time

import pytest

from monai_kd.report.page import write_report

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")


class Browser:
    """Chromium driven over a pipe by the DevTools protocol: JSON messages, each ended by a zero byte."""

    def __init__(self, profile):
        inwards, self.out = os.pipe()
        self.inn, outwards = os.pipe()

        def at_three_and_four():
            # Away first, since one of the two may be 3 or 4 already.
            kept = [os.dup(inwards), os.dup(outwards)]
            high = [os.dup2(one, place) for one, place in zip(kept, (30, 31))]
            for one, place in zip(high, (3, 4)):
                os.dup2(one, place)

        flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
        flags += "--disable-sync --no-first-run --disable-dev-shm-usage --remote-debugging-pipe"
        self.process = subprocess.Popen(
            [CHROMIUM, *flags.split(), f"--user-data-dir={profile}"],
            preexec_fn=at_three_and_four,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(inwards)
        os.close(outwards)
        self.number, self.buffer, self.events, self.session = 0, b"", [], None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def receive(self, patience=120.0):
        end = time.monotonic() + patience
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.inn], [], [], max(0.0, end - time.monotonic()))
            assert ready, "chromium does not answer"
            part = os.read(self.inn, 1 << 16)
            assert part, "chromium ended"
            self.buffer += part
        text, self.buffer = self.buffer.split(b"\0", 1)
        message = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return message

    def open(self, path, width=1200, scheme="light", media="screen"):
        """Load a page; returns the events of loading it."""
        phone = width < 600
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1 + phone, mobile=phone
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", media=media, features=features)
        self.events = []
        self.send("Page.navigate", url=path.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.receive()
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
        return list(self.events)

    def evaluate(self, expression):
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return found["result"].get("value")

    def picture(self, path):
        """A screenshot of the whole page."""
        found = self.send("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        path.write_bytes(base64.b64decode(found["data"]))

    def close(self):
        self.process.terminate()
        self.process.wait(20)
        os.close(self.out)
        os.close(self.inn)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    one = Browser(tmp_path_factory.mktemp("profile"))
    yield one
    one.close()


def complaints(events):
    """Console messages, exceptions and log entries; requests for anything but the page and data within it."""
    said = [
        e for e in events if e["method"] in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
    ]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return said, [url for url in asked if not url.startswith(("file:", "data:"))], asked


SEVERAL = {"teacher": 0.85, "second": 0.9, "baseline": 0.70, "soft targets": 0.6, "attention": 0.78}


@pytest.fixture(params=["segmentation", "classification", "several"])
def report(request, tmp_path, made={}):  # noqa: B006 - each kind is made once
    if request.param not in made:
        several = {"levels": SEVERAL, "auxiliary": ["second"], "seeds": (0, 1)} if request.param == "several" else {}
        build = request.getfixturevalue("segmentation" if several else request.param)
        made[request.param] = write_report(build(**several)[0].root).read_text(encoding="utf-8")
    path = tmp_path / "report.html"
    path.write_text(made[request.param], encoding="utf-8")
    return path


def test_nothing_is_asked_for_and_nothing_complains(browser, report):
    said, left, asked = complaints(browser.open(report))
    assert (said, left) == ([], [])
    assert [url for url in asked if url.startswith("file:")] == [report.resolve().as_uri()]


def test_the_browser_would_tell_of_a_request_and_of_an_error(browser, report):
    """The test above can fail: a page that asks for a picture, and one with a script that throws."""
    text = report.read_text(encoding="utf-8")
    report.write_text(text.replace("<main>", '<main><img src="http://127.0.0.1:9/x.png">'), encoding="utf-8")
    said, _, _ = complaints(browser.open(report))
    assert "Content Security Policy" in json.dumps(said)
    free = text[: text.index("<meta http-equiv")] + text[text.index('<link rel="icon"') :]
    report.write_text(
        free.replace("<main>", '<main><img src="http://127.0.0.1:9/x.png"><script>nowhere()</script>'), encoding="utf-8"
    )
    said, left, _ = complaints(browser.open(report))
    assert left == ["http://127.0.0.1:9/x.png"]
    assert "nowhere is not defined" in json.dumps(said)


@pytest.mark.parametrize("width", [390, 1200])
def test_no_wider_than_the_screen(browser, report, width):
    browser.open(report, width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    wide = (
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll') && !e.closest('svg') "
        f"&& e.getBoundingClientRect().right > {width} + 0.5).map(e => e.outerHTML.slice(0, 80))"
    )
    assert browser.evaluate(wide) == []
    boxes = "[...document.querySelectorAll('table')].every(t => t.closest('.scroll'))"
    assert browser.evaluate(boxes)


@pytest.mark.parametrize("width", [390, 1200])
def test_verdict_gap_and_cost_are_on_the_first_screen(browser, report, width):
    browser.open(report, width)
    ends = "[...document.querySelectorAll('.verdict, .cost, .gap svg')].map(e => e.getBoundingClientRect().bottom)"
    assert len(browser.evaluate(ends)) >= 3
    assert max(browser.evaluate(ends)) < browser.evaluate("innerHeight")
    text = browser.evaluate("document.querySelector('header').innerText")
    assert "Distillation h" in text
    assert re.search("The student (needs .* of the teacher's parameters|costs as much)", text)


def test_both_colour_schemes_can_be_read(browser, report):
    """Text stands out from the page by WCAG's 4.5 to 1, in figures as well."""
    luminance = (
        "const rgb = c => c.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)"
        ".map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);"
        "const light = c => rgb(c).reduce((s, v, i) => s + v * [0.2126, 0.7152, 0.0722][i], 0);"
        "const ground = e => { const c = getComputedStyle(e).backgroundColor;"
        "return c === 'rgba(0, 0, 0, 0)' ? ground(e.parentElement) : c };"
        "const against = (c, e) => { const [a, b] = [light(c), light(ground(e))].sort((x, y) => y - x);"
        "return (a + 0.05) / (b + 0.05) };"
        "const said = e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());"
    )
    text = (
        "[...document.querySelectorAll('main *')].filter(said).map(e => [against(e.closest('svg') ? "
        "getComputedStyle(e).fill : getComputedStyle(e).color, e), e.textContent.trim()]).filter(([c]) => c < 4.5)"
    )
    keys = (
        "[...document.querySelectorAll('.key')].map(e => [against(getComputedStyle(e).backgroundColor, "
        "e.parentElement), e.parentElement.textContent.trim()]).filter(([c]) => !(c > 3))"
    )
    backgrounds = set()
    for scheme in ("light", "dark"):
        browser.open(report, scheme=scheme)
        assert browser.evaluate(f"(() => {{{luminance} return {text} }})()") == []
        assert browser.evaluate(f"(() => {{{luminance} return {keys} }})()") == []
        backgrounds.add(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(backgrounds) == 2


def test_identifiers_are_unique_and_references_lead_to_them(browser, report):
    browser.open(report)
    ids = browser.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    uses = browser.evaluate("[...document.querySelectorAll('use')].map(e => e.getAttribute('xlink:href').slice(1))")
    clips = browser.evaluate(
        "[...document.querySelectorAll('[clip-path]')].map(e => e.getAttribute('clip-path').slice(5, -1))"
    )
    assert uses
    assert set(uses + clips) <= set(ids)


def test_prints_on_white(browser, report, tmp_path):
    browser.open(report, scheme="dark", media="print")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    printed = base64.b64decode(browser.send("Page.printToPDF", printBackground=True)["data"])
    assert printed.startswith(b"%PDF")
