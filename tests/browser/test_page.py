"""The page as a reader uses it, in front of the real service."""

from __future__ import annotations

import hashlib
import json
import random
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
import trio
from click.testing import CliRunner
from tests.browser.chromium import Page
from tests.browser.conftest import Service
from tests.proxy import PrefixProxy, Proxy

from heliograph.cli import main
from heliograph.config import AuthSettings, KeySettings

pytestmark = pytest.mark.browser

ROWS = "[...document.querySelectorAll('a.row')].map((row) => row.innerText)"
LINES = "[...document.querySelectorAll('.view .line .text')].map((text) => text.textContent)"
STATE = "document.getElementById('connection').dataset.state"
POSITION = "document.getElementById('position').textContent"
FIRST = f"parseInt({POSITION}.replaceAll(',', ''))"
FOCUSED = "document.activeElement"


def created(task_id: str, name: str, agent: str = "coder", **more: object) -> dict[str, object]:
    """Make the event that describes a task."""
    payload = {"task_id": task_id, "name": name, "agent": agent, **more}
    return {"topic": "task.created", "payload": payload}


def status(task_id: str, to: str, **result: object) -> dict[str, object]:
    """Make a change of status."""
    return {"type": "task_status", "task_id": task_id, "status": to, "result": result}


async def test_list_is_live(page: Page, served: Service) -> None:
    """What is published while the page is open appears under its status, counted, and moves when it ends."""
    await served.publish(created("old", "Yesterday's build"), status("old", "completed", cost_usd=0.25))
    await page.go(served.url)
    await page.until(f"{STATE} === 'live' && {ROWS}.length === 1")
    await served.publish(created("new", "Fix the <b>parser</b>", metadata={"demo": True}))
    await served.write("new", "reading", "\x1b[32mwriting\x1b[0m")
    running = "document.querySelector('#sections [data-status=running]:not([hidden])')"
    text = await page.until(f"{running}?.innerText.includes('writing') && {running}.innerText")
    assert "Fix the <b>parser</b>" in text
    assert "demo" in text.lower()
    await served.publish(status("new", "failed", error="no such file"))
    failed = "document.querySelector('#sections [data-status=failed]')"
    await page.until(f"{failed}.innerText.includes('no such file')")
    totals = await page.evaluate("document.getElementById('totals').innerText.replace(/\\s+/g, ' ')")
    assert totals == "0 running 0 waiting 0 queued 1 failed 0 lost 1 completed 0 cancelled"
    assert page.messages == []


async def test_empty_service_says_what_to_do(page: Page, served: Service) -> None:
    """Without any task the page shows the commands that make one, and the list as soon as there is one."""
    await page.go(served.url)
    await page.until("document.getElementById('welcome').innerText.includes('heliograph exec')")
    await served.write("hello", "Hello, fleet")
    await page.until(f"document.getElementById('welcome').hidden && {ROWS}.length === 1")


async def test_task_opens_at_its_tail_and_goes_on(page: Page, served: Service) -> None:
    """A click shows the end of the log with the changes of status, then every new line as it comes."""
    await served.publish(created("t", "Build"), status("t", "running"))
    await served.write("t", *(f"line {i}" for i in range(1, 701)))
    await page.go(served.url)
    await page.until(f"{ROWS}.length === 1")
    await page.evaluate("document.querySelector('a.row').click()")
    await page.until(f"{LINES}.at(-1) === 'line 700'")
    await served.write("t", *(f"line {i}" for i in range(701, 1001)))
    await page.until(f"{LINES}.at(-1) === 'line 1000'")
    await served.publish(status("t", "completed"))
    await page.until(f"{LINES}.at(-1) === 'completed'")
    await page.until("document.getElementById('log-status').textContent === 'completed'")
    await page.press("Home")
    await page.until(f"{LINES}[0] === 'running' && {LINES}[1] === 'line 1'")


async def test_long_log_is_bounded_and_reaches_back(page: Page, served: Service) -> None:
    """A log of 100,000 lines opens with few DOM nodes, and every line of it can be scrolled to, in order."""
    await served.write("long", *(f"line {i}" for i in range(1, 100_001)))
    await page.go(f"{served.url}/#/tasks/long")
    await page.until(f"{LINES}.at(-1) === 'line 100000'")
    assert await page.evaluate("document.querySelectorAll('*').length") < 500
    for _ in range(15):
        await page.wheel(1000, 500, -1500)
    far = await page.until(f"{FIRST} < 99300 && {LINES}")
    numbers = [int(line.split()[1]) for line in far]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    middle = "document.querySelector('.canvas').clientHeight / 2"
    await page.evaluate(f"document.querySelector('.scroller').scrollTop = {middle}")
    await page.until(f"Math.abs({FIRST} - 50000) < 500 && {LINES}.length > 20")
    await page.press("Home")
    await page.until(f"{LINES}[0] === 'line 1'")
    assert await page.evaluate("document.querySelectorAll('*').length") < 500
    await page.press("End")
    await page.until(f"{LINES}.at(-1) === 'line 100000'")


