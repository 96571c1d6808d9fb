"""The views beside the fleet and its tasks, in front of the real service."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from tests.browser.chromium import Page
from tests.browser.conftest import Service
from tests.browser.test_page import PAINTED, STATE, created, status
from tests.browser.world import VIEWS, a_world

EXAMPLES = Path(__file__).parents[2] / "examples/workflows"

pytestmark = pytest.mark.browser

TEXT = "document.getElementById('main').innerText"


async def a_fleet(served: Service) -> None:
    """Publish a few tasks that have ended, and one that runs."""
    for i in range(4):
        await served.publish(
            created(f"t{i}", f"Task {i}", agent=f"agent-{i % 2}", model=f"model-{i % 2}"),
            status(f"t{i}", "running"),
        )
    result = {"cost_usd": 0.5, "input_tokens": 1000, "output_tokens": 100}
    await served.publish(
        status("t0", "completed", **result),
        status("t1", "completed", **result),
        status("t2", "failed", error="TimeoutError: too slow", **result),
    )


async def test_analytics(page: Page, served: Service) -> None:
    """Sums, plots with a reading by keyboard, groups and kinds of failure are there, and go on live."""
    await a_fleet(served)
    await page.go(f"{served.url}/#/analytics")
    await page.until(f"{TEXT}.includes('$1.50')")
    text = await page.evaluate(TEXT)
    assert "TimeoutError" in text
    assert "model-1" in text
    plot = "document.querySelector('.plot svg')"
    assert await page.evaluate(f"{plot}.querySelectorAll('rect[class^=series]').length") == 2
    await page.evaluate(f"{plot}.focus()")
    await page.press("End")
    reading = "document.querySelector('.plot .reading').textContent"
    assert "model-0 $1.00" in await page.until(reading)
    await page.evaluate("document.querySelector('.plot details').open = true")
    await page.until("document.querySelectorAll('.plot table tbody tr').length >= 24")
    await page.evaluate(
        "(() => { const by = document.getElementById('by-group');"
        " by.value = 'agent'; by.dispatchEvent(new Event('change')); })()"
    )
    await page.until(f"{TEXT}.includes('agent-1') && location.hash.includes('group=agent')")
    await served.publish(status("t3", "completed", cost_usd=2))
    await page.until(f"{TEXT}.includes('$3.50')")
    assert page.messages == []


TIMERS = """
    window.timers = [];
    const begin = setTimeout;
    window.setTimeout = (call, ms) => ms < 4000 ? begin(call, ms) : timers.push([call, ms]);
"""
ASKED = "performance.getEntriesByType('resource').filter(({ name }) => name.includes('/summary')).length"


async def test_analytics_go_on_when_nothing_happens(page: Page, served: Service) -> None:
    """At the end of a slot the period is asked for anew, but by a hidden page not before it is looked at."""

    async def end_the_slot() -> None:
        # Its timer is the only long one beside that of the silent tasks; it sets one for asking a bit later.
        slots = "timers.filter(([, ms]) => ms > 4_000 && ms !== 30_000)"
        await page.evaluate(f"(() => {{ const [[end]] = {slots}; timers.length = 0; end(); }})()")
        assert await page.evaluate("timers.map(([, ms]) => ms)") == [4_000]
        await page.evaluate("timers.pop()[0]()")

    await page.until("900_000 - Date.now() % 900_000 > 10_000")
    await page.call("Page.addScriptToEvaluateOnNewDocument", source=TIMERS)
    await page.go(f"{served.url}/#/analytics")
    await page.until(f"{TEXT}.includes('Kinds of failure') && {STATE} === 'live'")
    asked = await page.evaluate(ASKED)
    await end_the_slot()
    await page.until(f"{ASKED} === {asked + 1} && timers.length === 1")
    async with page.another():  # in front of it
        await page.until("document.hidden")
        await end_the_slot()
        assert await page.evaluate(f"[{ASKED}, timers.length]") == [asked + 1, 0]
    await page.call("Page.bringToFront")
    await page.until(f"{ASKED} === {asked + 2} && timers.length === 1")


async def test_agents(page: Page, served: Service) -> None:
    """Each agent stands with its tasks by status, which lead to them."""
    await a_fleet(served)
    await page.go(f"{served.url}/#/agents")
    await page.until(f"{TEXT}.includes('agent-1')")
    links = "[...document.querySelectorAll('tbody tr:first-child a')].map((a) => [a.innerText, a.hash])"
    assert ["1", "#/?agent=agent-0&status=failed"] in await page.evaluate(links)
    await page.evaluate(
        "[...document.querySelectorAll('tbody a')].find((a) => a.hash.includes('failed')).click()"
    )
    await page.until("document.getElementById('agent')?.value === 'agent-0'")
    await page.until("document.querySelectorAll('a.row').length === 1")


async def test_status(page: Page, served: Service) -> None:
    """The state of the service's parts is told, and where its documents are."""
    await page.go(f"{served.url}/#/status")
    await page.until(f"{TEXT}.includes('subscriber') && {TEXT}.includes('ready')")
    for told in ("% busy", "Disk free", "Events a second"):
        await page.until(f"{TEXT}.includes({told!r})")
    assert await page.evaluate("document.querySelectorAll('.links a').length") == 3
    assert page.messages == []


