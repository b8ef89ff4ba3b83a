# SPDX-License-Identifier: Apache-2.0
"""The page of scripts/demo.py, in a real browser where there is one."""

import base64
import json
import runpy
import shutil
import socket
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from PIL import Image

from clip4str_hf import default_checkpoint
from clip4str_hf.reading import load_reader, read_images


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio")  # of pandas, which Gradio uses
ROOT = Path(__file__).parents[1]
WORDS = ROOT / "tests" / "data" / "words"
SCRIPT = ROOT / "scripts" / "demo.py"
# Hands a file over as the system does when one is dropped on an element, or pasted.
TRANSFER = """
const [element, kind, content] = arguments;
const files = new DataTransfer();
const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
files.items.add(new File([bytes], "word.webp", {type: "image/webp"}));
const options = {bubbles: true, cancelable: true, dataTransfer: files, clipboardData: files};
element.dispatchEvent(kind == "drop" ? new DragEvent(kind, options) : new ClipboardEvent(kind, options));
"""


def test_without_gradio_the_script_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "clip4str_hf.demo", raising=False)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT)])
    with pytest.raises(SystemExit, match=r'pip install -c constraints.txt "\.\[demo\]"'):
        runpy.run_path(str(SCRIPT), run_name="__main__")


@pytest.fixture(scope="module")
def demo():
    """The module of the page."""
    pytest.importorskip("gradio", reason="the page needs gradio")
    from clip4str_hf import demo

    return demo


@pytest.fixture(scope="module")
def reader():
    return load_reader(default_checkpoint(), attn_implementation="eager")


@pytest.fixture(scope="module")
def photo():
    """Exit at (40, 60) to (185, 149) and Pharmacy at (300, 200) to (583, 273), on nothing else."""
    photo = Image.new("RGB", (640, 320), (70, 90, 60))
    for name, place in (("word_270.webp", (40, 60)), ("word_2083.webp", (300, 200))):
        with Image.open(WORDS / name) as word:
            photo.paste(word.convert("RGB").resize((word.width * 2, word.height * 2)), place)
    return photo


def test_a_box_between_two_clicks_is_read(demo, reader, photo):
    page = demo.Demo(*reader)

    def click(corners, x, y):
        return page.click(photo, corners, 1, SimpleNamespace(index=[x, y]))

    corners, picture, status, text, *_ = click([], 590, 280)
    assert (corners, text) == ([(590, 280)], "") and "opposite corner" in status
    assert picture.size == photo.size and picture.getpixel((590, 280)) == demo.GLOW
    corners, picture, status, text, characters, places, steps = click(corners, 295, 195)
    assert text == "Pharmacy" and "box of 296 x 86 pixels" in status
    assert picture.getpixel((294, 230)) == demo.GLOW and photo.getpixel((294, 230)) != demo.GLOW
    assert [character for character, _ in characters] == list("Pharmacy")
    assert len(places) == 8 and [row[0] for row in steps] == ["predict", "refine 1"]
    # A third click begins another box; one that is too small is told, and forgotten.
    corners, *_ = click(corners, 10, 10)
    corners, picture, status, text, *_ = click(corners, 10, 10)
    assert (corners, text) == ([], "") and "holds no word" in status and picture is photo
    assert page.click(None, [], 1, SimpleNamespace(index=[1, 1]))[0] == []


def test_what_cannot_be_read_empties_the_page(demo, reader, tmp_path):
    page = demo.Demo(*reader)
    (tmp_path / "broken.png").write_bytes(b"no image")
    for path in (tmp_path / "broken.png", tmp_path / "nowhere.png"):
        photo, corners, picture, status, *results = page.open(str(path), 1)
        assert (photo, corners, picture, results) == (None, [], None, ["", [], [], []])
        assert status.startswith("This file cannot be read: ") and path.name in status
        assert str(tmp_path) not in status
    assert page.read(None, [], 1)[0] == "There is no image to read yet."
    assert page.open(None, 1)[3:] == ("", "", [], [], [])


@pytest.mark.parametrize("size", [(1, 1), (3000, 2), (2, 900)])
def test_images_of_any_shape_are_read(demo, reader, size):
    status, text, characters, places, steps = demo.Demo(*reader).read(Image.new("L", size), [], 0)
    assert len(characters) == len(places) == len(text) and len(steps) == 1
    assert status.startswith("Read the whole image" if text else "Found no text")


def test_colours_and_rows_say_what_was_read(demo):
    names = [demo.confidence_name(score) for score in (1.0, 0.9, 0.8999, 0.5, 0.4999, 0.0)]
    assert names == [*["90 % and more"] * 2, *["50 to 90 %"] * 2, *["below 50 %"] * 2]
    step = SimpleNamespace(visual={"text": "Exlt", "score": 0.5}, cross_modal={"text": "Exit", "score": 0.75})
    same = SimpleNamespace(visual=step.cross_modal, cross_modal=step.cross_modal)
    assert demo.step_rows([step, same]) == [
        ["predict", "Exlt (50.0 %)", "Exit (75.0 %)", "l → i"],
        ["refine 1", "Exit (75.0 %)", "Exit (75.0 %)", "none"],
    ]


# In a browser


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="a browser is driven by selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    flags += "--disable-component-update --disable-sync --window-size=1280,900"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in [*flags.split(), f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
        yield browser
        browser.quit()