async def test_reader_is_not_moved_by_new_lines(page: Page, served: Service) -> None:
    """Who scrolled up stays at the same line while new ones come, and is taken along again at the end."""
    await served.write("t", *(f"line {i}" for i in range(1, 1001)))
    await page.go(f"{served.url}/#/tasks/t")
    await page.until(f"{LINES}.at(-1) === 'line 1000' && {STATE} === 'live'")
    await page.wheel(1000, 500, -700)
    before = await page.until(f"{POSITION}.includes('of 1,000') && !{LINES}.includes('line 1000') && {LINES}")
    await served.write("t", *(f"line {i}" for i in range(1001, 1201)))
    await page.until(f"{POSITION}.endsWith('of 1,200')")
    assert await page.evaluate(f"{LINES}[0]") == before[0]
    await page.evaluate("document.getElementById('follow').click()")
    await page.until(f"{LINES}.at(-1) === 'line 1200'")


def piece(text: str, *marks: str, stream: str = "stdout") -> dict[str, object]:
    """Make a piece of a line of the task ``t``."""
    payload = {"task_id": "t", "output": text, "stream": stream, **dict.fromkeys(marks, True)}
    return {"topic": "task.output", "payload": payload}


async def test_pieces_of_a_line_are_one_line(page: Page, served: Service) -> None:
    """Prompts, progress bars and long lines look as on a terminal, fetched, live, and where the two meet."""
    # More pieces than one answer has, so that lines straddle answers.
    bar = [piece(f"{n} of 2000", "partial", *(["rewind"] if n else [])) for n in range(2001)]
    await served.publish(piece("first"), *bar, piece(""), piece("Name? ", "partial"))
    await page.go(f"{served.url}/#/tasks/t")
    await page.until(f"{STATE} === 'live' && {LINES}.at(-1) === 'Name? '")
    await page.until(f"JSON.stringify({LINES}) === JSON.stringify(['first', '2000 of 2000', 'Name? '])")
    await served.publish(piece("Ada"), piece("10%", "partial"), piece("50%", "partial", "rewind"))
    await page.until(f"JSON.stringify({LINES}.slice(2)) === JSON.stringify(['Name? Ada', '50%'])")
    await served.publish(piece("oops", stream="stderr"), piece("100%", "rewind"), piece("last"))
    await page.until(f"JSON.stringify({LINES}.slice(3)) === JSON.stringify(['50%', 'oops', '100%', 'last'])")
    assert (await page.evaluate(POSITION)).endswith("2,010 of 2,010")


async def test_a_short_log_has_no_scroll_bar(page: Page, served: Service) -> None:
    """A log that fits in view has nothing to scroll to, also after the window became smaller."""
    canvas, scroller = (f"document.querySelector('{name}').clientHeight" for name in (".canvas", ".scroller"))
    # The first event is not a line, so that at first there may be more above.
    await served.publish(created("t", "Build"))
    await served.write("t", "line 1")
    await page.resize(1400, 1000)
    await page.go(f"{served.url}/#/tasks/t")
    before = await page.until(f"{LINES}.length === 1 && {canvas} === {scroller} && {scroller}")
    await page.resize(1400, 700)
    await page.until(f"{scroller} < {before} && {canvas} === {scroller}")


async def test_output_is_text(page: Page, served: Service) -> None:
    """Markup in output, names and errors is shown as it was written and does nothing."""
    attack = "<script>window.hit = 1</script><img src=x onerror='window.hit = 1'>"
    await served.publish(created("t", attack, agent="coder"))
    await served.write("t", attack, f"\x1b[31m{attack}\x1b[0m", "x" * 5000)
    await served.publish(status("t", "failed", error=attack))
    await page.go(f"{served.url}/#/tasks/t")
    await page.until(f"{LINES}.filter((line) => line === {attack!r}).length === 2")
    for place in ("log-name", "failure"):
        await page.until(f"document.getElementById({place!r}).textContent === {attack!r}")
    assert await page.evaluate("document.querySelectorAll('main script, main img').length") == 0
    assert await page.evaluate("window.hit ?? null") is None
    assert await page.evaluate("document.querySelector('.view .line .fg-1').textContent") == attack
    await page.evaluate("document.querySelector('.view button.rest').click()")
    await page.until(f"{LINES}.includes('x'.repeat(5000))")


async def test_restart_of_the_service_loses_nothing(page: Page, served: Service) -> None:
    """While the service is away the page says so; then it goes on by itself with every line, once."""
    await served.write("t", "line 1")
    await page.go(f"{served.url}/#/tasks/t")
    await page.until(f"{STATE} === 'live' && {LINES}.length === 1")
    await served.stop()
    await page.until(f"['reconnecting', 'offline'].includes({STATE})")
    await served.start()
    await served.write("t", *(f"line {i}" for i in range(2, 21)))
    await page.until(f"{STATE} === 'live' && {LINES}.length >= 20")
    assert await page.evaluate(LINES) == [f"line {i}" for i in range(1, 21)]
    await served.publish(created("other", "After the restart"))
    await page.until(f"{ROWS}.some((row) => row.includes('After the restart'))")