async def test_palette_goes_anywhere(page: Page, served: Service) -> None:
    """A few letters lead to a view, a task that is not loaded, an agent and a theme; Back leads back."""
    await a_fleet(served)
    await page.go(served.url)
    await page.until(f"{STATE} === 'live'")

    async def say(text: str) -> None:
        await page.evaluate("document.getElementById('open-palette').click()")
        await page.until("document.querySelector('.palette input') === document.activeElement")
        for letter in text:
            await page.press(letter)

    await say("anal")
    await page.press("Enter")
    await page.until("location.hash === '#/analytics' && document.activeElement.id === 'main'")
    assert await page.evaluate("document.activeElement.ariaLabel") == "Analytics"
    await say("agent-1")
    await page.press("Enter")
    await page.until("location.hash === '#/?agent=agent-1'")
    await page.evaluate("history.back()")
    await say("Task 2")
    await page.until("document.querySelector('.palette li')?.innerText.includes('Task 2')")
    await page.press("Enter")
    await page.until("location.hash === '#/tasks/t2'")
    await page.evaluate("history.back()")
    await page.until(f"{TEXT}.includes('Kinds of failure')")
    await say("theme: light")
    await page.press("Enter")
    await page.until("getComputedStyle(document.body).backgroundColor === 'rgb(247, 248, 250)'")
    await say("x")
    await page.press("Escape")
    await page.until("document.querySelector('dialog') === null")
    await page.press("?")
    await page.until("document.activeElement.id === 'help-title'")  # not the button below what is to be read
    await page.evaluate("history.back()")
    await page.until("document.querySelector('dialog') === null")


async def test_sessions(page: Page, served: Service) -> None:
    """Each session stands with what its tasks add up to, and leads to them."""
    await served.publish(
        created("t", "In a session", session_id="s-1"),
        status("t", "completed", cost_usd=0.5),
        created("u", "In none"),
    )
    await page.go(f"{served.url}/#/sessions")
    await page.until(f"{TEXT}.includes('$0.50')")
    await page.evaluate("document.querySelector('tbody a').click()")
    await page.until("document.querySelectorAll('a.row').length === 1")
    assert await page.evaluate("location.hash") == "#/?session_id=s-1"


def of_run(run: str, topic: str, **more: object) -> dict[str, object]:
    """Make an event of a run."""
    payload = {"workflow_id": "invoice_to_ledger", "run_id": run, **more}
    return {"topic": topic, "channel": "workflow:invoice_to_ledger", "payload": payload}


