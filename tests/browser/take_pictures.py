"""Pictures of every page of a running stack: `make pictures URL=http://127.0.0.1:8501`.

Give it something to show first: `filemill submit "A report" --count 500`.
"""

import re
import shutil
import sys
from pathlib import Path

import httpx
from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
PAGES = ["files", "file", "pipeline", "workers", "performance", "letters", "messages", "setup"]
LOOKS = [(1440, "light"), (1440, "dark"), (800, "light")]
# A few refreshes, so that charts and rates are there.
SETTLE_MILLISECONDS = 6000
PATIENCE_MILLISECONDS = 120_000


def main(url: str) -> None:
    """Take them all."""
    with httpx.Client(base_url=url, trust_env=False) as client:
        found = client.get("/api/files", params={"status": "completed", "limit": 1}).json()["items"]
    program = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        for width, scheme in LOOKS:
            context = browser.new_context(
                base_url=url,
                viewport={"width": width, "height": 900},
                color_scheme=scheme,  # type: ignore[arg-type]
            )
            page = context.new_page()
            for name in PAGES:
                path = {"files": "/", "file": f"/file?id={found[0]['id'] if found else 1}"}.get(name, f"/{name}")
                page.goto(path)
                page.get_by_text(re.compile("as of")).wait_for(timeout=PATIENCE_MILLISECONDS)
                page.wait_for_timeout(SETTLE_MILLISECONDS)
                suffix = scheme if width == LOOKS[0][0] else f"{width}"
                page.screenshot(path=FOLDER / f"{name}-{suffix}.png")
            context.close()
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