async def test_a_view_that_could_not_be_loaded_comes_when_the_service_is_back(
    page: Page, served: Service
) -> None:
    """Who goes to a view that was never open while the service is away is told so, and sees it afterwards."""
    await page.go(served.url)
    await page.until(f"{STATE} === 'live'")
    await served.stop()
    await page.evaluate("location.hash = '#/agents'")
    await page.until("document.getElementById('banner').innerText.includes('could not be loaded')")
    await served.start()
    await page.until(f"{STATE} === 'live' && document.querySelector('.view-agents .empty-state') !== null")


async def test_service_with_another_log_is_taken_anew(page: Page, served: Service) -> None:
    """When the stream can't be resumed, the page says so and shows what the service has now."""
    await served.write("before", "line 1")
    await page.go(served.url)
    await page.until(f"{STATE} === 'live' && {ROWS}.length === 1")
    await served.start_anew()
    await page.until("document.getElementById('banner').innerText.includes('could not be resumed')")
    await served.write("after", "line 1")
    await page.until(f"{STATE} === 'live' && {ROWS}.length === 1 && {ROWS}[0].includes('after')")


async def test_a_problem_covers_a_notice_only_while_it_lasts(page: Page, served: Service) -> None:
    """What the page has told stands again behind a problem that is over, until somebody dismisses it."""
    banner = "document.getElementById('banner').innerText"

    async def a_problem_comes_and_goes() -> None:
        away = "fetch = () => Promise.reject(new TypeError('away')); location.hash = '#/agents'"
        await page.evaluate(f"globalThis.answered = fetch; {away}")
        await page.until(f"{banner}.includes('be reached')")
        await page.evaluate("fetch = answered; location.hash = '#/status'")
        await page.until(f"document.querySelector('.view-status') && !{banner}.includes('be reached')")

    await served.write("before", "line 1")
    await page.go(served.url)
    await page.until(f"{STATE} === 'live' && {ROWS}.length === 1")
    await served.start_anew()
    await page.until(f"{banner}.includes('could not be resumed')")
    await a_problem_comes_and_goes()
    assert "could not be resumed" in await page.evaluate(banner)
    await page.evaluate("document.querySelector('#banner > button').click()")
    await a_problem_comes_and_goes()
    assert await page.evaluate("document.getElementById('banner').hidden")


async def test_keyboard(page: Page, served: Service) -> None:
    """The list is filtered, walked, opened and left with the keyboard alone."""
    for name in ("alpha", "beta", "gamma"):
        await served.publish(created(name, f"Task {name}", agent=f"agent-{name}"))
    await page.go(served.url)
    await page.until(f"{ROWS}.length === 3")
    await page.press("j")
    await page.press("j")
    assert "beta" in await page.evaluate(f"{FOCUSED}.innerText")
    await page.press("k")
    assert "gamma" in await page.evaluate(f"{FOCUSED}.innerText")
    await page.press("Enter")
    await page.until(f"location.hash === '#/tasks/gamma' && {FOCUSED}.getAttribute('role') === 'log'")
    await page.evaluate("document.querySelector('.skip').click()")
    assert await page.evaluate(f"{FOCUSED}.id") == "log"  # past all rows of the list
    await page.press("Escape")
    await page.until(f"!document.getElementById('log') && {FOCUSED}.innerText.includes('gamma')")
    await page.press("/")
    for letter in "alp":
        await page.press(letter)
    await page.until(f"{ROWS}.length === 1 && {ROWS}[0].includes('alpha')")
    await page.press("ArrowDown")
    assert "alpha" in await page.evaluate(f"{FOCUSED}.innerText")
    await page.press("/")
    await page.press("Escape")
    await page.until(f"{ROWS}.length === 3")


async def test_many_tasks_make_few_rows(page: Page, served: Service) -> None:
    """With thousands of tasks the page counts all of them and shows the newest, and more on demand."""
    for first in range(0, 2400, 800):
        await served.publish(*(created(f"t{i}", f"Task {i}") for i in range(first, first + 800)))
        await served.publish(*(status(f"t{i}", "completed") for i in range(first, first + 800)))
    await page.go(served.url)
    await page.until("document.querySelector('#totals [data-status=completed] b').innerText === '2,400'")
    rows = await page.evaluate(ROWS)
    assert len(rows) < 100
    assert "Task 2399" in rows[0]
    await page.evaluate("document.querySelector('[data-status=completed] .more').click()")
    await page.until(f"{ROWS}.length === {len(rows) + 100}")
    assert await page.evaluate(f"new Set({ROWS}).size") == len(rows) + 100