async def test_workflows_their_pipeline_and_a_run(page: Page, stopped_service: Service) -> None:
    """A list, a pipeline in layers with its run's states, and the steps of that over time, all of it live."""
    served = stopped_service
    served.workflows = EXAMPLES
    await served.start()
    await served.publish(
        of_run("run_1", "run.started", trigger="manual"),
        of_run("run_1", "step.started", step="fetch_invoice"),
    )
    await page.go(f"{served.url}/#/workflows")
    await page.until(f"{TEXT}.includes('Ledger') && {TEXT}.includes('running')")
    assert (await page.evaluate(TEXT)).count("🌙") == 1  # it is in the name as well
    await page.evaluate("document.querySelector('tbody a[href$=\"/invoice_to_ledger\"]').click()")
    states = "[...document.querySelectorAll('.graph .node')].map((node) => node.dataset.status)"
    assert len(await page.until(f"{states}[0] === 'running' && {states}")) == 10
    layers = "new Set([...document.querySelectorAll('.graph .node')].map((one) => one.getCTM().e)).size"
    assert await page.evaluate(layers) == 9
    await page.evaluate("document.querySelector('.graph .node').dispatchEvent(new Event('click'))")
    await page.until("location.hash === '#/workflows/invoice_to_ledger/runs/run_1?step=fetch_invoice'")
    steps = "[...document.querySelectorAll('.step')].map((step) => step.dataset.status)"
    await page.until(f"{steps}[0] === 'running'")
    await page.evaluate("document.querySelector('.graph').scrollLeft = 300")
    await served.publish(
        of_run("run_1", "step.completed", step="fetch_invoice", output={"lines": [1, 2]}),
        of_run("run_1", "step.started", step="read_invoice"),
        of_run("run_1", "step.failed", step="read_invoice", error="no such file"),
        of_run("run_1", "run.finished", status="failed", error="a step failed"),
    )
    await page.until(f"{steps}.slice(0, 2).join() === 'success,failed'")
    await page.until(f"{TEXT}.includes('a step failed') && {TEXT}.includes('lines')")
    assert await page.evaluate("document.querySelector('.graph').scrollLeft") == 300
    await page.evaluate("document.querySelectorAll('.step')[1].click()")
    await page.until("document.querySelector('.step-detail').innerText.includes('no such file')")
    assert await page.evaluate("document.querySelectorAll('.step .bar').length") == 2
    alone = {"workflow_id": "helpdesk_assistant", "run_id": "r"}
    await served.publish({"topic": "run.started", "channel": "workflow:helpdesk_assistant", "payload": alone})
    await page.evaluate("location.hash = '#/workflows/helpdesk_assistant'")
    await page.until(f"{TEXT}.includes('no pipeline.yaml') && document.querySelector('tbody a')")
    assert "newest run" not in await page.evaluate(TEXT)
    await page.evaluate("document.querySelector('tbody a').click()")
    await page.until(f"{TEXT}.includes('It has told of no steps')")
    assert page.messages == []


async def test_no_such_workflow_is_said_once(page: Page, served: Service) -> None:
    """A wrong address is said in its place alone; what went wrong in a view is no notice in the next one."""
    await page.go(f"{served.url}/#/workflows/nope")
    await page.until(f"{TEXT}.includes('There is no such workflow') && !{TEXT}.includes('Runs')")
    assert await page.evaluate("document.getElementById('banner').hidden")
    await page.evaluate("fetch = () => Promise.reject(new TypeError('away')); location.hash = '#/agents'")
    await page.until("document.getElementById('banner').innerText.includes('be reached')")
    await page.evaluate("location.hash = '#/status'")
    await page.until("document.querySelector('.view-status') && document.getElementById('banner').hidden")


async def test_a_conversation_is_said_and_heard(page: Page, served: Service) -> None:
    """What is said in the composer is there once; an answer grows word by word, and markup in it is text."""
    await page.go(f"{served.url}/#/conversations")
    await page.until(f"{TEXT}.includes('No conversations yet')")
    await page.evaluate("document.querySelector('.view-conversations .primary').click()")
    await page.until("document.querySelector('.composer textarea') !== null")
    channel = (await page.evaluate("location.hash")).rpartition("/")[2]
    await page.until("document.activeElement === document.querySelector('.composer textarea')")
    for letter in "Hello":
        await page.press(letter)
    await page.press("Enter")
    await page.press("Enter")  # before the answer to the first
    messages = "[...document.querySelectorAll('.message')]"
    said = f"{messages}.map((one) => [one.dataset.role, one.querySelector('.prose').innerText])"
    await page.until(f"JSON.stringify({said}) === JSON.stringify([['user', 'Hello']])")

    def delta(content: str, **more: object) -> dict[str, object]:
        payload = {"conversation_id": channel, "message_id": "m-1", "role": "assistant", "content": content}
        return {"topic": "conversation.delta", "payload": {**payload, **more}}

    await page.evaluate("[...document.querySelectorAll('.chat header button')][0].click()")
    await page.evaluate("document.querySelector('dialog input').value = 'A greeting'")
    await page.evaluate("document.querySelector('dialog .primary').click()")
    await page.until("document.querySelector('.conversations').innerText.includes('A greeting')")
    await served.publish(delta("Good"), delta(" day"))
    await page.until(f"{said}.length === 2 && {said}[1][1].startsWith('Good day')")
    assert await page.evaluate("document.querySelectorAll('.message')[1].hasAttribute('data-growing')")
    await page.call("Page.reload")  # in the middle of it
    await page.until(f"{said}.length === 2 && {said}[1][1].startsWith('Good day')")
    await served.publish(delta(", <b>friend</b>\n\n```\ncode\n```", done=True))
    await page.until(f"{said}[1]?.[1].includes('<b>friend</b>')")
    assert await page.evaluate("document.querySelector('.prose pre').innerText") == "code"
    assert not await page.evaluate("document.querySelectorAll('.message')[1].hasAttribute('data-growing')")
    await page.until("document.querySelector('.conversations').innerText.includes('2 messages')")
    when = "document.querySelector('.conversations time')"
    await page.evaluate(f"{when}.dateTime = new Date(Date.now() - 7_300_000).toISOString()")
    await page.until(f"{when}.innerText === '2h'")  # times go on when nothing happens
    assert page.messages == []


