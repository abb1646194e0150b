"""A real Chromium without a window."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from tests.runtime.conftest import apt_install

PROGRAMS = ("chromium", "chromedriver")


def require_chromium() -> None:
    """Install what is missing, or skip."""
    if not all(map(shutil.which, PROGRAMS)):
        apt_install("chromium", "chromium-driver", "fonts-dejavu-core")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)} here, and apt-get could not install it")


@contextmanager
def chromium(folder: Path) -> Iterator[Chrome]:
    """A browser whose profile is in `folder`; its console is kept."""
    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "hide-scrollbars"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={folder}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def look(driver: Chrome, width: int, height: int, scheme: str) -> None:
    """Give the page a size, also one that no window can have, and a colour scheme."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
