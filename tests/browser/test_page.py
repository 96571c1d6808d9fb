"""The page as a reader uses it, in front of the real service."""

from __future__ import annotations

import hashlib

import pytest
from tests.browser.chromium import Page
from tests.browser.conftest import Service

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
    assert totals == "0 running 0 waiting 0 queued 1 failed 1 completed 0 cancelled"
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
    assert await page.evaluate("document.getElementById('log-status').textContent") == "completed"
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
    assert await page.evaluate("document.getElementById('log-name').textContent") == attack
    assert await page.evaluate("document.getElementById('failure').textContent") == attack
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


async def test_service_with_another_log_is_taken_anew(page: Page, served: Service) -> None:
    """When the stream can't be resumed, the page says so and shows what the service has now."""
    await served.write("before", "line 1")
    await page.go(served.url)
    await page.until(f"{STATE} === 'live' && {ROWS}.length === 1")
    await served.stop()
    served.data = served.data.with_name("another")
    await served.start()
    await page.until("document.getElementById('banner').innerText.includes('could not be resumed')")
    await served.write("after", "line 1")
    await page.until(f"{STATE} === 'live' && {ROWS}.length === 1 && {ROWS}[0].includes('after')")


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
    await page.press("Escape")
    await page.until(f"document.getElementById('log').hidden && {FOCUSED}.innerText.includes('gamma')")
    await page.press("/")
    for letter in "alp":
        await page.press(letter)
    await page.until(f"{ROWS}.length === 1 && {ROWS}[0].includes('alpha')")
    await page.press("Escape")
    await page.until(f"{ROWS}.length === 3")


async def test_many_tasks_make_few_rows(page: Page, served: Service) -> None:
    """With thousands of tasks the page counts all of them and shows the newest, and more on demand."""
    for first in range(0, 2400, 800):
        await served.publish(*(created(f"t{i}", f"Task {i}") for i in range(first, first + 800)))
        await served.publish(*(status(f"t{i}", "completed") for i in range(first, first + 800)))
    await page.go(served.url)
    await page.until("document.querySelector('#totals [data-status=completed]').innerText.includes('2,000+')")
    rows = await page.evaluate(ROWS)
    assert len(rows) < 100
    assert "Task 2399" in rows[0]
    await page.evaluate("document.querySelector('[data-status=completed] .more').click()")
    await page.until(f"{ROWS}.length === {len(rows) + 100}")
    await page.evaluate("document.querySelector('#older button').click()")
    await page.until("document.querySelector('#totals [data-status=completed]').innerText.includes('2,400')")


async def test_unknown_task_is_said(page: Page, served: Service) -> None:
    """A link to a task that does not exist says so."""
    await page.go(f"{served.url}/#/tasks/nowhere")
    await page.until("document.querySelector('#log .hint').innerText === 'There is no such task.'")


async def test_key_is_asked_for_and_used(page: Page, stopped_service: Service) -> None:
    """With keys configured the page asks for one, refuses a wrong one, and is live with a right one."""
    secret = "correct horse battery staple"
    key = KeySettings("page", hashlib.sha256(secret.encode()).hexdigest())
    stopped_service.auth = AuthSettings(keys=(key,))
    await stopped_service.start()
    await page.go(stopped_service.url)

    async def give(text: str) -> None:
        await page.until("document.getElementById('ask-key').open")
        await page.evaluate(f"document.querySelector('#ask-key input').value = {text!r}")
        await page.evaluate("document.querySelector('#ask-key button').click()")

    await give("wrong")
    await page.until("document.querySelector('#ask-key .refused').innerText.includes('did not accept')")
    await give(secret)
    await page.until(f"{STATE} === 'live'")
    await stopped_service.publish({"type": "task_output", "task_id": "t", "output": "with a key"}, key=secret)
    await page.until(f"{ROWS}.some((row) => row.includes('with a key'))")
