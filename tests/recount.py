"""Analytics counted again, the slow and simple way, from the raw events: what the fast way must equal.

Nothing of the code under test is used. A history is a list of publish items, in the order of the log.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import attrs
from hypothesis import strategies as st

Item = dict[str, Any]

PRICE = {"m1": (Fraction(3000), Fraction(300), Fraction(3750), Fraction(15_000))}
"""By model, of a token in nano-dollars: fresh input, input from a cache, input written to one, output."""

TOKENS = (
    *("input_tokens", "cached_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
    "output_tokens",
)

ENDS = ("completed", "failed", "cancelled", "lost")

ANCHORS = (datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC))
"""Around these, many zones change their clocks."""


@attrs.define
class Counted:
    """A task as the raw events tell it."""

    created_at: datetime
    status: str = "queued"
    started_at: datetime | None = None
    finished_at: datetime | None = None
    described: dict[str, str] = attrs.field(factory=dict)
    result: dict[str, Any] = attrs.field(factory=dict)
    earlier: Counter[str] = attrs.field(factory=Counter)
    earlier_nanos: int | None = None

    def begin_again(self, moment: datetime) -> None:
        """Begin another attempt: what the others have spent is added to what this one will."""
        if self.said_cost:
            self.earlier_nanos = self.nanos
        elif self.computed is not None:
            self.priced_nanos = round(self.computed)
        self.earlier = self.used
        self.status, self.started_at, self.finished_at, self.result = "running", moment, None, {}

    priced_nanos: int = 0

    @property
    def said_cost(self) -> bool:
        """Whether some attempt has told what it cost."""
        return self.result.get("cost_usd") is not None or self.earlier_nanos is not None

    @property
    def used(self) -> Counter[str]:
        """All tokens by their names."""
        said = {name: self.result[name] for name in TOKENS if self.result.get(name) is not None}
        return Counter({**self.earlier, **{name: self.earlier[name] + count for name, count in said.items()}})

    def value(self, dimension: str) -> str:
        """Return the group it belongs to."""
        if dimension == "status":
            return self.status
        return self.described.get(dimension) or "unknown"

    @property
    def nanos(self) -> int:
        """What it cost: as said, else by the price of its model."""
        if self.result.get("cost_usd") is not None:
            before = self.priced_nanos if self.earlier_nanos is None else self.earlier_nanos
            return before + round(Fraction(str(self.result["cost_usd"])) * 10**9)
        if self.earlier_nanos is not None:
            return self.earlier_nanos
        return round(self.computed) if self.computed is not None else 0

    @property
    def tokens(self) -> tuple[int, int, int, int] | None:
        """Tokens in that are fresh, from a cache and to one, and tokens out; ``None`` if none are said."""
        said = self.used
        whole, cached = said.get("input_tokens", 0), said.get("cached_tokens", 0)
        read, written = said.get("cache_read_input_tokens", 0), said.get("cache_creation_input_tokens", 0)
        fresh = whole if cached > whole else whole - cached
        return (fresh, cached + read, written, said.get("output_tokens", 0)) if said else None

    @property
    def computed(self) -> Fraction | None:
        """The cost by the price table, if that is what counts."""
        price = PRICE.get(self.described.get("model", ""))
        if self.said_cost or self.tokens is None or price is None:
            return None
        return sum((count * each for count, each in zip(self.tokens, price, strict=True)), Fraction(0))

    @property
    def unknown(self) -> bool:
        """Whether nobody knows what its tokens cost."""
        return self.tokens is not None and self.computed is None and not self.said_cost

    @property
    def duration_ms(self) -> int:
        """From start (or creation) to finish."""
        assert self.finished_at is not None
        length = self.finished_at - (self.started_at or self.created_at)
        return max(0, round(length / timedelta(milliseconds=1)))


def tasks_of(history: Iterable[Item]) -> list[Counted]:
    """Retell the tasks of a history; an item whose key came before is a duplicate."""
    tasks: dict[str, Counted] = {}
    keys = set()
    for item in history:
        if item["key"] in keys:
            continue
        keys.add(item["key"])
        moment, payload = datetime.fromisoformat(item["timestamp"]), item["payload"]
        task = tasks.setdefault(payload["task_id"], Counted(moment))
        said = payload.get("status")
        if said == "lost" and task.finished_at is not None:
            continue
        if task.status == "lost" and said not in (None, "queued"):
            task.status, task.finished_at = "running" if task.started_at else "queued", None
        if item["topic"] == "task.created":
            task.described.update({k: v for k, v in payload.items() if k != "task_id"})
        elif item["topic"] == "task.status" and said in ENDS:
            task.status, task.finished_at = payload["status"], task.finished_at or moment
            task.result.update(payload.get("result") or {})
        elif task.finished_at is not None:
            if payload.get("status") == "running" and moment >= task.finished_at:
                task.begin_again(moment)
        elif payload.get("status") != "queued":
            task.started_at = task.started_at or moment
            if task.status == "queued" or item["topic"] == "task.status":
                task.status = payload.get("status", "running")
    return list(tasks.values())


def sums(tasks: Iterable[Counted], created: Callable[[datetime], bool]) -> dict[str, Any]:
    """Add tasks up, each where ``created`` takes its moments."""
    every = list(tasks)
    done = [task for task in every if task.finished_at is not None and created(task.finished_at)]
    ended = Counter(task.status for task in done)
    count = len(done)
    used = [task.tokens for task in done if task.tokens is not None]
    tokens_in, tokens_out = sum(sum(one[:3]) for one in used), sum(one[3] for one in used)
    nanos = sum(task.nanos for task in done)
    return {
        "created": sum(created(task.created_at) for task in every),
        "tasks": count,
        "succeeded": ended["completed"],
        "failed": ended["failed"] + ended["lost"],
        "cancelled": ended["cancelled"],
        "cost_nanos": nanos,
        "cost_usd": nanos / 10**9,
        "costs_computed": sum(task.computed is not None for task in done),
        "costs_unknown": sum(task.unknown for task in done),
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
        "success_rate": ended["completed"] / count if count else None,
        "average_tokens": (tokens_in + tokens_out) / count if count else None,
        "average_cost_usd": nanos / count / 10**9 if count else None,
        "average_duration_ms": sum(task.duration_ms for task in done) / count if count else None,
    }


def grouped(
    tasks: Iterable[Counted], name: str, taken: Callable[[datetime], bool]
) -> dict[str, dict[str, Any]]:
    """Add tasks up by a dimension; groups without anything are left out."""
    groups: dict[str, list[Counted]] = defaultdict(list)
    for task in tasks:
        groups[task.value(name)].append(task)
    added = {group: sums(some, taken) for group, some in groups.items()}
    return {group: one for group, one in added.items() if one["created"] or one["tasks"]}


def percentile(tasks: Iterable[Counted], share: float) -> int | None:
    """Return the exact percentile of durations by nearest rank."""
    durations = sorted(task.duration_ms for task in tasks)
    return durations[math.ceil(share * len(durations)) - 1] if durations else None


def label(moment: datetime, granularity: str, zone: ZoneInfo) -> object:
    """Return what tells the buckets of a granularity apart: what the zone's clock and calendar show."""
    local = moment.astimezone(zone)
    day = local.date()
    match granularity:
        case "15m":
            return moment.timestamp() // 900
        case "hour":
            return day, local.hour, local.utcoffset()
        case "day":
            return day
        case "week":
            return day - timedelta(days=day.weekday())
        case _:
            return day.year, day.month


