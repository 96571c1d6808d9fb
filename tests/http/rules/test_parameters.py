"""Parameters read themselves strictly, and describe what they read."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import json_values
from werkzeug.datastructures import Headers

from heliograph.config import Settings, StreamSettings
from heliograph.http.api.routes.streams import StreamStart
from heliograph.http.rules import parameters
from heliograph.http.rules.parameters import (
    Flag,
    Keyset,
    Media,
    Moment,
    Nothing,
    ParameterKind,
    Position,
    Selectors,
    Text,
    Texts,
    Whole,
    Word,
    Words,
    encode_cursor,
    header,
    parameters_of,
    path,
    query,
    read_parameters,
    require_utf8,
)
from heliograph.http.streams.watching import MAX_TAIL
from heliograph.http.wire.head import read_head
from heliograph.model.channels import Selection
from heliograph.model.errors import Invalid, Malformed
from heliograph.model.ids import OLDEST, make_id

SETTINGS = Settings()


def read(cls: type, text: str = "", headers: Mapping[str, str] | None = None, **path: str) -> Any:
    """Read the parameters of a class from a request with this query."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    head = read_head(f"GET /x?{text} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
    return read_parameters(cls, head, path, SETTINGS)


def one(kind: ParameterKind, *texts: str, settings: Settings = SETTINGS) -> Any:
    """Read the texts of one parameter."""
    return kind.read(texts, "it", settings)


def fields(invalid: Invalid) -> list[str]:
    """Return the fields that an error names."""
    assert all(error.detail for error in invalid.errors)
    return [error.field for error in invalid.errors]


@attrs.frozen
class Some:
    """Parameters of every place."""

    number: int = query(Whole(1, 5), "A number.", default=2)
    from_: str | None = query(Text(), "A word.", name="from")
    key: str | None = header("X-Key", Text(1, 3), "A key.")
    thing: str = path(Text(), "A thing.")


def test_parameters_are_read_from_their_places() -> None:
    """A class gets its values from the query, the header and the path, or their defaults."""
    assert read(Some, "number=4&from=x", {"X-Key": "k"}, thing="t") == Some(
        number=4, from_="x", key="k", thing="t"
    )
    assert read(Some, thing="t") == Some(thing="t")


def test_an_empty_parameter_is_an_absent_one() -> None:
    """Pages send all of their filters, of which most are empty."""
    assert read(Some, "number=&from=", {"X-Key": " "}, thing="t") == Some(thing="t")


def test_all_that_is_wrong_is_named() -> None:
    """Wrong and unknown parameters are named together, with what is known."""
    with pytest.raises(Invalid) as caught:
        read(Some, "number=9&limti=2&x=", {"X-Key": "toolong"}, thing="t")
    assert fields(caught.value) == ["number", "X-Key", "limti", "x"]
    assert caught.value.errors[2].detail == "is unknown; this takes number, from"
    with pytest.raises(Invalid, match="this takes no parameters"):
        read(Nothing, "x=1")


def test_an_error_names_a_hundred_fields() -> None:
    """However much is wrong, the answer to it is small."""
    with pytest.raises(Invalid) as caught:
        read(Nothing, "&".join(f"x{number}=1" for number in range(500)))
    assert len(caught.value.errors) == 100
    assert len(str(caught.value)) < 1000


def test_parameters_describe_themselves() -> None:
    """What is read is what OpenAPI is told, the default included."""
    described = {each.name: each.describe(SETTINGS) for each in parameters_of(Some)}
    assert described == {
        "number": {
            "name": "number",
            "in": "query",
            "description": "A number.",
            "schema": {"type": "integer", "minimum": 1, "maximum": 5, "default": 2},
        },
        "from": {"name": "from", "in": "query", "description": "A word.", "schema": {"type": "string"}},
        "X-Key": {
            "name": "X-Key",
            "in": "header",
            "description": "A key.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 3},
        },
        "thing": {
            "name": "thing",
            "in": "path",
            "description": "A thing.",
            "schema": {"type": "string"},
            "required": True,
        },
    }


def test_a_number_is_read() -> None:
    """A whole number within its range is read."""
    assert one(Whole(1, 5), "5") == 5
    assert one(Whole(-5, 5), "-3") == -3
    assert one(Whole(0, 5), "0") == 0


@pytest.mark.parametrize(
    "text",
    ["x", "1.5", "0", "6", "-1", "--1", "+1", "1_0", "٣", " 3", "3 ", "1e1", "9" * 5000, "3\0", "²"],
)
def test_what_is_no_number_in_range_is_refused(text: str) -> None:
    """Everything else is refused with the range, also what Python would take for a number."""
    with pytest.raises(Invalid, match="it: must be a whole number from 1 to 5"):
        one(Whole(1, 5), text)


def test_a_moment_is_read() -> None:
    """A time is read, with its offset whether the plus sign was escaped or not."""
    for text in ("2026-01-31T12:00:00Z", "2026-01-31T13:00:00+01:00", "2026-01-31T13:00:00 01:00"):
        assert one(Moment(), text) == datetime(2026, 1, 31, 12, tzinfo=UTC)
    with pytest.raises(Invalid, match="it: "):
        one(Moment(), "soon")


def test_words_are_read() -> None:
    """Values may be repeated or separated by commas; others than those allowed are refused."""
    assert one(Words("abc"), "a, b", "c,") == ("a", "b", "c")
    assert one(Word("abc"), "b") == "b"
    assert one(Flag(), "true") is True
    assert one(Texts(), "x", "y") == ("x", "y")
    for kind in (Words("ab"), Word("ab"), Flag()):
        with pytest.raises(Invalid, match="it: must be"):
            one(kind, "c")


