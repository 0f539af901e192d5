"""Time opening a large report page in headless Chromium: 2,000 characters, 256 units, 12 recorded values.

    PYTHONPATH=tests python benchmarks/report_page.py

prints the milliseconds from opening the file until the page is usable, the fastest of three attempts.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from report_pages import browser, large_page, open_page

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, browser() as driver:
        path, times = large_page(Path(folder)), []
        for _ in range(3):
            open_page(driver, path)
            times.append(driver.execute_script("return Number(document.documentElement.dataset.ready)"))
        print(f"{min(times)} ms")
