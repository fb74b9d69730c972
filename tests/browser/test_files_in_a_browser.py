"""The Files page in a browser."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from filemill.config.settings import Settings
from filemill.entrypoints import bootstrap

REFRESH_MILLISECONDS = 2000
DONE_MILLISECONDS = 60_000
# Visible lines of text in which a character is left of the previous one.
READ_BACKWARDS = """(nodes) => nodes.flatMap((node) => {
  const [texts, range, found] = [document.createTreeWalker(node, NodeFilter.SHOW_TEXT), document.createRange(), []];
  while (texts.nextNode()) {
    const text = texts.currentNode;
    let [start, before] = [0, null];
    for (const line of text.data.split("\\n")) {
      for (let place = start; place < start + line.length; place++) {
        range.setStart(text, place);
        range.setEnd(text, place + 1);
        const box = range.getBoundingClientRect();
        if (!box.width) continue;
        if (before && box.top < before.bottom && box.left < before.left) {
          found.push(line);
          break;
        }
        before = box;
      }
      [start, before] = [start + line.length + 1, null];
    }
  }
  return found;
})"""
LEFTS = "(nodes) => nodes.map((node) => node.getBoundingClientRect().left)"


def create(page: Page, title: str, description: str = "") -> Locator:
    """Create a file with the form and return its row."""
    page.get_by_label("Title").fill(title)
    page.get_by_label("Description").fill(description)
    page.get_by_role("button", name="Create file").click()
    row = page.get_by_role("row").filter(has_text=title)
    expect(row).to_have_count(1)
    return row


def test_a_file_is_created_monitored_and_downloaded(page: Page, browser_settings: Settings) -> None:
    row = create(page, "A file for the browser", "two\nlines")
    expect(page.get_by_text(re.compile(r"File #\d+ created"))).to_be_visible()
    expect(page.get_by_label("Title")).to_have_value("")
    expect(row.get_by_text("processing")).to_be_visible(timeout=DONE_MILLISECONDS)
    expect(row.get_by_text(re.compile(r"\d of 6 · processor-\d"))).to_be_visible(timeout=DONE_MILLISECONDS)
    expect(row.get_by_text("completed")).to_be_visible(timeout=DONE_MILLISECONDS)

    with page.expect_download() as waiting:
        row.get_by_role("link", name="Download").click()
    download = waiting.value
    key = download.suggested_filename
    stored = bootstrap.s3_client(browser_settings).get_object(Bucket=browser_settings.s3_bucket, Key=key)["Body"].read()
    assert Path(download.path()).read_bytes() == stored
    assert b"Title: A file for the browser\nDescription: two\nlines\n" in stored


def test_a_blank_title_is_rejected_with_a_message(page: Page) -> None:
    page.get_by_role("button", name="Create file").click()
    expect(page.get_by_text("Title must not be blank")).to_be_visible()


@pytest.mark.parametrize(
    "title",
    [
        "<img src=x onerror='document.title=\"owned\"'>",
        "<script>alert(1)</script>",
        "[click](javascript:alert(1))",
        ":red[x] $x^2$ **b** `c`",
        "=1+1",
        "שלום 📄",
    ],
)
def test_a_hostile_title_is_shown_as_text(title: str, page: Page) -> None:
    row = create(page, title)
    row.get_by_role("button", name=title).click()
    drawer = page.get_by_role("dialog")
    expect(drawer.get_by_text(title)).to_be_visible()
    page.wait_for_timeout(REFRESH_MILLISECONDS)
    expect(row.get_by_text(title, exact=True)).to_be_visible()
    assert page.locator("img[src=x]").count() == 0
    assert page.title() == "filemill"


@pytest.mark.parametrize(
    ("title", "turned"),
    [
        ("invoice \u202egpj.exe", True),
        ("\u2067an isolate \u202d without an end", False),
        ("\u05e9\u05dc\u05d5\u05dd report 123", True),
    ],
)
def test_direction_marks_of_a_title_reorder_only_the_title(title: str, turned: bool, page: Page) -> None:
    description = f"description of {title}"
    row = create(page, title, description)
    expect(row.get_by_text("completed")).to_be_visible(timeout=DONE_MILLISECONDS)
    assert row.evaluate_all(READ_BACKWARDS) == ([title] if turned else [])
    lefts = row.get_by_role("cell").evaluate_all(LEFTS)
    assert lefts == sorted(lefts)

    page.goto(f"/file?id={row.get_by_role('cell').nth(1).inner_text()}")
    expect(page.get_by_text("Generated at")).to_be_visible(timeout=DONE_MILLISECONDS)
    lines = page.locator(".root").evaluate_all(READ_BACKWARDS)
    assert [line for line in lines if title not in line] == []
    assert (title in lines) == turned
    head = page.locator(".line").filter(has=page.get_by_role("heading", name=title))
    lefts = head.locator("> *").evaluate_all(LEFTS)
    assert (len(lefts), lefts) == (4, sorted(lefts))


def test_a_hostile_title_has_no_effect_on_any_page(page: Page) -> None:
    page.get_by_label("Description").fill("<img src=x onerror=alert(2)>")
    page.get_by_label("Title").fill("<img src=x onerror=alert(1)><b>bold</b>")
    page.get_by_role("button", name="Create file").click()
    notice = page.get_by_text(re.compile(r"File #\d+ created"))
    expect(notice).to_be_visible()
    number = re.search(r"#(\d+)", notice.inner_text())
    assert number is not None
    messages = "/messages?text=onerror"
    for path in (f"/file?id={number[1]}", messages, "/workers?worker=processor-1", "/letters", "/activity"):
        page.goto(path)
        expect(page.locator(".age")).to_be_visible()
        if path.startswith(("/file", messages)):
            expect(page.get_by_text("<b>bold</b>").first).to_be_visible()
        page.wait_for_timeout(REFRESH_MILLISECONDS)
        assert page.locator("img[src=x]").count() == 0
        assert page.locator("b", has_text="bold").count() == 0


def test_the_drawer_survives_refreshes_and_closes_with_escape(page: Page) -> None:
    create(page, "A file to open").click()
    drawer = page.get_by_role("dialog")
    expect(drawer.get_by_text("A file to open")).to_be_visible()
    expect(page).to_have_url(re.compile(r"[?&]file=\d+"))
    page.wait_for_timeout(2 * REFRESH_MILLISECONDS)
    expect(drawer.get_by_text("A file to open")).to_be_visible()
    page.keyboard.press("Escape")
    expect(drawer).to_have_count(0)
    expect(page).not_to_have_url(re.compile(r"file="))


def test_a_reload_shows_the_same_view(page: Page) -> None:
    create(page, "Needle in the haystack")
    create(page, "Hay")
    page.get_by_label("Search").press_sequentially("needle", delay=30)
    expect(page.get_by_role("row").filter(has_text="Hay")).to_have_count(1)  # the title of the needle contains it too
    page.get_by_role("button", name="Cancelled").click()
    expect(page.get_by_text("No matching files")).to_be_visible()
    page.get_by_role("button", name="Cancelled").click()
    expect(page.get_by_role("row").filter(has_text="Needle")).to_have_count(1)
    page.locator(".st-key-refresh").get_by_text("5 s").click()
    expect(page).to_have_url(re.compile(r"q=needle.*refresh=5|refresh=5.*q=needle"))

    page.reload()
    expect(page.get_by_label("Search")).to_have_value("needle")
    expect(page.get_by_role("row").filter(has_text="Needle")).to_have_count(1)
    expect(page.get_by_role("row")).to_have_count(2)  # one of them is the header
    expect(page.get_by_role("radio", name="5 s")).to_be_checked()


def test_a_file_can_be_opened_with_the_keyboard(page: Page) -> None:
    row = create(page, "Opened by keyboard")
    row.get_by_role("button", name="Opened by keyboard").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_text("Opened by keyboard")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(row.get_by_role("button", name="Opened by keyboard")).to_be_focused()


def test_the_page_of_a_file_marks_files_in_the_navigation(page: Page) -> None:
    files = page.get_by_role("link", name="Files", exact=True)
    page.goto("/file?id=1")
    expect(files).to_have_attribute("aria-current", "true")
    page.get_by_role("link", name="Workers", exact=True).click()
    expect(page.get_by_role("table", name="Workers")).to_be_visible()
    expect(files).not_to_have_attribute("aria-current", "true")