async def test_filter_is_the_services_and_in_the_address(page: Page, served: Service) -> None:
    """Words find what is not loaded, counted; the address brings the same back, also beside a task."""
    await served.publish(
        created("old1", "Nightly backup of Würfel", model="rare-7"),
        created("old2", "Nightly archive", model="rare-7"),
        *(status(f"old{n}", "completed") for n in (1, 2)),
    )
    for _ in range(3):
        await served.publish(*(created(f"n{_}-{i}", f"Task {i}") for i in range(100)))
        await served.publish(*(status(f"n{_}-{i}", "completed") for i in range(100)))
    await page.go(served.url)
    await page.until(f"{STATE} === 'live' && {ROWS}.length > 30")
    counted = "document.querySelector('#totals [data-status=completed] b').innerText"
    for text, found in (("backup nightly", 1), ("WÜRFEL", 1), ("rare nightly", 2)):
        await page.evaluate(
            f"(() => {{ const f = document.getElementById('filter'); f.value = {text!r};"
            " f.dispatchEvent(new Event('input')); })()"
        )
        await page.until(f"{ROWS}.length === {found} && {counted} === '{found}'")
    await page.until("location.hash === '#/?text=rare+nightly'")
    await page.call("Page.reload")
    await page.until(f"{ROWS}.length === 2 && {counted} === '2'")
    await page.evaluate("document.querySelector('a.row').click()")
    await page.until("document.getElementById('log-name')?.innerText.includes('Nightly')")
    assert len(await page.evaluate(ROWS)) == 2
    await page.evaluate("document.getElementById('close').click()")
    await page.until("location.hash === '#/?text=rare+nightly'")
    await served.publish(created("new", "Rare, nightly and new"))
    await page.until("document.getElementById('fresh').innerText === '1 new'")  # the focus is in the list
    await page.evaluate("document.getElementById('fresh').click()")
    await page.until(f"{ROWS}.length === 3")
    await page.evaluate(
        "(() => { const g = document.getElementById('group'); g.value = 'model';"
        " g.dispatchEvent(new Event('change')); })()"
    )
    titles = "[...document.querySelectorAll('h2 .fold')].map((title) => title.innerText).join()"
    await page.until(f"{titles}.includes('rare-7')")


async def test_what_happened_meanwhile_is_told(page: Page, served: Service) -> None:
    """What ended while the page was not looked at is counted in its title, and told on coming back."""
    await served.publish(status("t", "running"), status("u", "running"))
    await page.go(served.url)
    await page.until(f"{STATE} === 'live' && {ROWS}.length === 2")
    async with page.another() as other:  # in front of it
        await page.until("document.hidden")
        await served.publish(status("t", "failed", error="x"), status("u", "completed"))
        await page.until("document.title.startsWith('(1) ')")
        assert await other.evaluate("document.visibilityState") == "visible"
    await page.call("Page.bringToFront")
    looked = await page.until("document.querySelector('.looked:not([hidden])')?.innerText")
    assert "1 failed, 1 completed" in looked
    await page.evaluate("document.querySelector('.looked button').click()")
    await page.until("document.querySelector('.looked').hidden && !document.title.startsWith('(')")


async def test_nothing_moves_for_ever(page: Page, served: Service) -> None:
    """With tasks running and nothing happening no animation goes on."""
    await served.publish(*(status(f"t{i}", "running") for i in range(20)))
    await page.go(served.url)
    await page.until(f"{STATE} === 'live' && {ROWS}.length === 20")
    endless = (
        "document.getAnimations().filter((one) => one.effect.getComputedTiming().iterations === Infinity)"
    )
    assert await page.evaluate(f"{endless}.length") == 0


async def test_rows_stand_still_under_the_pointer(page: Page, served: Service) -> None:
    """While the pointer is in the list no row comes or moves; what is new is shown when it is asked for."""
    await served.publish(*(created(f"t{i}", f"Task {i}") for i in range(3)))
    await page.go(served.url)
    before = await page.until(f"{ROWS}.length === 3 && {ROWS}")
    box = await page.evaluate("document.querySelector('a.row').getBoundingClientRect().toJSON()")
    await page.point(box["x"] + 50, box["y"] + 10)
    await served.publish(*(created(f"new{i}", f"New {i}") for i in range(2)), status("t2", "running"))
    await page.until("document.getElementById('fresh').innerText === '3 new'")
    names = [row.split("\n")[0] for row in before]
    assert [row.split("\n")[0] for row in await page.evaluate(ROWS)] == names
    assert "running" in await page.evaluate("document.querySelector('a.row').innerText")
    await page.evaluate("document.getElementById('fresh').click()")
    await page.until(f"{ROWS}.length === 5 && {ROWS}[0].startsWith('Task 2')")
    await page.evaluate("document.getElementById('pause').click()")
    await page.point(5, 5)
    await served.publish(created("later", "Later"))
    await page.until("document.getElementById('fresh').innerText === '1 new'")
    await page.evaluate("document.getElementById('pause').click()")
    await page.until(f"{ROWS}.length === 6")


MOVED = """
    window.moved = [];
    const box = ({ x, y, width, height }) => [x, y, width, height].map(Math.round).join();
    const said = ({ node, previousRect, currentRect }) =>
        `${box(previousRect)} to ${box(currentRect)}: ${node?.outerHTML?.slice(0, 120) ?? node?.data}`;
    window.watching = new PerformanceObserver((list) =>
        list.getEntries().forEach(({ sources }) => moved.push(...sources.map(said))));
    watching.observe({ type: "layout-shift" });
"""
PAINTED = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"


