"""Answering a task that waits for input, as its reader does."""

from __future__ import annotations

import hashlib

import httpx
import pytest
from tests.browser.chromium import Page
from tests.browser.conftest import Service
from tests.browser.test_page import ROWS, STATE, created, status

from heliograph.config import AuthSettings, KeySettings

pytestmark = pytest.mark.browser

BOX = "document.getElementById('answer')"
REFUSED = f"{BOX}.querySelector('.refused').textContent"
GIVEN = f"{BOX}.querySelector('.given').textContent"


def question(words: str, question_id: str = "q1", *choices: str) -> dict[str, object]:
    """Make the event of a question of task ``t``."""
    payload = {"task_id": "t", "question": words, "question_id": question_id, "choices": list(choices)}
    return {"topic": "task.question", "payload": payload}


async def answers(served: Service) -> list[str]:
    """Return what task ``t`` was answered, newest first."""
    async with httpx.AsyncClient(base_url=served.url) as client:
        found = (await client.get("/api/v1/events?channel=task:t&topic=task.input")).json()
    return [event["payload"]["content"] for event in found["events"]]


async def test_a_task_is_answered_by_keyboard(page: Page, served: Service) -> None:
    """What it asks is in the fleet and in its view; a typed answer reaches it, and then the box is gone."""
    await served.publish(
        created("t", "Merge"), question("Which <b>branch</b>?"), status("t", "waiting_input")
    )
    await page.go(served.url)
    await page.until(f"{STATE} === 'live' && {ROWS}[0]?.includes('asks: Which <b>branch</b>?')")
    await page.press("j")
    await page.press("Enter")
    await page.until(f"{BOX}?.querySelector('.words').textContent === 'Which <b>branch</b>?'")
    await page.until(f"!{BOX}.hidden")
    await page.press("a")
    await page.until(f"document.activeElement === {BOX}.querySelector('textarea')")
    for letter in "main":
        await page.press(letter)
    await page.press("Enter")
    await page.until(f"{GIVEN} === 'You answered “main”. The task has not gone on yet.'")
    assert await answers(served) == ["main"]
    assert await page.evaluate("document.activeElement.getAttribute('role')") == "log"
    await served.publish(status("t", "running"))
    await page.until(f"{BOX}.hidden")
    assert page.messages == []


async def test_choices_are_buttons_and_refusals_stand_there(page: Page, served: Service) -> None:
    """A choice is one click; who comes second reads who was first, and the next question begins anew."""
    await served.publish(created("t", "Merge"), question("Delete it?", "q1", "yes", "no"))
    await served.publish(status("t", "waiting_input"))
    await page.go(f"{served.url}/#/tasks/t")
    buttons = f"[...{BOX}.querySelectorAll('form button')].map((one) => one.textContent).join()"
    await page.until(f"{STATE} === 'live' && {buttons} === 'yes,no'")
    await served.publish(
        {"topic": "task.input", "sender": "ada", "payload": {"task_id": "t", "content": "no"}}
    )
    await page.until(f"{GIVEN}.startsWith('ada answered “no”.')")
    await served.publish(question("Really?", "q2"))
    await page.until(f"{BOX}.querySelector('.words').textContent === 'Really?' && {GIVEN} === ''")
    await page.evaluate(f"{BOX}.querySelector('textarea').value = 'x'")
    await served.publish(status("t", "completed"), status("t", "completed"))
    await page.until(f"{BOX}.hidden")


async def test_who_may_only_read_is_told_so_there(page: Page, stopped_service: Service) -> None:
    """A refusal stands at the answer, which stays as typed; also when the question is heard of late."""
    keys = tuple(
        KeySettings(name, hashlib.sha256(name.encode()).hexdigest(), (name,)) for name in ("read", "publish")
    )
    stopped_service.auth = AuthSettings(keys=keys)
    await stopped_service.start()
    async with httpx.AsyncClient(base_url=stopped_service.url, headers={"X-API-Key": "publish"}) as client:
        items = [created("t", "Merge"), status("t", "waiting_input")]
        assert (await client.post("/api/v1/events", json=items)).status_code == 201
    await page.go(f"{stopped_service.url}/#/tasks/t")
    await page.until("document.getElementById('ask-key')?.open")
    await page.evaluate("document.querySelector('#ask-key input').value = 'read'")
    await page.evaluate("document.querySelector('#ask-key .primary').click()")
    await page.until(f"{BOX}?.hidden === false && {BOX}.querySelector('textarea') !== null")
    await page.evaluate(f"{BOX}.querySelector('textarea').value = 'main'")
    await page.evaluate(f"{BOX}.querySelector('.primary').click()")
    await page.until(f"{REFUSED}.includes('scope publish')")
    async with httpx.AsyncClient(base_url=stopped_service.url, headers={"X-API-Key": "publish"}) as client:
        assert (await client.post("/api/v1/events", json=question("Which?"))).status_code == 201
    await page.until(f"{BOX}.querySelector('.words').textContent === 'Which?'")
    assert "scope publish" in await page.evaluate(REFUSED)
    assert await page.evaluate(f"{BOX}.querySelector('textarea').value") == "main"
