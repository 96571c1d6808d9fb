"""Every view under axe-core, which knows what readers with other eyes, ears and hands need.

It comes from npm, for this test only; where there is no npm, or no registry, the test says so and is skipped.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Iterator

import attrs
import pytest
from tests.browser.chromium import Page
from tests.browser.conftest import Service
from tests.browser.test_page import STATE, status
from tests.browser.world import VIEWS, a_world

pytestmark = pytest.mark.browser

AXE = "axe-core@4.10.3"

RUN = """
    (async () => {
        const how = { ...RULES, resultTypes: ["violations"], preload: false };
        return (await axe.run(WITHIN, how)).violations.flatMap(({ id, nodes }) =>
            nodes.map(({ target, failureSummary }) => `${id}: ${target} ${failureSummary}`));
    })()
"""

ALL = "{}"
COLOURS = "{ runOnly: ['color-contrast', 'link-in-text-block'] }"
STRUCTURE = "{ rules: { 'color-contrast': { enabled: false } } }"
LOOKS = (
    (1440, "dark", ALL),
    (1440, "light", COLOURS),
    (1024, "dark", STRUCTURE),
    (768, "light", STRUCTURE),
    (320, "light", ALL),
    (320, "dark", COLOURS),
)
"""The widths and themes, and the rules that these may break; contrast takes most of axe's time."""

GO = """
    location.hash === PLACE || new Promise((done) => {
        addEventListener("hashchange", done, { once: true });
        location.hash = PLACE;
    })
"""

SETTLED = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"

AWAY = "window.kept ??= fetch; fetch = () => Promise.reject(new TypeError('away'));"
BACK = "fetch = window.kept;"
WORDS = "document.querySelector('.palette input')"
PALETTE = (
    "document.getElementById('open-palette').click();"
    f" while (!{WORDS}) await new Promise((done) => setTimeout(done, 10));"
)


def typed(field: str, text: str) -> str:
    """Return the statement that puts a text into a field, as typing would."""
    return f"(() => {{ const f = {field}; f.value = {text!r}; f.dispatchEvent(new Event('input')); }})();"


def press(button: str) -> str:
    """Return the statement that presses the button with these words."""
    return f"[...document.querySelectorAll('button')].find((one) => one.innerText === {button!r}).click();"


@attrs.frozen
class Moment:
    """A part of a view when its reader has done something.

    Args:
        place: The address of the view.
        there: True when the view is there.
        does: What the reader does, as JavaScript.
        ready: True when its consequence is there.
        within: The part.
        undo: Leaves the view as it was.
    """

    place: str
    there: str
    does: str
    ready: str
    within: str = "dialog[open]"
    undo: str = "document.querySelector('dialog').close();"