async def test_nothing_moves_under_the_pointer(page: Page, served: Service) -> None:
    """While the pointer is in the list nothing on the page is moved by what happens.

    Counts get more digits, sections come, more tasks are offered, the order by cost changes, agents with long
    names come, the service goes away and comes back with another log.
    """
    await served.publish(
        *(item for n in range(9) for item in (created(f"t{n}", "x"), status(f"t{n}", "running")))
    )
    await served.publish(created("t10", "x"), status("t10", "failed", error="it broke"))
    await page.go(f"{served.url}/#/?sort=cost")
    await page.until(f"{STATE} === 'live' && {ROWS}.length === 10")
    box = await page.evaluate("document.querySelectorAll('a.row')[5].getBoundingClientRect().toJSON()")
    await page.point(box["x"] + 50, box["y"] + 10)
    await page.until("document.querySelector('.spent').innerText && innerWidth === 1440")
    await page.evaluate(f"{PAINTED}.then(() => {{ {MOVED} }})")
    cost = {"topic": "task.cost", "payload": {"task_id": "t0", "cost_usd": 5}}
    await served.publish(cost)
    offer = "document.getElementById('fresh').checkVisibility() && document.getElementById('fresh').innerText"
    await page.until(f"{offer} === 'New order'")
    agent = "an-agent-with-a-name-that-is-rather-long"
    await served.publish(
        *(
            item
            for n in range(120)
            for item in (created(f"n{n}", "x", agent=agent), status(f"n{n}", "running"))
        )
    )
    await served.publish(
        *(status(f"n{n}", "cancelled") for n in range(12)),
        status("t1", "failed"),
        status("t2", "waiting_input"),
    )
    counted = "[...document.querySelectorAll('#totals b')].map((one) => one.textContent).join()"
    await page.until(f"{counted} === '115,1,0,2,0,0,12' && {offer}.endsWith(' new')")
    await served.stop()
    await page.until(f"{STATE} === 'reconnecting' || {STATE} === 'offline'")
    served.data = served.data.with_name("another")
    await served.start()
    await page.until(f"{STATE} === 'live' && document.getElementById('banner').checkVisibility()")
    await page.until(f"{counted} === '0,0,0,0,0,0,0'")
    await page.evaluate(PAINTED)
    assert await page.evaluate("moved") == []


@pytest.mark.parametrize(("width", "height"), [(320, 568), (360, 640), (390, 844), (433, 900), (640, 320)])
async def test_fits_a_phone(page: Page, served: Service, width: int, height: int) -> None:
    """Nothing is wider than the screen, the log has room, and the connection says its state in words."""
    await served.publish(
        created("t", "A name that is longer than a phone is wide", agent="an-agent-with-a-long-name")
    )
    await served.write("t", *("x" * 300 for _ in range(60)))
    await page.resize(width, height)
    await page.go(served.url)
    await page.until(f"{STATE} === 'live' && {ROWS}.length === 1")
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert await page.evaluate(fits)
    row = "document.querySelector('a.row').getBoundingClientRect()"
    assert await page.evaluate(f"{row}.right <= innerWidth && {row}.bottom <= innerHeight")
    await page.go(f"{served.url}/#/tasks/t")
    await page.until(f"{LINES}.length > 0")
    assert await page.evaluate(fits)
    assert await page.evaluate("document.querySelector('.scroller').clientHeight") >= min(height * 0.4, 250)
    pill = "document.querySelector('#connection span').getBoundingClientRect()"
    assert await page.evaluate(f"{pill}.width > 10 && {pill}.right <= innerWidth && {pill}.left >= 0")


async def test_loading_is_no_empty_fleet(page: Page, served: Service) -> None:
    """Until the service has answered the page says that it loads, and gives no number."""
    await page.call("Fetch.enable", patterns=[{"urlPattern": "*/tasks\\?*"}])
    await page.go(served.url)
    await page.until("document.getElementById('loading')?.checkVisibility()")
    assert not await page.evaluate("document.getElementById('welcome').checkVisibility()")
    assert "0" not in await page.evaluate("document.getElementById('totals').innerText")
    await page.call("Fetch.disable")
    await page.until("document.getElementById('welcome').checkVisibility()")
    assert not await page.evaluate("document.getElementById('loading').checkVisibility()")


async def test_silent_peer_is_not_called_live(page: Page, served: Service, nursery: trio.Nursery) -> None:
    """A connection that has gone silent is soon said to be away, since when and until which attempt."""
    proxy = Proxy(served.port)
    await nursery.start(proxy.run)
    await page.go(f"http://127.0.0.1:{proxy.port}/")
    await page.until(f"{STATE} === 'live'")
    proxy.stall()
    said = "document.getElementById('connection').innerText"
    await page.until(f"{STATE} !== 'live' && {said}.includes(' for ')", seconds=15)
    await page.until(f"{said}.includes('next try in') || {said}.includes('trying')")
    proxy.cut()
    proxy.flow()
    await page.evaluate("dispatchEvent(new Event('online'))")
    await page.until(f"{STATE} === 'live'")


async def test_works_below_a_path(page: Page, served: Service, nursery: trio.Nursery) -> None:
    """Behind a proxy that serves it below a path the page is whole and live, and its links lead there."""
    proxy = PrefixProxy(served.port, "/helio")
    await nursery.start(proxy.run)
    await served.write("t", "line 1")
    await page.go(f"http://127.0.0.1:{proxy.port}/helio/")
    await page.until(f"{STATE} === 'live' && {ROWS}.length === 1")
    await page.evaluate("document.querySelector('a.row').click()")
    await page.until(f"{LINES}.length === 1")
    await served.write("t", "line 2")
    await page.until(f"{LINES}.length === 2")
    assert "/helio/" in await page.evaluate("document.getElementById('full').href")
    assert page.messages == []