class Page:
    """What a person sees and does."""

    def __init__(self, browser, address):
        self.browser = browser
        self.address = address
        browser.get(address)
        self.element("#image input[type=file]")

    def element(self, selector):
        return self.wait(lambda: self.browser.find_element("css selector", selector))

    def wait(self, condition, seconds=60):
        from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        missing = [NoSuchElementException, StaleElementReferenceException]
        return WebDriverWait(self.browser, seconds, 0.2, missing).until(lambda _: condition())

    def upload(self, path):
        self.element("#image input[type=file]").send_keys(str(path))

    def says(self, status, text):
        return self.wait(lambda: status in self.element("#status").text and self.text() == text) or True

    def text(self):
        return self.element("#text textarea").get_attribute("value")

    def count(self, selector):
        return len(self.browser.find_elements("css selector", selector))

    def click(self, x, y):
        """On a pixel of the image that is shown."""
        from selenium.webdriver import ActionChains

        image = self.element("#image img")
        self.wait(lambda: image.get_property("complete"))
        width, height = image.size["width"], image.size["height"]
        scale = min(width / image.get_property("naturalWidth"), height / image.get_property("naturalHeight"))
        x = (x - image.get_property("naturalWidth") / 2) * scale
        y = (y - image.get_property("naturalHeight") / 2) * scale
        ActionChains(self.browser).move_to_element_with_offset(image, x, y).click().perform()

    def transfer(self, kind, selector, path):
        content = base64.b64encode(path.read_bytes()).decode()
        self.browser.execute_script(TRANSFER, self.element(selector), kind, content)

    def hosts(self):
        """What the page asked for, since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        asked = [one["params"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        asked = [one["request"]["url"] for one in asked if one["documentURL"].startswith(self.address)]
        return {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))}


@pytest.fixture(scope="module")
def server(demo, reader):
    """The page's address, and the hosts that the server looked up."""
    lookups, getaddrinfo = set(), socket.getaddrinfo

    def look_up(host, *arguments, **options):
        lookups.add(host.decode() if isinstance(host, bytes) else host)
        return getaddrinfo(host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", look_up)
        page = demo.build_page(*reader, examples=[str(WORDS / "word_2199.webp")])
        demo.launch(page, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
        yield SimpleNamespace(address=page.local_url, lookups=lookups)
        page.close()


@pytest.fixture
def page(browser, server):
    return Page(browser, server.address)


def test_a_page_reads_and_asks_nobody_else(page, server, reader):
    (word,) = read_images([WORDS / "word_2083.webp"], *reader)
    page.upload(WORDS / "word_2083.webp")
    assert page.says(f"Read the whole image, confidence {100 * word['score']:.1f} %.", "Pharmacy")
    page.wait(lambda: page.count("#places .thumbnail-item img") == 8)
    assert page.wait(lambda: {"predict", "refine 1", "none"} <= set(page.element("#steps").text.splitlines()))
    assert page.element("#characters").text.split()[-8:] == list("Pharmacy")
    assert page.hosts() == {urlsplit(server.address).netloc}
    assert server.lookups <= {"127.0.0.1", "localhost"}


def test_images_are_dropped_pasted_and_chosen_from_examples(page):
    page.transfer("drop", "#image button", WORDS / "word_270.webp")
    assert page.says("Read the whole image", "Exit")
    page.transfer("paste", "body", WORDS / "word_251.webp")
    assert page.says("Read the whole image", "LEARNING")
    page.element(".gallery-item, .gallery button").click()
    assert page.says("Read the whole image", "IMAX")
    page.element("#image button[aria-label='Remove Image']").click()
    assert page.says("", "")


def test_a_word_is_boxed_on_a_photo(page, photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    page.upload(tmp_path / "photo.png")
    page.wait(lambda: "Read the whole image" in page.element("#status").text)
    page.click(595, 280)
    assert page.says("Now click the opposite corner", "")
    page.click(292, 192)
    assert page.says("Read the box of", "Pharmacy")
    page.click(36, 56)
    assert page.says("Now click the opposite corner", "")
    page.click(190, 152)
    assert page.says("Read the box of", "Exit")
    page.element("#whole").click()
    page.wait(lambda: "Read the whole image" in page.element("#status").text)


def test_a_file_that_is_no_image_is_named(page, tmp_path):
    page.upload(WORDS / "word_270.webp")
    assert page.says("Read the whole image", "Exit")
    (tmp_path / "broken.png").write_bytes(b"no image")
    page.upload(tmp_path / "broken.png")
    assert page.says("This file cannot be read: cannot identify image file 'broken.png'", "")
    assert page.count("#places .thumbnail-item img") == 0


@pytest.mark.parametrize("size", [(1280, 900), (400, 800)])
def test_the_page_fits_the_window(page, size):
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 600}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        page.upload(WORDS / "word_253.webp")
        assert page.says("Read the whole image", "UNIVERSITY")
        page.wait(lambda: page.count("#places .thumbnail-item img") == 10)
        assert page.browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
        # Without scrolling a person sees image and text.
        assert page.element("#text").rect["y"] + page.element("#text").rect["height"] <= size[1]
        shot = Image.open(BytesIO(page.browser.get_screenshot_as_png()))
        assert shot.size == size and shot.convert("L").getextrema() != (255, 255)
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