# -- histories for property tests

_result = st.fixed_dictionaries(
    {},
    optional={
        "cost_usd": st.decimals(0, 100, places=9).map(float),
        **dict.fromkeys(TOKENS, st.integers(0, 10**6)),
        "error": st.sampled_from(["TimeoutError: read", "exit status 3"]),
    },
)
_name = st.sampled_from(["planner", "coder", "reviewer"])
_described = st.fixed_dictionaries(
    {},
    optional={
        "agent": _name,
        "agent_type": st.sampled_from(["cli", "api"]),
        "model": st.sampled_from(["m1", "m2"]),
    },
)
_said = st.one_of(
    st.tuples(st.just("task.created"), _described),
    st.tuples(st.just("task.output"), st.just({"output": "x"})),
    st.tuples(
        st.just("task.status"),
        st.fixed_dictionaries(
            {"status": st.sampled_from(["queued", "running", "waiting_input", "completed", *ENDS])},
            optional={"result": _result},
        ),
    ),
)


@st.composite
def histories(draw: st.DrawFn, anchor: datetime) -> list[Item]:
    """Draw a history of few tasks around a moment: any order, corrections, some items twice."""
    items: list[Item] = []
    for _ in range(draw(st.integers(1, 30))):
        if items and draw(st.integers(0, 9)) == 0:
            items.append(draw(st.sampled_from(items)))
            continue
        topic, payload = draw(_said)
        moment = anchor + timedelta(minutes=draw(st.integers(-2000, 2000)))
        items.append(
            {
                "topic": topic,
                "payload": {"task_id": f"t{draw(st.integers(0, 3))}", **payload},
                "timestamp": moment.isoformat(),
                "key": f"k{len(items)}",
            }
        )
    return items