async def test_more_of_a_list_stays_when_it_is_asked_for_anew(page: Page, served: Service) -> None:
    """What was asked for beyond the first page is still there when the list was fetched again."""
    await served.publish(*(created(f"t{n}", "x", agent=f"a{n}") for n in range(130)))
    said = {"topic": "conversation.created"}
    await served.publish(*({**said, "payload": {"conversation_id": f"c{n}"}} for n in range(70)))
    for place, rows, first, name, changes in (
        ("#/agents", "tbody tr", 100, "0", created("new", "x", agent="0")),
        ("#/conversations", ".conversations a", 50, "new", {**said, "payload": {"conversation_id": "new"}}),
    ):
        await page.go(f"{served.url}/{place}")
        count = f"document.querySelectorAll({rows!r}).length"
        await page.until(f"{STATE} === 'live' && {count} === {first}")
        await page.evaluate("document.querySelector('.more').click()")
        await page.until(f"{count} > {first}")
        await served.publish(changes)
        shown = f"[...document.querySelectorAll({rows!r})].some((row) => row.innerText.startsWith({name!r}))"
        await page.until(shown)
        assert await page.evaluate(count) > first


async def test_an_address_without_a_view_is_said(page: Page, served: Service) -> None:
    """It says so, in its title as well, and leads on; Back and an address that is right leave it."""
    await page.go(f"{served.url}/#/status")
    await page.until(f"{TEXT}.includes('Machine and log')")
    await page.evaluate("location.hash = '#/statsu'")
    await page.until(f"{TEXT}.includes('No view has the address #/statsu')")
    assert not await page.evaluate("document.querySelector('#views [aria-current]') !== null")
    await page.until("document.title === 'No such view · Heliograph'")
    await page.evaluate("location.hash = '#/tasks/t/lines'")
    await page.until(f"{TEXT}.includes('#/tasks/t/lines')")
    await page.evaluate("document.querySelector('.empty-state a').click()")
    await page.until("document.querySelector('#fleet') && !document.querySelector('.view-nowhere')")
    assert page.messages == []


LONG = "a" * 150 + "-name-that-is-" + "b" * 150
ID = LONG[:128]


TOO_WIDE = """
    [document.documentElement, ...document.querySelectorAll("main *")].filter((one) => {
        if (one.closest(".unseen, .sideways, .graph, .axis, .tools, #facts, .measure, svg")) return false;
        const overflows = one.clientWidth && one.scrollWidth > one.clientWidth + 1;
        const shows = getComputedStyle(one).overflowX !== "hidden";
        const ends = one.getBoundingClientRect().right;
        return one.checkVisibility() && (overflows && shows || ends > innerWidth + 1);
    }).map((one) => `${innerWidth} ${location.hash.slice(0, 20)} ${one.outerHTML.slice(0, 120)}`)
"""


