"""Take screenshots of every page of a running stack: `make pictures URL=http://127.0.0.1:8501`.

Create some files first: `filemill submit "A report" --count 500`.
"""

import shutil
import sys
from pathlib import Path

import httpx
from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
PAGES = [
    *("files", "file", "pipeline", "workers", "performance", "letters", "messages", "experiments", "faults"),
    *("activity", "setup"),
]
VARIANTS = [(1440, "light"), (1440, "dark"), (800, "light"), (800, "dark")]
# A few refreshes, so that charts and rates are shown.
SETTLE_MILLISECONDS = 3000
# True if the servers have responded: tables have rows and charts have lines.
IS_READY = """() => {
  const roots = [document, ...[...document.querySelectorAll('*')].map((node) => node.shadowRoot).filter(Boolean)];
  const all = (selector) => roots.flatMap((root) => [...root.querySelectorAll(selector)]);
  const visible = [...all('.message'), ...all('.empty-title')].filter((node) => node.checkVisibility());
  return all('.age').some((node) => node.textContent.startsWith('updated'))
    && (all('.frame').length || !/messages|letters|workers|experiments|setup/.test(location.pathname))
    && !visible.some((node) => /no data yet|No data yet|Reading …|Waiting for/.test(node.textContent))
    && all('.chart').every((chart) => chart.querySelector('.main-svg') || chart.querySelector('.message')?.textContent);
}"""
TIMEOUT_MILLISECONDS = 120_000


def main(url: str, *names: str) -> None:
    """Take the screenshots of all pages, or of those named."""
    with httpx.Client(base_url=url, trust_env=False) as client:
        found = client.get("/api/files", params={"status": "completed", "limit": 1}).json()["items"]
    runs = sorted((path.parent.name for path in (FOLDER.parents[1] / "results").glob("*/run.json")), reverse=True)
    overlaid = f"?run={runs[0]}&with={runs[1]}" if len(runs) > 1 else ""
    paths = {
        "files": "/",
        "file": f"/file?id={found[0]['id'] if found else 1}",
        "pipeline": "/pipeline?period=5+min",
        "performance": "/performance?period=5+min",
        "experiments": f"/experiments{overlaid}",
        "faults": "/experiments?part=Faults",
    }
    program = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        for width, scheme in VARIANTS:
            context = browser.new_context(
                base_url=url,
                bypass_csp=True,  # `wait_for_function` evaluates in the page
                viewport={"width": width, "height": 900},
                color_scheme=scheme,  # type: ignore[arg-type]
            )
            page = context.new_page()
            for name in names or PAGES:
                page.goto(paths.get(name, f"/{name}"))
                page.locator(".age").wait_for(timeout=TIMEOUT_MILLISECONDS)
                page.wait_for_timeout(SETTLE_MILLISECONDS)
                page.wait_for_function(IS_READY, timeout=TIMEOUT_MILLISECONDS)
                suffix = scheme if width == VARIANTS[0][0] else f"{width}" if scheme == "light" else f"{width}-{scheme}"
                page.screenshot(path=FOLDER / f"{name}-{suffix}.png")
            context.close()
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
