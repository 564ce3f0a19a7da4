"""A real browser on a real server; pictures of what it shows are kept in out/page/."""

import json
import os
import shutil
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from serving import Serving

SHOTS = Path(__file__).parents[2] / "out" / "page"
EXAMPLES = Path(__file__).parents[2] / "examples"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WAIT_MS = 60_000
"""The first click of a photograph takes a second on an idle machine; the tests may share it."""


@pytest.fixture(scope="session")
def browser():
    path = os.environ.get("MASKWISE_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.fail("no Chromium: install it (Debian: apt-get install chromium), or set MASKWISE_BROWSER to its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_file(browser):
    """Opens a page from the disk; `problems` of the page lists errors, and requests to anywhere."""
    contexts = []

    def open_file(path, width=1440, scheme="light"):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("console", lambda line: page.problems.append(line.text) if line.type == "error" else None)
        page.on(
            "request", lambda request: page.problems.append(request.url) if request.url.startswith("http") else None
        )
        page.goto(path.as_uri())
        return page

    yield open_file
    for context in contexts:
        context.close()


@pytest.fixture
def check_look():
    """Keeps a picture of a page; checks that it fits its width, is easy to reach and has no errors."""

    def check_look(page, width, name):
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SHOTS / f"{name}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        found = Axe().run(page).response["violations"]
        assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
        assert page.problems == []

    return check_look


@pytest.fixture(scope="session")
def serving():
    with Serving() as serving:
        yield serving


class Page:
    """The page, as a person uses it; points are pixels of the photograph."""

    def __init__(self, page, address):
        self.page, self.address, self.size = page, address, None
        self.problems, self.hosts = [], set()
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", lambda line: self.problems.append(line.text) if line.type == "error" else None)
        page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))

    def open(self):
        self.page.goto(self.address)
        self.page.wait_for_selector("html[data-ready]")
        return self

    def wait(self):
        """Wait until nothing is in work."""
        self.page.wait_for_selector("#progress", state="hidden")
        return self

    def open_example(self, name, size):
        self.page.click(f"[data-example='{name}']")
        return self.opened(size)

    def open_file(self, path, size):
        self.page.set_input_files("#photo-file", path)
        return self.opened(size)

    def opened(self, size):
        self.size = size
        self.page.wait_for_selector("#work:not([hidden])")
        return self.wait()

    def at(self, x, y):
        """Return where a point of the photograph is on the screen, when it is shown whole."""
        box = self.page.locator("#canvas").bounding_box()
        scale = min(box["width"] / self.size[0], box["height"] / self.size[1])
        left = box["x"] + (box["width"] - self.size[0] * scale) / 2
        top = box["y"] + (box["height"] - self.size[1] * scale) / 2
        return left + x * scale, top + y * scale

    def click(self, x, y, *keys):
        for key in keys:
            self.page.keyboard.down(key)
        self.page.mouse.click(*self.at(x, y))
        for key in keys:
            self.page.keyboard.up(key)
        return self.wait()

    def drag(self, *points):
        self.page.mouse.move(*self.at(*points[0]))
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*self.at(*point), steps=4)
        self.page.mouse.up()
        return self.wait()

    def tool(self, name):
        self.page.check(f"input[value='{name}']", force=True)
        return self

    @property
    def names(self):
        return self.page.locator("#things .thing-name .name").all_inner_texts()

    @property
    def selected(self):
        return self.page.locator("#things .thing.active .thing-name .name").all_inner_texts()

    def item(self, number):
        return self.page.locator(f"#things > li:nth-child({number})")

    def download(self, button):
        with self.page.expect_download() as download:
            self.page.click(button)
        return download.value

    def annotations(self):
        """Return the COCO file that the page saves, and its annotations by name."""
        content = json.loads(Path(self.download("#save-coco").path()).read_text())
        names = {category["id"]: category["name"] for category in content["categories"]}
        return content, {names[one["category_id"]]: one for one in content["annotations"]}

    def shot(self, name):
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


@pytest.fixture
def visit(browser, serving):
    """Open the page in a window of its own; at the end nothing may have gone wrong or gone elsewhere."""
    contexts, pages = [], []

    def open_page(width=1440, height=900, scheme="light", **options):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **options)
        contexts.append(context)
        pages.append(Page(context.new_page(), serving.address))
        return pages[-1].open()

    yield open_page
    for context in contexts:
        context.close()
    for page in pages:
        assert page.problems == []
        assert page.hosts <= {f"localhost:{serving.port}", ""}