async def test_a_refused_origin_is_explained(page: Page, served: Service, nursery: trio.Nursery) -> None:
    """Behind a proxy that hides the page's host the page says why it is not live, and what to do there."""
    proxy = PrefixProxy(served.port, host="backend")
    await nursery.start(proxy.run)
    await served.write("t", "line 1")
    await page.go(f"http://127.0.0.1:{proxy.port}/")
    banner = "document.getElementById('banner').innerText"
    said = await page.until(f"{banner}.includes('origin') && {banner}")
    assert f"the origin http://127.0.0.1:{proxy.port} is neither the page's own host, backend," in said
    assert "have it pass Host on, or name it in HELIOGRAPH_TRUSTED_PROXIES" in said
    assert "key" not in said
    await page.until(f"{ROWS}.length === 1 && {STATE} !== 'live'")


async def test_tabs_share_one_socket(page: Page, served: Service) -> None:
    """Seven tabs are live and hear what happens, over the connection that the first one has begun."""
    await page.go(served.url)
    await page.until(f"{STATE} === 'live'")
    async with AsyncExitStack() as tabs:
        others = [await tabs.enter_async_context(page.another()) for _ in range(6)]
        for tab in others:
            await tab.go(served.url)
            await tab.until(f"{STATE} === 'live'")
        await served.write("t", "line 1")
        for tab in (page, *others):
            await tab.call("Page.bringToFront")  # a hidden tab draws nothing
            await tab.until(f"{ROWS}.length === 1")
        # Waited for: on a busy machine a connection that was slow to answer may just have been replaced.
        streams = "fetch('api/v1/status').then((answer) => answer.json()).then((it) => it.streams)"
        await page.until(f"{streams}.then((count) => count === 1)")


async def test_page_is_small_and_kept(page: Page, served: Service) -> None:
    """The first load is under 60 KB on the wire; a second asks for the page alone."""
    script = """
        (async () => {
            const loaded = performance.getEntriesByType("resource").map(({ name }) => name);
            const files = loaded.filter((name) => name.includes("/static/"));
            const found = await Promise.all(files.map(async (name) => {
                const answer = await fetch(name, { cache: "reload" });
                return [answer.headers.get("Content-Length"), answer.headers.get("Cache-Control")];
            }));
            return found;
        })()
    """
    await page.go(served.url)
    await page.until(f"{STATE} === 'live'")
    found = await page.evaluate(script)
    assert len(found) > 10
    assert sum(int(length) for length, _ in found) < 60_000
    assert all("immutable" in keep for _, keep in found)


async def test_terminal_output_is_as_on_a_terminal(page: Page, served: Service) -> None:
    """Live and after a reload a log shows what a terminal would have: moves, colours over lines, links."""
    await served.publish(status("t", "running"))
    await page.go(f"{served.url}/#/tasks/t")
    await page.until(f"{STATE} === 'live' && {LINES}.length === 1")
    spin, bar = "spin |\b/\b-\bdone", "100 of 200\r7"
    await served.write("t", spin, bar, "\x1b[31mred", "still red\x1b[0m", "see https://example.org/x?y=1.")
    await served.publish(status("t", "failed", error={"code": 7}))
    shown = [
        "running",
        "spin done",
        "700 of 200",
        "red",
        "still red",
        "see https://example.org/x?y=1.",
        "failed",
    ]
    for _ in range(2):
        await page.until(
            f"JSON.stringify({LINES}) === {json.dumps(json.dumps(shown, separators=(',', ':')))}"
        )
        reds = "[...document.querySelectorAll('.view .fg-1')].map((span) => span.textContent)"
        assert await page.evaluate(reds) == ["red", "still red"]
        link = "document.querySelector('.view .text a')"
        assert await page.evaluate(f"[{link}.href, {link}.rel]") == [
            "https://example.org/x?y=1",
            "noopener noreferrer nofollow",
        ]
        await page.until("document.getElementById('failure').textContent === '{\"code\":7}'")
        await page.call("Page.reload")


async def test_wrong_task_shows_nothing_of_another(page: Page, served: Service) -> None:
    """Beside a name that is no task's stands nothing of the task that was open before."""
    await served.publish(created("t", "Right", input="secret input"), status("t", "failed", error="an error"))
    await page.go(f"{served.url}/#/tasks/t")
    await page.until("document.getElementById('details').innerText.includes('Input and result')")
    await page.evaluate("location.hash = '#/tasks/no-such-task'")
    await page.until("document.querySelector('#log .hint').innerText === 'There is no such task.'")
    text = await page.evaluate("document.getElementById('log').innerText")
    assert "no-such-task" in text
    assert not any(word in text for word in ("Right", "secret", "an error", "Input and result"))


async def test_unknown_task_is_said(page: Page, served: Service) -> None:
    """A link to a task that does not exist says so, and offers nothing of its log."""
    await page.go(f"{served.url}/#/tasks/nowhere")
    await page.until("document.querySelector('#log .hint').innerText === 'There is no such task.'")
    tools = "[...document.querySelectorAll('#log :is(button, .button, input)')]"
    offered = f"{tools}.filter((one) => one.checkVisibility())"
    assert await page.evaluate(f"{offered}.map((one) => one.id)") == ["close"]
    await served.write("t", "here")
    await page.evaluate("location.hash = '#/tasks/t'")
    await page.until(f"{LINES}.length === 1 && {offered}.length > 5")