def test_the_best_media_type_is_read() -> None:
    """``Accept`` chooses among what there is; whoever accepts nothing of it gets the first."""
    kinds = Media(("application/json", "text/csv"))
    assert one(kinds, "text/csv") == "text/csv"
    assert one(kinds, "text/csv;q=0.5, application/json") == "application/json"
    assert one(kinds, "*/*") == one(kinds, "image/png") == "application/json"


def test_text_that_no_database_keeps_is_refused() -> None:
    """NUL and lone surrogates are refused by name, other text passes."""
    assert require_utf8("é\U0001f6f0", "agent") == "é\U0001f6f0"
    with pytest.raises(Invalid, match="agent"):
        require_utf8("a\0", "agent")
    with pytest.raises(Malformed, match="agent"):
        require_utf8("\ud800", "agent")


# Cursors


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.integers(-(2**63), 2**63 - 1), max_size=4)
)
def test_a_cursor_is_read_back(parts: list[str | int]) -> None:
    """A cursor made of texts and numbers is read back, and needs no escaping in a query."""
    text = encode_cursor(*parts)
    assert quote(text, safe="") == text
    assert one(Keyset(tuple(map(type, parts)), lambda *read: list(read)), text) == parts


@given(st.text(max_size=40) | json_values().map(lambda value: encode_cursor(value) if value else ""))
def test_a_forged_cursor_is_refused(text: str) -> None:
    """Whatever a cursor's text is, it is one of ours or refused by name."""
    try:
        parts = one(Keyset((int, str), lambda *read: read), text)
    except Invalid as invalid:
        assert fields(invalid) == ["it"]  # noqa: PT017
    else:
        assert [type(part) for part in parts] == [int, str]


def test_a_key_that_no_list_has_is_refused() -> None:
    """What makes the key may refuse it."""

    def never(number: int) -> int:
        raise ValueError(number)

    with pytest.raises(Invalid, match="it: must be a next_cursor of this list"):
        one(Keyset((int,), never), encode_cursor(1))


# Streams


def test_channels_are_limited() -> None:
    """Channels are taken up to the limit in force, and each is checked."""
    narrow = Settings(streams=StreamSettings(max_channels=1))
    assert one(Selectors(), "task:2", "task:1") == ("task:2", "task:1")
    with pytest.raises(Invalid, match="at most 1 channels"):
        one(Selectors(), "task:2", "task:1", settings=narrow)
    with pytest.raises(Invalid, match="channel"):
        one(Selectors(), "nowhere")
    assert Selectors().schema(narrow)["maxItems"] == 1
    assert Selectors().schema(Settings(streams=StreamSettings(max_channels=9999)))["maxItems"] == 500


TASK = Selection.of(["task:1"])


def test_where_a_stream_begins() -> None:
    """``Last-Event-ID`` wins over ``after``, which wins over the default; a tail stands for itself."""
    both = read(StreamStart, "after=5-1", {"Last-Event-ID": " 6-2 "})
    assert both.request(TASK).after == make_id(6, 2)
    assert read(StreamStart, "after=5-1", {"Last-Event-ID": ""}).request(TASK, OLDEST).after == make_id(5, 1)
    assert read(StreamStart).request(TASK).after is None
    assert read(StreamStart).request(TASK, OLDEST).after == OLDEST
    wanted = read(StreamStart, "tail=3").request(TASK, OLDEST)
    assert (wanted.after, wanted.tail) == (None, 3)
    wanted = read(StreamStart, "after=2026-01-31T12:00:00+00:00").request(TASK)
    assert (wanted.after, wanted.after_is_time) == (make_id(1769860800000) - 1, True)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("names=no", "names"),
        ("tail=-1", "tail"),
        (f"tail={MAX_TAIL + 1}", "tail"),
        ("overflow=never", "overflow"),
    ],
)
def test_a_bad_wish_of_a_stream_is_named(text: str, field: str) -> None:
    """A malformed cursor, tail or policy is refused by its name."""
    with pytest.raises(Invalid) as caught:
        read(StreamStart, text)
    assert fields(caught.value) == [field]


@pytest.mark.parametrize("text", ["x", "-1-0", "9999999999999999-0"])
def test_a_foreign_cursor_is_no_reason_to_refuse(text: str) -> None:
    """A cursor that is none of ours is taken as that, however it comes."""
    for wanted in (
        read(StreamStart, f"after={text}"),
        read(StreamStart, f"lastEventId={text}"),
        read(StreamStart, "", {"Last-Event-ID": text}),
    ):
        request = wanted.request(TASK)
        assert (request.after, request.foreign) == (None, True)
        assert wanted.request(TASK, OLDEST).after == OLDEST


def test_the_newest_word_on_the_cursor_counts() -> None:
    """The header wins over a polyfill's parameter, and that over the query of the first connect."""
    both = "after=1-1&lastEventId=2-2"
    assert read(StreamStart, both, {"Last-Event-ID": "3-3"}).request(TASK).after == make_id(3, 3)
    assert read(StreamStart, both).request(TASK).after == make_id(2, 2)


def test_a_plus_sign_in_a_channel() -> None:
    """A raw plus sign, which a query turns into a space, is the plus sign of the channel's name."""
    assert one(Selectors(), "task:a b") == ("task:a+b",)


def test_limits_are_the_documented_ones() -> None:
    """Lists have 50 entries by default and 500 at most."""
    assert (parameters.DEFAULT_LIMIT, parameters.MAX_LIMIT) == (50, 500)


def test_headers_are_read_in_whatever_letters() -> None:
    """Quart's headers and ours are asked alike."""
    assert one(Position(), "5-1") == make_id(5, 1)
    assert Headers({"x-key": "k"}).get("X-Key") == "k"