async def test_very_long_names_fit(page: Page, stopped_service: Service) -> None:
    """No name makes a view, or a part of it, wider than there is room: it is cut off or wrapped."""
    served = stopped_service
    served.workflows = EXAMPLES
    await served.start()
    task = created(ID, LONG, agent=LONG, agent_type=LONG, model=LONG, session_id=ID, input={LONG: LONG})
    question = {"task_id": ID, "question_id": "q", "question": LONG, "choices": [LONG, "No"]}
    talk = {"conversation_id": ID, "title": LONG, "message_id": "m", "role": "user", "content": LONG}
    await served.publish(
        task,
        {"topic": "task.question", "payload": question},
        status(ID, "waiting_input"),
        created("f", LONG, agent=LONG, model=LONG),
        status("f", "failed", error=f"{LONG}: {LONG}", cost_usd=1),
        {"topic": "conversation.created", "payload": talk},
        {"topic": "conversation.message", "payload": talk},
        of_run(ID, "run.started"),
        of_run(ID, "step.started", step="fetch_invoice"),
        of_run(ID, "step.failed", step="fetch_invoice", error=LONG),
        of_run(ID, "run.finished", status="failed", error=LONG),
    )
    async with httpx.AsyncClient(base_url=served.url) as client:
        made = await client.post("/api/v1/webhooks", json={"name": LONG[:200], "provider": "custom"})
        await client.post(f"/webhooks/{made.json()['webhook_id']}", json={"text": "x"})
    run = f"workflows/invoice_to_ledger/runs/{ID}"
    found = []
    for place, there in (
        ("#/", "document.querySelectorAll('a.row').length > 1"),
        (f"#/tasks/{ID}", "document.querySelector('#answer:not([hidden]) button')"),
        ("#/tasks/f", "document.querySelector('#failure:not([hidden])')"),
        ("#/?group=agent&model=" + LONG, "document.querySelector('.chip')"),
        ("#/analytics", "document.querySelector('.analytics:not([hidden])')"),
        ("#/agents", "document.querySelector('tbody')"),
        ("#/sessions", "document.querySelector('tbody')"),
        ("#/workflows", "document.querySelector('tbody')"),
        ("#/workflows/invoice_to_ledger", "document.querySelector('.graph')"),
        (f"#/{run}?step=fetch_invoice", "document.querySelector('.step-detail .failure')"),
        (f"#/conversations/{ID}", "document.querySelector('.message')"),
        ("#/webhooks", "document.querySelectorAll('tbody').length > 1"),
    ):
        await page.go("about:blank")
        await page.go(f"{served.url}/{place}")
        await page.until(f"{STATE} === 'live' && Boolean({there})")
        for width in (1440, 320):
            await page.resize(width, 800)
            found += await page.evaluate(f"{PAINTED}.then(() => {TOO_WIDE})")
    assert not found, "\n".join(found)


async def test_forced_colours(page: Page, served: Service) -> None:
    """In a reader's own colours statuses still differ, what is chosen is marked, and output can be read."""
    await a_fleet(served)
    await served.publish(created("q", "Queued"), status("w", "waiting_input"), status("x", "cancelled"))
    await served.write("t3", "plain", "\x1b[30;40mblack on black\x1b[0m")
    forced = {"name": "forced-colors", "value": "active"}
    await page.call("Emulation.setEmulatedMedia", features=[forced])
    await page.go(f"{served.url}/#/tasks/t3?status=running")
    await page.until("document.querySelectorAll('.view .line .text').length > 1")
    await page.until("document.querySelectorAll('a.row[aria-current]').length === 1")
    style = "((one) => getComputedStyle(one))"
    dots = f"[...document.querySelectorAll('#totals .dot')].map({style})"
    looks = f"{dots}.map(({{ backgroundColor, boxShadow }}) => `${{backgroundColor}} ${{boxShadow}}`)"
    assert await page.evaluate(f"new Set({looks}).size") == 7
    chosen = "[...document.querySelectorAll('[aria-current], [aria-pressed=true]')]"
    assert await page.evaluate(f"{chosen}.map((one) => one.innerText.trim().split(/\\s/)[0])") == [
        "Fleet",
        "1",  # running
        "Task",
        "Wrap",
        "Follow",
    ]
    assert await page.evaluate(f"new Set({chosen}.map((one) => {style}(one).outlineStyle)).size") == 1
    assert await page.evaluate(f"{style}({chosen}[0]).outlineStyle") == "solid"
    ground = f"{style}(document.querySelector('.terminal')).backgroundColor"
    inks = f"[...document.querySelectorAll('.view .text, .view .text span')].map((one) => {style}(one).color)"
    assert await page.evaluate(f"{inks}.length > 2 && !{inks}.includes({ground})")
    await page.go(f"{served.url}/#/analytics")
    plot = "document.querySelector('.plot rect[class^=series]')"
    await page.until(f"{plot} !== null")
    assert await page.evaluate(f"{style}({plot}).fill !== {style}(document.body).backgroundColor")