async def test_key_is_asked_for_and_used(page: Page, stopped_service: Service) -> None:
    """A key is asked for in the service's words, and its session serves every tab until it is forgotten."""
    secret = "correct horse battery staple"
    key = KeySettings("page", hashlib.sha256(secret.encode()).hexdigest())
    stopped_service.auth = AuthSettings(keys=(key,))
    await stopped_service.start()
    await page.go(stopped_service.url)

    async def give(text: str) -> None:
        await page.until("document.getElementById('ask-key')?.open")
        await page.evaluate(f"document.querySelector('#ask-key input').value = {text!r}")
        await page.evaluate("document.querySelector('#ask-key .primary').click()")

    async def is_refused(why: str) -> None:
        await page.until(f"document.querySelector('#ask-key .refused')?.innerText.includes({why!r})")

    await page.until("document.getElementById('ask-key')?.open")
    await page.press("Escape")  # is no dead end
    await page.until("document.getElementById('banner').innerText.includes('Give a key')")
    assert await page.evaluate(STATE) == "stopped"
    await page.evaluate("document.querySelector('#banner p button').click()")
    await give("wrong")
    await is_refused("unknown API key")
    await give("schlüssel 日本")
    await is_refused("characters that no key has")
    await give(secret)
    await page.until(f"{STATE} === 'live'")
    await stopped_service.publish({"type": "task_output", "task_id": "t", "output": "with a key"}, key=secret)
    await page.until(f"{ROWS}.some((row) => row.includes('with a key'))")
    assert await page.evaluate("document.cookie + JSON.stringify({ ...sessionStorage })") == "{}"
    async with page.another() as second:
        await second.go(f"{stopped_service.url}/#/tasks/t")
        await second.until(f"{STATE} === 'live' && {LINES}.length === 1")
        full = "fetch(document.getElementById('full').href).then((answer) => answer.text())"
        assert await second.evaluate(full) == "with a key\n"
        for action in ("another key", "log out"):
            await second.evaluate("document.getElementById('open-palette').click()")
            await second.until("document.querySelector('.palette input') === document.activeElement")
            for letter in action:
                await second.press(letter)
            await second.press("Enter")
            await second.until("document.getElementById('ask-key')?.open")
            await second.press("Escape")
            await second.until("!document.getElementById('ask-key')")
            assert await second.evaluate("document.getElementById('banner').hidden") == (action != "log out")