MOMENTS = {
    "groups": Moment(
        "#/?group=agent&model=sonnet&status=waiting_input",
        "true",
        "",
        "document.querySelector('.chip')",
        "#fleet",
        "",
    ),
    "no match": Moment(
        "#/?text=nobody+at+all",
        "true",
        "",
        "document.getElementById('nothing').checkVisibility()",
        "#fleet",
        "",
    ),
    "found line": Moment(
        *VIEWS["task"],
        "document.getElementById('details').open = true;" + press("Next error"),
        "document.querySelector('.view .linked') && document.querySelector('#details .leaf')",
        "#log",
        "",
    ),
    "refused answer": Moment(
        "#/tasks/r-5",
        "document.querySelector('#answer textarea')",
        f"{AWAY} document.querySelector('#answer textarea').value = 'main'; {press('Answer')}",
        "document.querySelector('#answer .refused').textContent",
        "#answer",
        BACK,
    ),
    "table of a plot": Moment(
        *VIEWS["analytics"],
        "document.querySelector('.as-table').open = true;",
        "document.querySelector('.as-table tbody')",
        ".plots",
        "",
    ),
    "refused message": Moment(
        *VIEWS["conversations"],
        f"{AWAY} document.querySelector('.composer textarea').value = 'Hello'; {press('Send')}",
        "document.getElementById('banner').checkVisibility()",
        "#banner",
        f"{BACK} document.querySelector('#banner > button').click();",
    ),
    "confirmation": Moment(
        *VIEWS["conversations"], press("Delete"), "document.querySelector('dialog .danger')"
    ),
    "form": Moment(*VIEWS["conversations"], press("Rename"), "document.querySelector('dialog input')"),
    "refused form": Moment(
        *VIEWS["webhooks"],
        press("New")
        + "document.querySelectorAll('dialog input').forEach((one) => { one.value = 'n o'; });"
        + press("Make it"),
        "document.querySelector('dialog [aria-invalid]')",
    ),
    "palette": Moment(
        *VIEWS["status"], PALETTE + typed(WORDS, "mend"), "document.querySelector('.palette .pill')"
    ),
    "empty palette": Moment(
        *VIEWS["status"], PALETTE + typed(WORDS, "zzz"), "document.querySelector('.palette .quiet')"
    ),
    "key": Moment(
        *VIEWS["status"],
        f"{PALETTE} {typed(WORDS, 'another key')} document.querySelector('.palette li').click();"
        "document.querySelector('#ask-key .refused').textContent = 'unknown API key';",
        "true",
    ),
    "keys": Moment(
        *VIEWS["status"],
        "document.body.dispatchEvent(new KeyboardEvent('keydown', { key: '?', bubbles: true }));",
        "document.getElementById('help')",
    ),
}
"""By name: dialogs, refusals, and what is found, unfolded or not there."""


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


async def open_page(page: Page, served: Service, axe: str) -> None:
    """Open the page in front of a fleet."""
    await a_world(served)
    await page.go(served.url)
    await page.until(f"{STATE} === 'live'")
    await page.evaluate(axe)


async def go(page: Page, place: str, there: str) -> None:
    """Go to a view without loading the page anew."""
    await page.evaluate(GO.replace("PLACE", repr(place)))
    await page.until(f"Boolean({there})")


async def findings(page: Page, name: str, within: str) -> list[str]:
    """Return what axe finds in a part of the page, at all widths and in both themes."""
    found = []
    for width, theme, rules in LOOKS:
        await page.resize(width, 800, dark=theme == "dark")
        await page.evaluate(SETTLED)
        run = RUN.replace("WITHIN", repr(within)).replace("RULES", rules)
        found += [f"{name}, {width}, {theme}: {finding}" for finding in await page.evaluate(run)]
    return found


async def test_no_view_has_a_finding(page: Page, stopped_service: Service, axe: str) -> None:
    """Contrast, names, roles, order of headings: nothing is to be found in any view."""
    await open_page(page, stopped_service, axe)
    found = []
    for name, (place, there) in VIEWS.items():
        await go(page, place, there)
        beside = "#log" if place.startswith("#/tasks/") else "html"  # the fleet beside it is looked at alone
        found += await findings(page, name, beside)
    assert not found, "\n".join(found)


async def test_nothing_that_a_reader_does_has_a_finding(
    page: Page, stopped_service: Service, axe: str
) -> None:
    """Neither dialogs nor refusals, nor what is found, unfolded or not there."""
    await open_page(page, stopped_service, axe)
    question = {"task_id": "r-5", "question": "Which branch?", "question_id": "q5"}
    await stopped_service.publish(
        {"topic": "task.question", "payload": question}, status("r-5", "waiting_input")
    )
    found = []
    for name, moment in MOMENTS.items():
        await page.resize(1440, 800)
        await go(page, moment.place, moment.there)
        await page.evaluate(f"(async () => {{ {moment.does} }})()")
        await page.until(f"Boolean({moment.ready})")
        found += await findings(page, name, moment.within)
        await page.evaluate(moment.undo)
    assert not found, "\n".join(found)