async def test_a_long_conversation_keeps_its_newest_messages(page: Page, served: Service) -> None:
    """Who follows a conversation all day has a bounded number of messages, and the others on request."""
    said = {"topic": "conversation.message", "channel": "conversation:c"}

    async def say(first: int, last: int) -> None:
        for begin in range(first, last, 500):
            some = range(begin, min(begin + 500, last))
            await served.publish(
                *(
                    {
                        **said,
                        "payload": {
                            "conversation_id": "c",
                            "message_id": f"m{n}",
                            "role": "user",
                            "content": str(n),
                        },
                    }
                    for n in some
                )
            )

    await say(0, 10)
    await page.go(f"{served.url}/#/conversations/c")
    count = "document.querySelectorAll('.message').length"
    last = "[...document.querySelectorAll('.message .prose')].at(-1)?.innerText"
    await page.until(f"{STATE} === 'live' && {count} === 10")
    await say(10, 1500)
    await page.until(f"{last} === '1499'")
    assert await page.evaluate(count) <= 1100
    await page.evaluate("document.querySelector('.chat .more:not([hidden])').click()")
    await page.until(f"{count} === 1500")


async def test_what_was_left_is_forgotten(page: Page, stopped_service: Service) -> None:
    """Nothing keeps a view that was left, nor a group of tasks that is shown no more."""
    await a_world(stopped_service)
    await page.go(stopped_service.url)
    await page.evaluate("window.left = []")
    keep = "left.push(...document.querySelectorAll('main > section, #sections > section'))"
    keep = f"{keep}; left = left.map((one) => one instanceof WeakRef ? one : new WeakRef(one)); 0"
    groups = ("#/?group=agent", "document.querySelector('[data-section^=group]')")
    statuses = ("#/", "document.querySelector('[data-section=running]')")
    for place, there in (*VIEWS.values(), groups, statuses):
        await page.evaluate(f"location.hash = {place!r}")
        await page.until(f"Boolean({there})")
        await page.evaluate(keep)
    held = (
        "left.map((one) => one.deref()).filter((one) => one && !one.isConnected).map((one) => one.outerHTML)"
    )
    await page.call("HeapProfiler.collectGarbage")
    assert await page.until("left.length > 20")
    assert await page.evaluate(f"{held}.map((one) => one.slice(0, 80))") == []


async def test_webhooks_and_their_deliveries(page: Page, served: Service) -> None:
    """What is configured, what was delivered and what became of it, live; a webhook is switched off here."""
    async with httpx.AsyncClient(base_url=served.url) as client:
        made = await client.post("/api/v1/webhooks", json={"name": "Deploys", "provider": "custom"})
        webhook = made.json()["webhook_id"]
        await page.go(f"{served.url}/#/webhooks")
        await page.until(f"{TEXT}.includes('Deploys') && {TEXT}.includes('Nothing was delivered')")
        delivered = await client.post(f"/webhooks/{webhook}", json={"text": "build it"})
        assert delivered.is_success, delivered.text
        became = "document.querySelector('tbody .pill')?.innerText"
        await page.until(f"{became} === 'accepted'")
        await page.evaluate("document.querySelector('.switch').click()")
        await page.until("document.querySelector('.figure dd').innerText.startsWith('0 of 1')")
        await page.evaluate("[...document.querySelectorAll('tbody a')].at(-1).click()")
        await page.until("location.hash.startsWith('#/tasks/')")
    assert page.messages == []


