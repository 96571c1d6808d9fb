"""The fleet's attention and its groups, which are the service's: also of tasks that are not loaded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from tests.browser.chromium import Page
from tests.browser.conftest import Service
from tests.browser.test_page import LINES, STATE, created, status

from heliograph.config import TaskSettings

pytestmark = pytest.mark.browser

HEADS = (
    "[...document.querySelectorAll('#sections > section:not([hidden]) .fold')]"
    r".map((one) => one.innerText.trim().split(/\s*\n\s*/).join(' ')).join()"
)

TOTALS = "document.getElementById('totals').innerText.replace(/\\s+/g, ' ')"


def rows(section: str) -> str:
    """Return the expression of the number of rows of a section."""
    return f"document.querySelectorAll('[data-section=\"{section}\"] a.row').length"


async def test_all_silent_tasks_are_counted(page: Page, served: Service) -> None:
    """Those that are silent for longest come first, whatever is loaded, until something is heard of them."""
    now = datetime.now(UTC)
    old, new = (now - timedelta(hours=1)).isoformat(), now.isoformat()
    await served.publish(*({**status(f"old-{n}", "running"), "timestamp": old} for n in range(60)))
    await served.publish(*({**status(f"new-{n}", "running"), "timestamp": new} for n in range(220)))
    await page.go(served.url)
    await page.until(f"{STATE} === 'live' && {HEADS} === 'Silent for long 60,Running 220'")
    await served.write("old-7", "here I am")
    await page.until(f"{HEADS} === 'Silent for long 59,Running 221'")


async def test_a_task_whose_heartbeat_falls_silent_is_lost_until_it_is_heard(
    page: Page, stopped_service: Service
) -> None:
    """The list, its totals and the task's own view show the loss with its reason, and the task's return."""
    stopped_service.tasks = TaskSettings(lost_after_seconds=0.5)
    await stopped_service.start()
    await stopped_service.publish(created("watch", "Night watch", heartbeat_seconds=0.1))
    await stopped_service.write("watch", "all is quiet")
    await page.go(stopped_service.url)
    reason = "document.querySelector('[data-section=lost] a.row .latest')?.innerText"
    await page.until(f"{HEADS} === 'Lost 1' && {reason}.startsWith('no heartbeat for')")
    assert "0 running" in (totals := await page.evaluate(TOTALS))
    assert "1 lost" in totals
    await page.evaluate("document.querySelector('a.row').click()")
    shown = "document.getElementById('log-status').textContent"
    await page.until(f"{shown} === 'lost' && {LINES}.at(-1) === 'lost'")
    assert "no heartbeat for" in await page.evaluate("document.getElementById('failure').innerText")
    # Its next heartbeat is due in an hour, so that it is not lost again at once.
    await stopped_service.publish(created("watch", "Night watch", heartbeat_seconds=3600))
    await page.until(f"{shown} === 'running'")
    await page.go(stopped_service.url)
    await page.until(f"{HEADS} === 'Running 1' && {TOTALS}.startsWith('1 running')")
    assert "0 lost" in await page.evaluate(TOTALS)


async def test_a_narrow_list_says_what_went_wrong(page: Page, served: Service) -> None:
    """Below a failed task stands its error; a row grows only when the list is not held."""
    await served.publish(status("a", "failed", error="it broke"), status("b", "running"))
    await page.resize(400, 800)
    await page.go(served.url)
    await page.until(f"{STATE} === 'live' && document.querySelectorAll('a.row').length === 2")
    told = (
        "[...document.querySelectorAll('a.row .latest')].map((one) => one.checkVisibility() && one.innerText)"
    )
    assert await page.evaluate(told) == ["it broke", False]
    height = "document.querySelector('a.row[href*=b]').clientHeight"
    before = await page.evaluate(height)
    await page.press("j")
    await served.publish(status("b", "failed", error="it broke as well"))
    await page.until("document.querySelector('a.row[href*=b]').dataset.status === 'failed'")
    assert await page.evaluate(height) == before
    await page.evaluate("document.activeElement.blur()")
    await page.until(f"{told}.toSorted().join() === 'it broke,it broke as well'")
    for one in ("#group", "#views a:last-child"):
        await page.evaluate(f"document.querySelector({one!r}).focus()")
        right = await page.evaluate("Math.floor(document.activeElement.getBoundingClientRect().right)")
        assert right <= 400, one


def a_group(agent: str, outcome: str, count: int) -> list[dict[str, object]]:
    """Make the events of an agent's tasks that have ended so."""
    names = [f"{agent}-{outcome}-{n}" for n in range(count)]
    return [
        item for name in names for item in (created(name, "x", agent=agent), status(name, outcome, error="x"))
    ]


async def test_groups_and_their_counts_are_the_services(page: Page, served: Service) -> None:
    """A group of tasks that are not loaded is there with its count, and more of its tasks come on request.

    So is the group of the tasks that name nobody; where one status is chosen, tasks of that status come.
    """
    await served.publish(*(status(f"n{n}", "completed") for n in range(60)))
    await served.publish(*a_group("a", "failed", 1))
    await served.publish(*a_group("a", "completed", 230))
    await served.publish(*a_group("b", "completed", 60), *a_group("b", "failed", 30))
    await served.publish({"topic": "task.created", "payload": {"task_id": "none", "name": "Of nobody"}})
    await page.go(f"{served.url}/#/?group=agent")
    await page.until(f"{STATE} === 'live' && {HEADS} === 'No agent 61,b 90,a 231'")

    async def more(group: str, before: int, after: int) -> None:
        await page.until(f"{rows(group)} === {before}")
        await page.evaluate(f"document.querySelector('[data-section=\"{group}\"] .more').click()")
        await page.until(f"{rows(group)} === {after}")

    await more("group a", 20, 120)
    await more("group ", 20, 61)
    await page.evaluate("document.querySelector('#totals [data-status=failed]').click()")
    await page.until(f"{HEADS} === 'b 30,a 1'")
    await more("group a", 0, 1)
    await page.evaluate("document.querySelector('#totals [data-status=queued]').click()")
    await page.until(f"{HEADS} === 'No agent 1'")


async def test_groups_stay_bounded(page: Page, served: Service) -> None:
    """However many groups come, as many are shown as were asked for, the newest first."""
    await served.publish(*(created(f"t{n}", "x", session_id=f"s{n}") for n in range(130)))
    await page.go(f"{served.url}/#/?group=session_id")
    shown = f"{HEADS}.split(',')"
    await page.until(f"{STATE} === 'live' && {shown}.length === 100")
    await served.publish(*(created(f"t{n}", "x", session_id=f"s{n}") for n in range(130, 180)))
    newest = f"{shown}.slice(0, 50).map((head) => parseInt(head.slice(1)))"
    await page.until(f"{newest}.every((number) => number >= 130)")
    assert await page.evaluate(f"{shown}.length") == 100
    await page.evaluate(
        "[...document.querySelectorAll('.more')].find((one) => one.innerText === 'More groups').click()"
    )
    await page.until(f"{shown}.length === 180")
