"""Every view under axe-core, which knows what readers with other eyes, ears and hands need.

It comes from npm, for this test only; where there is no npm, or no registry, the test says so and is skipped.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Iterator

import pytest
from tests.browser.chromium import Page
from tests.browser.conftest import Service
from tests.browser.test_page import STATE
from tests.browser.world import VIEWS, a_world

pytestmark = pytest.mark.browser

AXE = "axe-core@4.10.3"

RUN = """
    axe.run(document, { resultTypes: ["violations"] }).then(({ violations }) => violations.flatMap(
        ({ id, nodes }) => nodes.map(({ target, failureSummary }) => `${id}: ${target} ${failureSummary}`)
    ))
"""


DIALOGS = {
    "palette": "document.getElementById('open-palette').click()",
    "keys": "document.body.dispatchEvent(new KeyboardEvent('keydown', { key: '?', bubbles: true }))",
}
"""By name: what opens a dialog."""


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the source of axe-core."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed, from which axe-core comes")
    folder = tmp_path_factory.mktemp("axe")
    packed = subprocess.run(
        [npm, "pack", AXE, "--silent", f"--pack-destination={folder}"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    found = list(folder.glob("*.tgz"))
    if packed.returncode or not found:
        pytest.skip(f"npm does not give {AXE}: {packed.stderr.decode()[-200:]}")
    with tarfile.open(found[0]) as archive:
        source = archive.extractfile("package/axe.min.js")
        assert source is not None
        yield source.read().decode()


@pytest.mark.parametrize(("width", "dark"), [(1440, True), (1440, False), (320, True), (320, False)])
async def test_no_view_has_a_finding(
    page: Page, stopped_service: Service, axe: str, width: int, dark: bool
) -> None:
    """Contrast, names, roles, order of headings: nothing is to be found in any view."""
    await a_world(stopped_service)
    await page.resize(width, 800, dark=dark)
    found = []
    for name, (address, ready) in VIEWS.items():
        await page.go("about:blank")
        await page.go(f"{stopped_service.url}/{address}")
        await page.until(f"{STATE} === 'live' && Boolean({ready})")
        await page.evaluate(axe)
        found += [f"{name}: {finding}" for finding in await page.evaluate(RUN)]
    for name, opens in DIALOGS.items():
        await page.evaluate(opens)
        await page.until("document.querySelector('dialog[open]') !== null")
        found += [f"{name}: {finding}" for finding in await page.evaluate(RUN)]
        await page.evaluate("document.querySelector('dialog').close()")
        await page.until("document.querySelector('dialog') === null")
    assert not found, "\n".join(found)