async def test_a_conversation_is_cleared_and_deleted_after_a_question(page: Page, served: Service) -> None:
    """Nothing is gone unless the dialog is answered so; then its messages are, and then itself."""
    async with httpx.AsyncClient(base_url=served.url) as client:
        talk = (await client.post("/api/v1/conversations", json={"title": "Old news"})).json()
        path = f"/api/v1/conversations/{talk['conversation_id']}"
        await client.post(f"{path}/messages", json={"role": "system", "content": "Hello"})
        await page.go(f"{served.url}/#/conversations/{talk['conversation_id']}")
        await page.until("document.querySelectorAll('.message').length === 1")

        async def press(button: str) -> None:
            heads = "[...document.querySelectorAll('.chat header button')]"
            await page.evaluate(f"{heads}.find((one) => one.textContent === {button!r}).click()")
            await page.until("document.querySelector('dialog[open]') !== null")

        await press("Clear")
        focused = "document.activeElement.textContent"
        assert await page.evaluate(focused) == "Cancel"
        await page.press("Escape")
        await page.until("document.querySelector('dialog') === null")
        assert len((await client.get(f"{path}/messages")).json()["messages"]) == 1
        await press("Clear")
        await page.evaluate("document.querySelector('dialog .danger').click()")
        await page.until(f"{TEXT}.includes('Nothing was said yet') && !document.querySelector('dialog')")
        await press("Delete")
        await page.evaluate("document.querySelector('dialog .danger').click()")
        await page.until("location.hash === '#/conversations'")
        assert (await client.get(path)).status_code == 404
        await page.go(f"{served.url}/#/conversations/{talk['conversation_id']}")
        await page.until(f"{TEXT}.includes('There is no such conversation')")
        assert not await page.evaluate(f"{TEXT}.includes('Rename')")


async def test_a_webhook_is_made_changed_and_removed(page: Page, served: Service) -> None:
    """Errors stand at their fields; a secret is sent and never shown; what is not touched stays."""
    async with httpx.AsyncClient(base_url=served.url) as client:
        await page.go(f"{served.url}/#/webhooks")
        await page.until(f"{TEXT}.includes('No webhooks yet')")

        async def fill(**values: str) -> None:
            for label, value in values.items():
                await page.evaluate(
                    "(() => { const label = [...document.querySelectorAll('dialog label')]"
                    f".find((one) => one.textContent === {label!r});"
                    f" document.getElementById(label.htmlFor).value = {value!r}; }})()"
                )
            await page.evaluate("document.querySelector('dialog button').click()")

        async def made() -> dict[str, object]:
            found: dict[str, object] = (await client.get("/api/v1/webhooks")).json()["webhooks"][0]
            return found

        errors = (
            "[...document.querySelectorAll('dialog .field:has([aria-invalid])')]"
            ".map((one) => ['label', '.refused'].map((part) => one.querySelector(part).textContent))"
        )
        await page.evaluate("document.querySelector('.view-webhooks .primary').click()")
        await page.until("document.querySelector('dialog[open]') !== null")
        await fill(Name="Deploys", Endpoint="nowhere", Secret="s3cret", Commands='[{"name": "A b"}]')
        wrong = await page.until(f"{errors}.length > 1 && {errors}")
        assert [name for name, _ in wrong] == ["Endpoint", "Commands"]
        assert "must be /webhooks/" in wrong[0][1]
        await fill(Endpoint="/webhooks/d", Commands="no JSON")
        await page.until(f"JSON.stringify({errors}).includes('must be a JSON array')")
        await fill(Commands='[{"name": "run", "template": "{{ text }}", "trigger": "push", "priority": 2}]')
        await page.until(f"document.querySelector('dialog') === null && {TEXT}.includes('/webhooks/d')")
        one = await made()
        assert (one["has_secret"], one["endpoint"], one["provider"]) == (True, "/webhooks/d", "custom")
        await page.evaluate("document.querySelector('[aria-label=\"Edit Deploys\"]').click()")
        await page.until("document.querySelector('dialog[open]') !== null")
        assert "s3cret" not in await page.evaluate("document.querySelector('dialog').outerHTML")
        assert await page.evaluate("document.querySelector('dialog [type=password]').value") == ""
        await fill(Name="Releases")
        await page.until(f"document.querySelector('dialog') === null && {TEXT}.includes('Releases')")
        assert await made() == {**one, "name": "Releases"}
        await page.evaluate("document.querySelector('[aria-label=\"Remove Releases\"]').click()")
        await page.until("document.querySelector('dialog[open]') !== null")
        await page.evaluate("document.querySelector('dialog .danger').click()")
        await page.until(f"{TEXT}.includes('No webhooks yet')")
        assert (await client.get("/api/v1/webhooks")).json()["webhooks"] == []