async def test_a_revoked_key_shuts_the_page(
    page: Page, stopped_service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A page whose key is revoked while it is open asks for another one, and goes on with it."""
    monkeypatch.setenv("HELIOGRAPH_DATA", str(stopped_service.data))
    monkeypatch.chdir(tmp_path)

    async def keys(*arguments: str) -> str:
        done = await trio.to_thread.run_sync(CliRunner().invoke, main, ["keys", *arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    async def add(name: str) -> str:
        printed = await keys("add", name, "--scope", "read", "--scope", "publish")
        return next(line for line in printed.splitlines() if line.startswith("heliograph_"))

    async def give(secret: str) -> None:
        await page.until("document.getElementById('ask-key')?.open")
        await page.evaluate(f"document.querySelector('#ask-key input').value = {secret!r}")
        await page.evaluate("document.querySelector('#ask-key .primary').click()")

    first, second = await add("first"), await add("second")
    await stopped_service.start()
    await page.go(stopped_service.url)
    await give(first)
    await page.until(f"{STATE} === 'live'")
    await keys("revoke", "first")
    await page.until(f"document.getElementById('ask-key')?.open && {STATE} !== 'live'")
    await stopped_service.publish(created("meanwhile", "Meanwhile"), key=second)
    await give(second)
    await page.until(f"{STATE} === 'live' && {ROWS}.some((row) => row.includes('Meanwhile'))")


async def test_log_is_searched_by_the_service(page: Page, served: Service) -> None:
    """Lines that are not loaded are found, counted and gone to, by keys; errors and stderr alone as well."""
    lines = [f"line {i}{' needle' if i % 2500 == 0 else ''}" for i in range(1, 10_001)]
    await served.write("t", *lines)
    await served.publish(piece("went wrong", stream="stderr"))
    await served.write("t", *(f"more {i}" for i in range(100)))
    await page.go(f"{served.url}/#/tasks/t")
    await page.until(f"{LINES}.at(-1) === 'more 99'")
    await page.press("s")
    await page.until("document.activeElement === document.querySelector('.search input')")
    for letter in "NEEDLE":
        await page.press(letter)
    linked = "document.querySelector('.view .linked .text')?.textContent"
    said = "document.querySelector('.search .num').textContent"
    await page.until(f"{linked} === 'line 10000 needle' && {said} === '4 of 4'")
    await page.press("Enter")
    await page.until(f"{linked} === 'line 2500 needle' && {said} === '1 of 4'")
    await page.evaluate("document.querySelector('.scroller').focus()")
    await page.press("n")
    await page.until(f"{linked} === 'line 5000 needle'")
    await page.press("e")
    await page.until(f"{linked} === 'went wrong'")
    await page.evaluate("document.getElementById('stderr').click()")
    await page.until(f"JSON.stringify({LINES}) === '[\"went wrong\"]'")
    await served.publish(piece("quiet"), piece("again", stream="stderr"))
    await page.until(f'JSON.stringify({LINES}) === \'["went wrong","again"]\'')
    await page.evaluate("document.getElementById('stderr').click()")
    await page.until(f"{LINES}.at(-2) === 'quiet'")
    await page.press("s")
    await page.press("Escape")
    assert await page.evaluate(f"{FOCUSED}.getAttribute('role')") == "log"
    await page.press("e")
    await page.resize(320, 800)
    await page.until(f"{said}.endsWith(' of 2') && innerWidth === 320")
    assert await page.evaluate("document.documentElement.scrollWidth") == 320


async def test_a_link_leads_to_a_line(page: Page, served: Service) -> None:
    """An address with a line opens the log there, marked; each line has such an address."""
    await served.write("t", *(f"line {i}" for i in range(1, 5001)))
    await page.go(f"{served.url}/#/tasks/t?line=1234")
    await page.until("document.querySelector('.view .linked .text')?.textContent === 'line 1234'")
    assert await page.evaluate("document.querySelector('.view .linked .seq').hash") == "#/tasks/t?line=1234"
    await page.evaluate("document.querySelectorAll('.view .seq')[3].click()")
    await page.until("document.querySelector('.view .linked .text')?.textContent === 'line 1237'")


async def test_own_events_stand_in_the_log(page: Page, served: Service) -> None:
    """What a task's agent does stands between its lines, fetched and live, and unfolds."""
    call = {"topic": "task.tool_call", "payload": {"task_id": "t", "name": "grep", "input": {"for": "TODO"}}}
    await served.write("t", "before")
    await served.publish(call)
    await page.go(f"{served.url}/#/tasks/t")
    await page.until(f"{STATE} === 'live' && {LINES}.length === 2")
    await served.publish(call)
    await served.write("t", "after")
    await page.until(f"{LINES}.length === 4")
    shown = await page.evaluate(LINES)
    assert [line.split(" ")[0] for line in shown] == ["before", "task.tool_call", "task.tool_call", "after"]
    await page.evaluate("document.querySelector('.view .event button').click()")
    await page.until(f'{LINES}[1].includes(\'"for": "TODO"\')')


async def test_page_ends_up_as_the_service_says(page: Page, served: Service) -> None:
    """After a fleet has lived in front of the page, its counts and every row are what the service answers."""
    await page.go(served.url)
    await page.until(f"{STATE} === 'live'")
    rng = random.Random(5)
    names = [f"t{n}" for n in range(60)]
    waiting = [(name, step) for name in names for step in range(8)]
    waiting.sort(key=lambda one: (one[1] + rng.random() * 2, one[0]))
    done: dict[str, int] = dict.fromkeys(names, 0)
    items: list[dict[str, object]] = []
    for name, _ in waiting:
        done[name] += 1
        match done[name]:
            case 1 if rng.random() < 0.7:
                items.append(created(name, f"Task {name}", agent=f"a{len(name)}"))
            case 8:
                outcome = rng.choice(["completed", "failed", "cancelled"])
                items.append(status(name, outcome, cost_usd=rng.randrange(100) / 100))
            case _:
                output = {"type": "task_output", "task_id": name}
                items += [{**output, "output": f"line {n}"} for n in range(rng.randrange(1, 9))]
    for first in range(0, len(items), 40):
        await served.publish(*items[first : first + 40])
    async with httpx.AsyncClient(base_url=served.url) as client:
        answer = (await client.get("/api/v1/tasks?counts=true&limit=100")).json()
    for name in ("completed", "failed", "cancelled"):
        total = f"document.querySelector('#totals [data-status={name}] b').innerText"
        await page.until(f"{total} === '{answer['meta']['counts'][name]}'")
    shut = "[...document.querySelectorAll('.fold[aria-expanded=false]')]"
    await page.evaluate(f"{shut}.forEach((fold) => fold.click())")
    await page.until(f"{shut}.length === 0")
    # A section that was opened offers more once it is drawn: what offers it is clicked until none does.
    more = "[...document.querySelectorAll('.more:not([hidden])')]"
    await page.until(f"{more}.map((button) => button.click()).length === 0 && {ROWS}.length === 60")
    rows = (
        "Object.fromEntries([...document.querySelectorAll('a.row')].map((row) => [row.hash.slice(8),"
        " ['status', 'lines', 'cost'].map((name) => name === 'status' ? row.dataset.status"
        " : row.querySelector('.' + name).textContent)]))"
    )
    expected = {
        task["task_id"]: [task["status"], str(task["output_lines"] or ""), f"${task['cost_usd']:.2f}"]
        for task in answer["tasks"]
    }
    await page.until(f"JSON.stringify(Object.entries({rows}).sort()) === {json.dumps(_sorted(expected))}")


def _sorted(rows: dict[str, list[str]]) -> str:
    return json.dumps(sorted([name, row] for name, row in rows.items()), separators=(",", ":"))
