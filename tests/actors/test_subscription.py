from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.actors.conftest import Recorder, encode, ending, event, subscribe

from heliograph.actors.subscription import Batch, Message, Overflow, ends_task
from heliograph.model.event import Event
from heliograph.model.ids import make_id


def batch(*numbers: int) -> Batch:
    """Make a batch of the events of these numbers."""
    return Batch([Message(event(number)) for number in numbers])


def seqs(some: Batch | None) -> list[int] | None:
    """Return the seqs in a batch."""
    return None if some is None else [message.event.seq for message in some.messages]


def test_a_message_is_encoded_once() -> None:
    """However many ask, an event is encoded once for each encoding."""
    calls: list[Event] = []

    def counted(one: Event) -> bytes:
        calls.append(one)
        return b"x"

    message = Message(event(1))
    assert message.encoded(counted) is message.encoded(counted)
    assert message.encoded(encode) == b"1 "
    assert len(calls) == 1


def test_a_batch_is_joined_once() -> None:
    """All watchers of a batch are given the very same bytes."""
    some = batch(1, 2, 3)
    assert some.joined(encode) == b"1 2 3 "
    assert some.joined(encode) is some.joined(encode)
    assert (some.first_id, some.last_id) == (event(1).id, event(3).id)


@given(st.lists(st.integers(1, 50), min_size=1, unique=True).map(sorted), st.integers(0, 51))
def test_the_rest_of_a_batch_is_what_is_newer(numbers: list[int], after: int) -> None:
    """The part after a position holds just the newer messages, or is none."""
    rest = batch(*numbers).after(make_id(1000 + after))
    assert seqs(rest) == ([number for number in numbers if number > after] or None)


@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_a_batch_is_cut_behind_the_first_end(ends: list[bool]) -> None:
    """The part up to the end of the task includes the event that ends it, and nothing later."""
    events = [ending(n) if end else event(n) for n, end in enumerate(ends)]
    cut = Batch([Message(one) for one in events]).to_task_end()
    assert seqs(cut) == (list(range(ends.index(True) + 1)) if True in ends else None)


@pytest.mark.parametrize(
    ("one", "ends"),
    [
        (ending(1, "completed"), True),
        (ending(1, "failed"), True),
        (ending(1, "cancelled"), True),
        (ending(1, "running"), False),
        (event(1, topic="task.status", task_id="1"), False),
        (event(1, topic="run.status", status="completed"), False),
    ],
)
def test_a_terminal_status_ends_a_task(one: Event, ends: bool) -> None:
    """Only a ``task.status`` with a terminal status is the last word."""
    assert ends_task(one) == ends


@given(st.lists(st.integers(0, 3), min_size=1, max_size=10), st.integers(0, 20))
def test_overlapping_deliveries_are_given_once(steps: list[int], start: int) -> None:
    """Batches that overlap, as the ring and the log do, reach the watcher without a repetition."""
    recorder = Recorder()
    subscription = subscribe(recorder, "task:1", position=make_id(1000 + start))
    end = 5
    for step in steps:
        begin, end = end - 2, end + step
        subscription.deliver(batch(*range(begin, end + 1)))
    delivered = [number for numbers in recorder.seqs for number in numbers]
    assert delivered == [number for number in range(3, end + 1) if number > start]
    assert subscription.position == make_id(1000 + max(start, end))


async def test_a_subscription_ends_with_its_task() -> None:
    """What comes behind the terminal event is not delivered, and the watcher is told once."""
    recorder = Recorder()
    subscription = subscribe(recorder, "task:1", ends_with_task=True)
    subscription.deliver(Batch([Message(event(1)), Message(ending(2)), Message(event(3))]))
    assert (recorder.seqs, recorder.ended) == ([[1, 2]], 1)


async def test_an_end_that_was_seen_is_not_the_end() -> None:
    """A terminal event at or before the position does not end a subscription that resumes behind it."""
    recorder = Recorder()
    subscription = subscribe(recorder, "task:1", position=ending(2).id, ends_with_task=True)
    subscription.deliver(Batch([Message(event(1)), Message(ending(2)), Message(event(3))]))
    assert (recorder.seqs, recorder.ended) == ([[3]], 0)


async def test_other_subscriptions_outlive_the_task() -> None:
    """Who watches a channel, not a task's life, hears what comes behind the end."""
    recorder = Recorder()
    subscribe(recorder, "task:1").deliver(Batch([Message(ending(1)), Message(event(2))]))
    assert (recorder.seqs, recorder.ended) == ([[1, 2]], 0)


def test_the_size_of_a_message_follows_its_payload() -> None:
    """What keeping a message costs grows with its output, or with its payload, and with its encoding."""
    small, large = Message(event(1, output="x")), Message(event(1, output="x" * 5000))
    assert large.size - small.size == 3 * 4999
    payload: dict[str, Any] = {"numbers": list(range(1000))}
    assert Message(event(1, topic="a", **payload)).size > 7 * len(orjson.dumps(payload))


def test_overflow_policies_have_their_public_names() -> None:
    """The policies are named as clients write them."""
    assert [policy.value for policy in Overflow] == ["disconnect", "drop_oldest", "latest"]
