"""Pictures of every view, in both themes and on a phone; the one in the documentation is made by this, too.

python -m tests.browser.pictures [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import trio
from tests.browser.chromium import chromium, new_page
from tests.browser.conftest import Service
from tests.browser.test_page import STATE
from tests.browser.world import VIEWS, a_world

ROOT = Path(__file__).parents[2]
SIZES = {"dark": (1440, 900, True), "light": (1440, 900, False), "phone": (390, 844, True)}
DOCUMENTED = ("task", "dark")


async def main(folder: Path) -> None:
    """Take every picture."""
    with tempfile.TemporaryDirectory() as data, chromium() as address:
        async with trio.open_nursery() as nursery:
            served = Service(nursery, Path(data) / "data")
            await a_world(served)
            async with new_page(address) as page:
                for size, (width, height, dark) in SIZES.items():
                    await page.resize(width, height, dark=dark)
                    for name, (place, ready) in VIEWS.items():
                        await page.go("about:blank")
                        await page.go(f"{served.url}/{place}")
                        await page.until(f"{STATE} === 'live' && Boolean({ready})")
                        await page.evaluate("new Promise((done) => setTimeout(done, 700))")
                        picture = await page.picture()
                        (folder / f"{name}-{size}.png").write_bytes(picture)
                        if (name, size) == DOCUMENTED:
                            (ROOT / "docs/dashboard.png").write_bytes(picture)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    wanted = Path(sys.argv[1] if len(sys.argv) > 1 else "build/pictures")
    wanted.mkdir(parents=True, exist_ok=True)
    trio.run(main, wanted)
