"""The page's logic without its DOM, run in the browser it is written for."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from tests.browser.chromium import Page
from tests.browser.conftest import Service

from heliograph.model.event import JSON_OPTIONS, Event, message_json
from heliograph.model.ids import make_id
from heliograph.model.task import STATUSES, Task, task_json

pytestmark = pytest.mark.browser


async def run(page: Page, served: Service, script: str, **values: Any) -> Any:
    """Run the body of an async function in a page of the service, with these values as variables."""
    if await page.evaluate("location.origin") != served.url:
        await page.go(f"{served.url}/api/health")
        await page.until(
            f"location.origin === {json.dumps(served.url)} && document.readyState === 'complete'"
        )
    names, arguments = ", ".join(values), ", ".join(json.dumps(value) for value in values.values())
    return await page.evaluate(f"(async ({names}) => {{ {script} }})({arguments})")


def history(seed: int) -> list[Event]:
    """Make up the events of one task, some of them out of order in time."""
    rng = random.Random(seed)
    start = datetime(2026, 3, 1, 12, tzinfo=UTC)
    events = []
    for seq in range(1, rng.randint(2, 40)):
        payload: dict[str, Any] = {"task_id": "t"}
        topics = ["task.output", "task.status", "task.created", "task.cost", "task.progress"]
        topic = rng.choices(topics, [6, 3, 1, 2, 1])[0]
        if topic == "task.output":
            payload["output"] = rng.choice(["", "plain", "grüße", "日本語", "🌞 sun", "a\nb"])
        elif topic == "task.status":
            payload["status"] = rng.choice(STATUSES)
            result = {
                "cost_usd": round(rng.random(), 6),
                "input_tokens": rng.randint(0, 9),
                "model": "m",
                "error": rng.choice([None, "it broke", {"code": 7, "why": ["größer"]}]),
            }
            payload["result"] = rng.choice([None, {}, result])
        elif topic == "task.cost":
            payload |= {
                "cost_usd": rng.choice([None, rng.random(), 0.1]),
                "input_tokens": rng.choice([None, 7]),
            }
        elif topic == "task.created":
            payload |= {"name": rng.choice([None, "a name"]), "agent": "coder", "metadata": {"demo": True}}
        moment = start + timedelta(microseconds=rng.choice([0, rng.randint(0, 10**7)]))
        events.append(Event(make_id(1000 + seq), "task:t", seq, topic, moment, payload))
    return events


async def test_fold_equals_the_services(page: Page, served: Service) -> None:
    """The page folds messages into exactly the task that the service folds out of the same events."""
    histories = [history(seed) for seed in range(150)]
    expected = []
    for events in histories:
        task = Task.first_seen(events[0])
        for event in events:
            task.apply(event)
        expected.append(json.loads(orjson.dumps(task_json(task), option=JSON_OPTIONS)))
    script = """
        const { firstSeen, fold } = await import("/static/core/task.js");
        return histories.map((messages) => {
            const task = firstSeen(messages[0]);
            for (const message of messages) fold(task, message);
            return task;
        });
    """
    messages = [[json.loads(message_json(event)) for event in events] for events in histories]
    assert await run(page, served, script, histories=messages) == expected


TERMINAL: list[tuple[str, list[tuple[str, dict[str, Any] | None]]]] = [
    ("plain <b>text</b>", [("plain <b>text</b>", None)]),
    ("\x1b[1;31mred\x1b[0m no", [("red", {"bold": True, "fg": 1}), (" no", None)]),
    ("\x1b[32mgreen\x1b[39m \x1b[m.", [("green", {"fg": 2}), (" .", None)]),
    ("\x1b[38;5;9ma\x1b[48;5;21mb", [("a", {"fg": 9}), ("b", {"fg": 9, "bg": "rgb(0 0 255)"})]),
    ("\x1b[38;2;250;240;230mx\x1b[38;2;999;0;0my", [("xy", {"fg": "rgb(250 240 230)"})]),
    ("\x1b]0;title\x07a\x1b(Bc\x07\x00d", [("acd", None)]),
    ("cut \x1b[3", [("cut ", None)]),
]

SHOWN = [
    ("10%\r50%\r100%\r", "100%"),
    ("100 of 200\r7", "700 of 200"),
    ("spin |\b/\b-\b\\\bdone", "spin done"),
    ("working .\x1b[1G\x1b[Kworking ..\x1b[1G\x1b[Kready", "ready"),
    ("a lot of text\x1b[2K\x1b[Gready", "ready"),
    ("12345\x1b[5D54321", "54321"),
    ("keep this, not that\x1b[8D\x1b[K", "keep this, "),
    ("one: waiting\ntwo: waiting\n\x1b[2A\x1b[Kone: done\n\x1b[Ktwo: done", "one: done\ntwo: done"),
    ("a\tb\rc", "c       b"),
    ("日本語\rab", "ab本語"),
    ("日本語\ra", "a 本語"),
    ("👩‍👩‍👧‍👦 family" + "\b" * 9 + "!", "!  family"),
    ("abc\x1b[2D\x1b[1@x\x1b[C\x1b[P", "axb"),
    ("\x1b[999999999Cfar", " " * 4000 + "far"),
    ("up beyond\x1b[9Aits begin", "up beyondits begin"),
]


async def test_what_is_made_anew_keeps_focus_and_scrolling(page: Page, served: Service) -> None:
    """A renewed table has the new rows, each under its key; what was focused or scrolled stays so."""
    script = """
        const { h, renew } = await import("/static/parts/dom.js");
        const { table } = await import("/static/parts/table.js");
        const narrow = new CSSStyleSheet();
        narrow.replaceSync(".sideways { width: 20px; overflow: auto; }");
        document.adoptedStyleSheets = [narrow];
        const clicked = [];
        const columns = [
            { title: "Name", text: ({ name }) => [h("b", {}, name), ", "] },
            { title: "Of", text: ({ id, n }) => h("button", { onclick: () => clicked.push(id + n) }) },
            { title: "On", text: ({ on }) => h("input", { type: "checkbox", checked: on }) },
        ];
        const body = h("div");
        document.body.replaceChildren(body);
        const row = (id, n, on = false) => ({ id, n, name: `${id}${n}`, on });
        const show = (...rows) => renew(body, [`${rows.length}`, table("T", columns, rows, ({ id }) => id)]);
        show(row("a", 1, true), row("b", 1), row("d", 1), row("e", 1));
        body.querySelector(".sideways").scrollLeft = 7;
        const focused = body.querySelectorAll("button")[1];
        focused.focus({ preventScroll: true });
        body.querySelector("input").checked = false;
        show(row("c", 2), row("a", 2, true), row("b", 2));
        focused.click();
        return {
            clicked,
            rows: [...body.querySelectorAll("tbody tr")].map((row) => row.cells[0].innerHTML),
            on: [...body.querySelectorAll("input")].map((input) => input.checked),
            head: body.firstChild.textContent,
            focused: document.activeElement === focused && focused.closest("tr").cells[0].textContent,
            scrolled: body.querySelector(".sideways").scrollLeft,
        };
    """
    assert await run(page, served, script) == {
        "clicked": ["b2"],
        "rows": ["<b>c2</b>, ", "<b>a2</b>, ", "<b>b2</b>, "],
        "on": [False, True, False],
        "head": "3",
        "focused": "b2, ",
        "scrolled": 7,
    }


async def test_terminal_output(page: Page, served: Service) -> None:
    """Colours become spans of text, and what is no colour and no move of the cursor vanishes."""
    script = (
        'const { parse } = await import("/static/core/terminal.js"); return texts.map((text) => parse(text));'
    )
    found = await run(page, served, script, texts=[text for text, _ in TERMINAL])
    assert [[(span["text"], span["style"]) for span in spans] for spans in found] == [
        spans for _, spans in TERMINAL
    ]


async def test_terminal_moves(page: Page, served: Service) -> None:
    """What moves the cursor writes over what is there, column by column; only an erase erases."""
    script = 'const { plain } = await import("/static/core/terminal.js"); return texts.map(plain);'
    found = await run(page, served, script, texts=[text for text, _ in SHOWN])
    assert found == [shown for _, shown in SHOWN]


async def test_terminal_links_are_safe(page: Page, served: Service) -> None:
    """A link of a terminal is one if it leads to the web; any other is text."""
    texts = [
        f"\x1b]8;;{address}\x1b\\here\x1b]8;;\x07." for address in ("https://a.b/c", "javascript:alert(1)")
    ]
    script = (
        'const { parse } = await import("/static/core/terminal.js"); return texts.map((text) => parse(text));'
    )
    assert [[span["link"] for span in spans] for spans in await run(page, served, script, texts=texts)] == [
        ["https://a.b/c", None],
        [None],
    ]


async def test_dark_colours_are_readable(page: Page, served: Service) -> None:
    """Any colour that a program chooses has enough contrast on the terminal's ground."""
    script = """
        const { parse } = await import("/static/core/terminal.js");
        const shade = (text) => text.match(/[0-9]+/g).map(Number);
        return codes.map((code) => shade(parse(`\\x1b[38;${code}mx`)[0].style.fg));
    """

    def luminance(parts: list[int]) -> float:
        linear = [
            x / 255 / 12.92 if x / 255 <= 0.04045 else ((x / 255 + 0.055) / 1.055) ** 2.4 for x in parts
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    ground = luminance([11, 14, 19])
    codes = ["2;0;0;128", "2;0;0;0", "5;17", "5;232", "2;80;0;80"]
    for shown in await run(page, served, script, codes=codes):
        assert (luminance(shown) + 0.05) / (ground + 0.05) > 4.45


async def test_clipping_counts_what_is_seen(page: Page, served: Service) -> None:
    """A line is cut after so many characters as a reader counts them, through none and no sequence."""
    script = """
        const { clip, parse } = await import("/static/core/terminal.js");
        const cut = (text, most) => {
            const { spans, rest } = clip(parse(text), most);
            return [spans.map((span) => span.text).join(""), rest];
        };
        const colours = Array.from({ length: 50 }, (_, i) => `\\x1b[3${i % 8}m${i % 10}`).join("");
        return [cut("👩‍👩‍👧‍👦👍🏽éx", 2), cut(colours, 45), cut("abc", 3)];
    """
    assert await run(page, served, script) == [
        ["👩‍👩‍👧‍👦👍🏽", 2],
        ["0123456789" * 4 + "01234", 5],
        ["abc", 0],
    ]


async def test_layout_of_rows(page: Page, served: Service) -> None:
    """Whatever the anchor, the rows found cover the view without a hole, or the list is shorter than it."""
    script = """
        const { layout, endOf } = await import("/static/core/viewport.js");
        let seed = 7;
        const random = (n) => (seed = (seed * 16807) % 2147483647) % n;
        for (let round = 0; round < 2000; round++) {
            const heights = Array.from({ length: 1 + random(40) }, () => 1 + random(60));
            const above = heights.map((_, i) => heights.slice(0, i).reduce((a, b) => a + b, 0));
            const total = above.at(-1) + heights.at(-1);
            const height = 1 + random(300);
            const wanted = { index: random(heights.length + 3), offset: random(4000) - 2000 };
            const asked = wanted.index >= heights.length ? Infinity : above[wanted.index] + wanted.offset;
            const found = layout(wanted, heights.length, height, (i) => heights[i]);
            const top = above[found.index] + found.offset;
            const right = Math.max(0, Math.min(asked, total - height));
            const bottom = above[found.last] + heights[found.last];
            const fine = top === right && bottom >= Math.min(total, top + height)
                && found.atStart === (top === 0) && (found.atEnd || top + height < total);
            if (!fine) return { heights, height, wanted, found };
            const end = layout(endOf(heights.length), heights.length, height, (i) => heights[i]);
            if (!end.atEnd || end.last !== heights.length - 1) return { heights, height, end };
        }
        return "fine";
    """
    assert await run(page, served, script) == "fine"


async def test_scroll_bar_maps_the_whole(page: Page, served: Service) -> None:
    """The scroll bar reaches every line of a log of any length, on a track that a browser can lay out."""
    script = """
        const { MAX_HEIGHT, rowAt, scrollTop, trackHeight } = await import("/static/core/viewport.js");
        const found = [];
        for (const total of [10, 1000, 2_000_000, 500_000_000]) {
            const track = trackHeight(total, 19, 600);
            const range = track - 600;
            found.push(track <= MAX_HEIGHT && rowAt(0, 30, total, range) === 0
                && rowAt(range, 30, total, range) === Math.max(0, total - 30)
                && scrollTop(rowAt(range / 3, 30, total, range), 30, total, range) - range / 3 < 20);
        }
        return found;
    """
    assert await run(page, served, script) == [True] * 4


LINES = """
    const { LogLines } = await import("/static/core/loglines.js");
    const timestamp = "2026-01-01T00:00:00Z";
    const line = (seq) => ({ seq, timestamp, stream: "stdout", output: `line ${seq}` });
    const answer = (from, to, cursor) => ({
        lines: Array.from({ length: Math.max(0, to - from + 1) }, (_, i) => line(from + i)),
        meta: { stream_cursor: cursor ?? `${to}-0` },
    });
    const live = (seq) => ({ ...line(seq), type: "task_output", id: `${seq}-0` });
    const status = (seq, to) => ({ type: "task_status", seq, id: `${seq}-0`, status: to, timestamp });
    const seqs = (lines) => lines.rows.map((row) => row.seq);
    const range = (from, to) => Array.from({ length: to - from + 1 }, (_, i) => from + i);
    const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
    const lines = new LogLines();
"""


async def test_log_joins_tail_and_live(page: Page, served: Service) -> None:
    """Messages that come while the tail is asked for follow it, each line once and none missing."""
    script = """
        lines.hold();
        for (let seq = 95; seq <= 120; seq++) lines.take(live(seq), true);
        lines.showTail(answer(51, 110));
        lines.take(live(121), true);
        lines.prepend(answer(21, 50));
        return same(seqs(lines), range(21, 121)) && lines.attached && !lines.complete && lines.head === 121;
    """
    assert await run(page, served, LINES + script)


async def test_log_stays_bounded(page: Page, served: Service) -> None:
    """A reader at the end sheds old lines; one further up keeps what is read and is detached instead."""
    script = """
        lines.hold();
        lines.showTail(answer(1, 500));
        for (let seq = 501; seq <= 50_000; seq++) lines.take(live(seq), true);
        const following = lines.rows.length <= 6000 && lines.attached && lines.last === 50_000;
        const first = lines.first;
        for (let seq = 50_001; seq <= 60_000; seq++) lines.take(live(seq), false);
        const reading = !lines.attached && lines.first === first && lines.head === 60_000;
        lines.hold();
        lines.extend(answer(lines.last + 1, 59_990));
        lines.hold();
        lines.extend(answer(lines.last + 1, 60_000));
        return [following, reading, lines.attached, same(seqs(lines), range(lines.first, 60_000))];
    """
    assert await run(page, served, LINES + script) == [True] * 4


async def test_events_of_a_log_stay_bounded(page: Page, served: Service) -> None:
    """Of very many events of its own, or very large ones, a task's log keeps the newest, in view or not."""
    script = """
        const call = (seq, size) => ({
            type: "event", topic: "task.tool_call", seq, id: `${seq}-0`, timestamp,
            payload: { text: "x".repeat(size) },
        });
        const sum = () => lines.rows.reduce((chars, row) => chars + row.payload.text.length, 0);
        const all = () => (lines.hold(), lines.showFrom(1, answer(1, 0, "99999-0")), lines.rows.length);
        lines.hold();
        lines.showTail(answer(1, 0));
        for (let seq = 1; seq <= 20_000; seq++) lines.take(call(seq, 10), true);
        const many = [lines.rows.length <= 6000, lines.last, all() <= 5000, lines.last];
        for (let seq = 20_001; seq <= 20_400; seq++) lines.take(call(seq, 100_000), true);
        return [...many, sum() < 17_000_000, lines.last, all() < 100, sum() < 9_000_000, lines.last];
    """
    bounded = [True, 20_000, True, 20_000, True, 20_400, True, True, 20_400]
    assert await run(page, served, LINES + script) == bounded


async def test_short_answer_is_not_the_end(page: Page, served: Service) -> None:
    """An answer with few lines is not taken for the end of the log; one that live messages follow is."""
    script = """
        lines.take(live(900), false);
        lines.hold();
        lines.showFrom(100, answer(100, 104, "900-0"));
        const far = lines.attached;
        lines.hold();
        lines.take(live(901), false);
        lines.extend(answer(105, 899, "900-0"));
        const hole = lines.attached;
        lines.hold();
        lines.take(live(902), false);
        lines.extend(answer(900, 901, "901-0"));
        return [far, hole, lines.attached, same(seqs(lines), range(100, 902))];
    """
    assert await run(page, served, LINES + script) == [False, False, True, True]


async def test_status_changes_are_rows(page: Page, served: Service) -> None:
    """A change of status stands between the lines it came between, whether it was fetched or came live."""
    script = """
        const fetched = { type: undefined, topic: "task.status" };
        const event = (seq, to) => ({ ...status(seq, to), ...fetched, payload: { status: to } });
        lines.mark([event(1, "running"), event(7, "completed")]);
        lines.hold();
        lines.take(live(6), true);
        lines.take(status(7, "completed"), true);
        lines.showTail(answer(2, 5));
        lines.take(live(8), true);
        const ordered = seqs(lines);
        lines.prepend({ lines: [], meta: { stream_cursor: "9-0" } });
        return [ordered, seqs(lines), lines.rows[0].status];
    """
    assert await run(page, served, LINES + script) == [
        [2, 3, 4, 5, 6, 7, 8],
        [1, 2, 3, 4, 5, 6, 7, 8],
        "running",
    ]


def pieces(rng: random.Random) -> list[dict[str, Any]]:
    """Make up a log whose lines come in pieces, of both streams, with other events between."""
    messages = []
    for seq in range(1, rng.randint(10, 60)):
        common = {"seq": seq, "id": f"{seq}-0", "timestamp": "2026-01-01T00:00:00Z"}
        kind = rng.choices(["task_output", "task_status", "event"], [8, 1, 1])[0]
        if kind == "task_output":
            marks = {name: True for name in ("partial", "rewind") if rng.random() < 0.5}
            stream = rng.choice(["stdout", "stdout", "stdout", "stderr"])
            common |= {"output": rng.choice(["", f"<{seq}>"]), "stream": stream, **marks}
        elif kind == "task_status":
            common["status"] = "running"
        else:
            common |= {"topic": "task.tool_call", "payload": {}}
        messages.append({"type": kind, **common})
    return messages


def shown(messages: list[dict[str, Any]]) -> list[list[Any]]:
    """Join pieces into lines, each with the number of its first piece."""
    rows: list[list[Any]] = []
    open_stream, column = None, 0
    for message in messages:
        if message["type"] != "task_output":
            rows.append([message["seq"], message.get("status", "event")])
            open_stream = None
        elif message["type"] == "task_output":
            if message["stream"] != open_stream:
                rows.append([message["seq"], ""])
            before, text = rows[-1][1], message["output"]
            column = 0 if message.get("rewind") or message["stream"] != open_stream else column
            rows[-1][1] = before[:column] + text + before[column + len(text) :]
            column += len(text)
            open_stream = message["stream"] if message.get("partial") else None
    return rows


async def test_pieces_become_lines_wherever_they_meet(page: Page, served: Service) -> None:
    """Pages from the end or from the middle, and live messages, join into the lines of the whole log."""
    rng = random.Random(11)
    logs = [pieces(rng) for _ in range(200)]
    script = """
        let seed = 3;
        const random = (n) => (seed = (seed * 16807) % 2147483647) % n;
        const { plain } = await import("/static/core/terminal.js");
        const shown = (lines) => lines.rows.map(({ seq, text, status }) => [seq, status ?? plain(text)]);
        return logs.map((log, round) => {
            const lines = new LogLines();
            const outputs = log.filter(({ type }) => type === "task_output");
            const answer = (lines, to) => ({ lines, meta: { stream_cursor: `${to}-0` } });
            const between = (from, to) => outputs.filter(({ seq }) => seq >= from && seq <= to);
            const live = (from) => log.slice(from - 1).forEach((message) => lines.take(message, true));
            const end = log.length;
            const known = 1 + random(end); // the log's end at the time of the first question
            lines.mark(log.slice(0, known).filter(({ type }) => type !== "task_output"));
            lines.hold();
            live(1 + random(known + 1));
            const size = 1 + random(9);
            if (round % 2) {
                lines.showTail(answer(between(1, known).slice(-size), known));
            } else {
                const from = 1 + random(known);
                lines.showFrom(from, answer(between(from, end).slice(0, size), end));
            }
            while (!lines.attached) {
                lines.hold();
                lines.extend(answer(between(lines.last + 1, end).slice(0, size), end));
            }
            while (!lines.complete) lines.prepend(answer(between(1, lines.first - 1).slice(-size), end));
            return shown(lines);
        });
    """
    assert await run(page, served, LINES + script, logs=logs) == [shown(log) for log in logs]


async def test_lines_begin_in_the_colour_that_was_left_on(page: Page, served: Service) -> None:
    """A colour spans lines of its stream, also those that are fetched later than what they colour."""
    script = """
        const texts = { 3: "\\x1b[31mred", 5: "still", 6: "\\x1b[0mplain", 7: "too" };
        const one = (seq) => ({ ...line(seq), output: texts[seq] ?? "x" });
        const some = (from, to) => ({ ...answer(from, to), lines: range(from, to).map(one) });
        const styles = () => lines.rows.map(({ style }) => style?.fg ?? null);
        lines.hold();
        lines.showTail(some(5, 7));
        const before = styles();
        lines.prepend(some(1, 4));
        lines.take({ ...live(8), output: "end" }, true);
        return [before, styles()];
    """
    assert await run(page, served, LINES + script) == [
        [None, None, None],
        [None, None, None, 1, 1, 1, None, None],
    ]


async def test_a_move_upwards_is_one_row(page: Page, served: Service) -> None:
    """Lines that are written over by moving up are one row, until the cursor is below them."""
    script = """
        const { plain } = await import("/static/core/terminal.js");
        const done = ["\\x1b[2A\\x1b[Kone: done", "\\x1b[Ktwo: done"];
        const texts = ["first", "one: waiting", "two: waiting", ...done, "last"];
        const messages = texts.map((output, i) => ({ ...live(i + 1), output }));
        lines.hold();
        lines.showTail({ lines: [], meta: { stream_cursor: "0-0" } });
        for (const message of messages) lines.take(message, true);
        const whole = lines.rows.map(({ text }) => plain(text));
        const other = new LogLines();
        other.hold();
        other.showTail({ lines: messages.slice(3), meta: { stream_cursor: "6-0" } });
        other.prepend({ lines: messages.slice(0, 3), meta: { stream_cursor: "6-0" } });
        return [whole, other.rows.map(({ text }) => plain(text))];
    """
    shown = ["first", "one: done\ntwo: done", "last"]
    assert await run(page, served, LINES + script) == [shown, shown]


async def test_a_place_in_a_log_is_the_row_that_holds_it(page: Page, served: Service) -> None:
    """A reader whose row becomes part of a longer line stays at that line."""
    script = """
        const piece = (seq) => ({ ...line(seq), partial: seq % 10 !== 0 });
        const pieces = (from, to) => ({ ...answer(from, to), lines: range(from, to).map(piece) });
        lines.hold();
        lines.showTail(pieces(15, 30));
        const before = [15, 20, 21, 31].map((seq) => lines.indexOf(seq));
        lines.prepend(pieces(5, 14));
        return [before, seqs(lines), [5, 10, 15, 20, 21, 31].map((seq) => lines.indexOf(seq)), lines.last];
    """
    assert await run(page, served, LINES + script) == [
        [0, 0, 1, 2],
        [5, 11, 21],
        [0, 0, 1, 1, 2, 3],
        30,
    ]


async def test_an_endless_line_stays_bounded(page: Page, served: Service) -> None:
    """A line that never ends is cut into rows, so that the oldest of it can be forgotten."""
    script = """
        lines.hold();
        lines.showTail(answer(1, 1));
        for (let seq = 2; seq <= 40; seq++)
            lines.take({ ...live(seq), output: "x".repeat(900_000), partial: true }, true);
        const chars = lines.rows.reduce((sum, row) => sum + row.text.length, 0);
        const bar = { partial: true, rewind: true };
        for (let seq = 41; seq <= 30_000; seq++) lines.take({ ...live(seq), ...bar }, true);
        return [chars < 17_000_000, lines.rows.length < 40, lines.rows.at(-1).text, lines.last];
    """
    assert await run(page, served, LINES + script) == [True, True, "line 30000", 30_000]


STREAM = """
    const { Streams, backoff } = await import("/static/core/streams.js");
    let now = 0;
    const timers = new Set();
    const clock = {
        now: () => now,
        setTimeout: (call, ms) => {
            const timer = { call, at: now + ms };
            timers.add(timer);
            return timer;
        },
        clearTimeout: (timer) => timers.delete(timer),
    };
    const advance = async (ms) => {
        for (const end = now + ms; ; ) {
            const due = [...timers].filter((timer) => timer.at <= end).sort((a, b) => a.at - b.at)[0];
            if (!due) { now = end; break; }
            timers.delete(due);
            now = due.at;
            due.call();
            await new Promise((done) => setTimeout(done));
        }
    };
    const sockets = [];
    const connect = async () => {
        const socket = { sent: [], send: (text) => socket.sent.push(JSON.parse(text)), closed: 0 };
        socket.close = () => { socket.closed += 1; };
        socket.say = (message) => socket.onmessage({ data: JSON.stringify(message) });
        socket.end = (code) => socket.onclose({ code });
        sockets.push(socket);
        return socket;
    };
    const seen = [];
    const log = (name) => (message) => seen.push([name, message?.id ?? message?.reason ?? message]);
    const on = Object.fromEntries(["problem", "state", "failed"].map((name) => [name, log(name)]));
    const messages = () => seen.filter(([name]) => name === "message").map(([, id]) => id);
    on.refused = (why, code) => seen.push(["refused", why, code]);
    const stream = new Streams({ connect, on, clock, random: () => 1 });
    const handlers = Object.fromEntries(["message", "gap", "reset"].map((name) => [name, log(name)]));
    const open = async () => {
        await advance(0);
        sockets.at(-1).onopen();
        sockets.at(-1).say({ type: "subscribed" });
    };
    const event = (id, more) => ({ type: "task_output", id, seq: 1, channel: "task:t", ...more });
    stream.subscribe({ channel: "task:*", after: "5-0" }, handlers);
    await open();
"""


async def test_stream_resumes_after_its_last_id(page: Page, served: Service) -> None:
    """After a lost connection the stream goes on after the last id it handed on, and hands on none twice."""
    script = """
        sockets[0].say(event("7-0"));
        sockets[0].say(event("7-10"));
        sockets[0].say(event("7-9"));
        sockets[0].end(1006);
        await advance(500);
        await open();
        sockets[1].say(event("7-10"));
        sockets[1].say(event("8-0"));
        return [sockets.map((socket) => socket.sent[0].after), messages()];
    """
    assert await run(page, served, STREAM + script) == [["5-0", "7-10"], ["7-0", "7-10", "8-0"]]


async def test_stream_comes_back_when_told(page: Page, served: Service) -> None:
    """A `reconnect` is obeyed to the millisecond instead of the page's own backoff.

    It is no outage, unless the next connection can't be had.
    """
    script = """
        sockets[0].say({ type: "reconnect", after_ms: 1234, reason: "restart" });
        sockets[0].end(1012);
        await advance(1233);
        const early = sockets.length;
        await advance(1);
        const planned = stream.state.name;
        sockets[1].end(1006);
        return [early, sockets.length, planned, stream.state.name, stream.state.since === now];
    """
    assert await run(page, served, STREAM + script) == [1, 2, "live", "reconnecting", True]


@pytest.mark.parametrize("begun", [False, True])
async def test_stream_comes_back_when_it_could_not_begin(page: Page, served: Service, begun: bool) -> None:
    """A subscription that fails for now, begun or not, is tried again on a new connection, ever later."""
    script = """
        const delays = [];
        for (let round = 0; round < 6; round++) {
            const socket = sockets.at(-1);
            socket.onopen();
            if (begun) socket.say({ type: "subscribed" });
            socket.say({ type: "error", code: "unavailable" });
            if (!socket.closed) break;
            socket.end(1005);
            const begin = now;
            while (sockets.at(-1) === socket) await advance(100);
            delays.push(now - begin);
        }
        await open();
        sockets.at(-1).say(event("7-0"));
        const recovered = stream.state.name;
        const count = sockets.length;
        sockets.at(-1).end(1006);
        await advance(500);
        return [delays, recovered, sockets.length - count];
    """
    assert await run(page, served, STREAM + script, begun=begun) == [
        [500, 1000, 2000, 4000, 8000, 15000],
        "live",
        1,
    ]


async def test_stream_stays_away_when_told(page: Page, served: Service) -> None:
    """Close codes from 4500 on end the stream for good; a bad key asks for a better one."""
    script = """
        sockets[0].end(4505);
        await advance(100_000);
        const stopped = [sockets.length, stream.state.name];
        stream.restart();
        await open();
        sockets[1].end(4500);
        await advance(100_000);
        return [stopped, sockets.length, seen.filter(([name]) => name === "refused")];
    """
    assert await run(page, served, STREAM + script) == [
        [1, "stopped"],
        2,
        [["refused", "stop", 4505], ["refused", "key", 4500]],
    ]


async def test_silent_stream_is_given_up(page: Page, served: Service) -> None:
    """A connection without a sign of life is asked for a pong, then replaced; one that answers is kept."""
    script = """
        await advance(8_000);
        const asked = sockets[0].sent.at(-1).type;
        sockets[0].say({ type: "pong" });
        await advance(4_000);
        const kept = [sockets.length, stream.state.name];
        await advance(9_000);
        return [asked, kept, sockets.length > 1, sockets[0].closed];
    """
    assert await run(page, served, STREAM + script) == ["ping", [1, "live"], True, 1]


async def test_stream_is_probed_when_the_machine_wakes(page: Page, served: Service) -> None:
    """A network that comes or goes has the peer asked at once, or the next attempt made."""
    script = """
        stream.wake();
        const asked = sockets[0].sent.at(-1).type;
        await advance(5_200);
        const { name, since, next } = stream.state;
        const said = [name, since !== null, next > now];
        const waiting = sockets.length;
        stream.wake();
        await open();
        return [asked, said, waiting, sockets.length, stream.state];
    """
    live = {"name": "live", "since": None, "next": None}
    found = await run(page, served, STREAM + script)
    assert found == ["ping", ["reconnecting", True, True], 1, 2, live]


async def test_a_late_timer_is_no_silence(page: Page, served: Service) -> None:
    """After a sleep, or a page that was busy, the peer has its time again to answer."""
    script = """
        await advance(8_000);
        for (const timer of timers) timer.at += 60_000;
        await advance(61_000);
        const kept = sockets.length;
        const asked = sockets[0].sent.filter(({ type }) => type === "ping").length;
        sockets[0].say({ type: "pong" });
        await advance(5_000);
        return [kept, asked, sockets.length, stream.state.name];
    """
    assert await run(page, served, STREAM + script) == [1, 2, 1, "live"]


async def test_overlapping_subscriptions_hear_everything_once(page: Page, served: Service) -> None:
    """Copies may come in any order: each listener hears its events once, a channel's by `seq`."""
    script = """
        const heard = [];
        stream.subscribe(
            { channel: "task:t", after: "5-0", seq: 1 },
            { message: ({ seq }) => heard.push(seq) },
        );
        const statuses = { channel: "task:*", topic: "task.status", after: "5-0" };
        stream.subscribe(statuses, { message: () => {} });
        const status = { type: "task_status", status: "running" };
        const [a, c] = [event("7-0", { seq: 2 }), event("9-0", { seq: 4 })];
        const b = event("8-0", { seq: 3, ...status });
        const other = event("6-0", { channel: "task:u" });
        // The status by its own subscription, then all of the task's, then of the pattern's all but the last.
        for (const message of [b, a, b, other, a, b, c]) sockets[0].say(message);
        sockets[0].end(1006);
        await advance(500);
        await open();
        const after = sockets[1].sent.map(({ channel, topic, after }) => [channel, topic ?? "*", after]);
        for (const message of [c, c]) sockets[1].say(message);
        return [heard, messages(), after];
    """
    assert await run(page, served, STREAM + script) == [
        [2, 3, 4],
        ["8-0", "7-0", "6-0", "9-0"],
        [["task:*", "*", "8-0"], ["task:t", "*", "9-0"], ["task:*", "task.status", "8-0"]],
    ]


async def test_what_is_refused_holds_nobody_back(page: Page, served: Service) -> None:
    """An event that a refused subscription would have brought as well has come when it came once."""
    script = """
        stream.subscribe({ channel: "task:*", topic: "task.status", after: "5-0" }, { message: () => {} });
        sockets[0].say({ type: "error", code: "forbidden", ref: sockets[0].sent.at(-1).ref });
        sockets[0].say(event("7-0", { type: "task_status", status: "running" }));
        sockets[0].end(1006);
        await advance(500);
        await open();
        return sockets[1].sent.map(({ after }) => after);
    """
    assert (await run(page, served, STREAM + script))[0] == "7-0"


async def test_a_channel_that_begins_anew_is_a_reset(page: Page, served: Service) -> None:
    """A newer event with a lower `seq` is no old news to a listener that goes by `seq`; an older one is."""
    script = """
        const heard = [];
        stream.subscribe(
            { channel: "task:t", after: "5-0", seq: 3, last: "7-0" },
            { message: ({ seq }) => heard.push(seq), reset: ({ reason }) => heard.push(reason) },
        );
        const said = [["6-0", 2], ["7-0", 3], ["8-0", 4], ["9-0", 1]];
        for (const [id, seq] of said) sockets[0].say(event(id, { seq }));
        return heard;
    """
    assert await run(page, served, STREAM + script) == [4, "the channel began anew"]


async def test_listeners_to_the_same_share_a_subscription(page: Page, served: Service) -> None:
    """A second listener is served by asking anew from the older cursor, and ends without ending the first."""
    script = """
        sockets[0].say(event("7-0"));
        const heard = [];
        const hear = { message: ({ id }) => heard.push(id) };
        const second = stream.subscribe({ channel: "task:*", after: "6-0" }, hear);
        for (const id of ["7-0", "8-0"]) sockets[0].say(event(id));
        second.cancel();
        sockets[0].say(event("9-0"));
        return [sockets[0].sent.map(({ type, after }) => [type, after]), heard, messages()];
    """
    assert await run(page, served, STREAM + script) == [
        [["subscribe", "5-0"], ["subscribe", "6-0"]],
        ["7-0", "8-0"],
        ["7-0", "8-0", "9-0"],
    ]


async def test_backoff_grows_and_is_bounded(page: Page, served: Service) -> None:
    """Attempts back off from half a second to fifteen seconds, at least half of it whatever the dice say."""
    script = """
        return [0, 1, 2, 3, 10, 60].map((attempt) => [backoff(attempt, 0), backoff(attempt, 1)]);
    """
    assert await run(page, served, STREAM + script) == [
        [250, 500],
        [500, 1000],
        [1000, 2000],
        [2000, 4000],
        [7500, 15000],
        [7500, 15000],
    ]


FLEET = """
    const { Fleet, passing } = await import("/static/core/fleet.js");
    const asked = [];
    const moves = [];
    const fleet = new Fleet({
        fetch: (id, later) => asked.push(later ? `${id} later` : id),
        moved: (task, before) => moves.push([task.task_id, before ?? String(before), task.status]),
    });
    const timestamp = "2026-01-01T00:00:00Z";
    const message = (id, seq) => ({ channel: `task:${id}`, id: `${seq}-0`, seq, timestamp });
    const output = (id, seq) => ({ ...message(id, seq), type: "task_output", output: `line ${seq}` });
    const status = (id, seq, to) => ({ ...message(id, seq), type: "task_status", status: to });
    const known = (id, last_seq, more) => ({
        task_id: id, status: "running", created_at: timestamp, updated_at: timestamp,
        output_lines: last_seq, output_bytes: 0, last_seq, last_event_id: `${last_seq}-0`, ...more,
    });
"""


async def test_fleet_goes_on_by_the_newest_lines(page: Page, served: Service) -> None:
    """Of output only some lines are heard; what is fetched and what is heard may come in any order."""
    script = """
        fleet.merge([known("a", 10)]);
        for (const seq of [5, 12, 15]) fleet.take(output("a", seq));
        fleet.merge([known("a", 12)]);
        const { latest, output_lines, last_seq } = fleet.get("a");
        fleet.take(output("a", 13));
        return [latest, output_lines, last_seq, fleet.get("a").output_lines, asked];
    """
    assert await run(page, served, FLEET + script) == ["line 15", 15, 15, 15, []]


async def test_fleet_takes_up_a_task_that_begins_anew(page: Page, served: Service) -> None:
    """The first event of a channel that was forgotten is news, and so is the task that is then fetched."""
    script = """
        fleet.merge([known("a", 10), known("b", 10)]);
        fleet.take({ ...output("a", 1), id: "50-0" });
        fleet.take({ ...output("a", 1), id: "50-0" });
        fleet.merge([known("b", 2, { last_event_id: "60-0" })]);
        return ["a", "b"].map((id) => [fleet.get(id).last_seq, fleet.get(id).output_lines]);
    """
    assert await run(page, served, FLEET + script) == [[1, 1], [2, 2]]


async def test_fleet_asks_for_what_it_is_unsure_of(page: Page, served: Service) -> None:
    """A task that is unknown, began unheard or ended is fetched, again later if that was behind."""
    script = """
        fleet.take(output("old", 40));
        fleet.take(output("old", 41));
        fleet.take(output("new", 1));
        fleet.merge([known("new", 1)]);
        fleet.take(status("new", 9, "completed"));
        fleet.merge([known("new", 5)]);
        fleet.merge([known("new", 9, { status: "completed", output_lines: 7 })]);
        return [asked, moves, fleet.get("new").output_lines];
    """
    assert await run(page, served, FLEET + script) == [
        ["old", "new", "new", "new later"],
        [["new", "null", "queued"], ["new", "queued", "running"], ["new", "running", "completed"]],
        7,
    ]


async def test_fleet_filters_as_the_service_does(page: Page, served: Service) -> None:
    """Every word must be somewhere in a task's names or error, in either case; other fields are exact."""
    script = """
        const named = { name: "Nightly ÄRGER", agent: "keeper", model: "m-7", error: "Disk full" };
        const passes = (filter) => passing(filter)(known("t-1", 1, named));
        return [...texts.map((text) => passes({ text, agent: "keeper" })), passes({ agent: "keep" })];
    """
    texts = ["", "ärger nightly", "T-1 disk", "m-7 keeper", "nightly empty"]
    assert await run(page, served, FLEET + script, texts=texts) == [True, True, True, True, False, False]


async def test_fleet_is_bounded(page: Page, served: Service) -> None:
    """With more tasks than a page can keep, the oldest finished ones are let go, and none that runs."""
    script = """
        const tasks = Array.from({ length: 25_000 }, (_, i) => ({
            ...known(`t${i}`, 1), created_at: `2026-01-01T00:00:00.${String(i).padStart(6, "0")}Z`,
            status: i % 10 ? "completed" : "running",
        }));
        fleet.merge(tasks);
        const kept = ["t24999", "t1", "t0"].map((id) => Boolean(fleet.get(id)));
        return [fleet.size <= 20_500, fleet.sections({}).running.length, kept];
    """
    assert await run(page, served, FLEET + script) == [True, 2500, [True, False, True]]
