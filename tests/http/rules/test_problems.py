import orjson
import pytest
import structlog
from quart_trio import QuartTrio
from werkzeug.exceptions import default_exceptions

from heliograph.http.rules.problems import TABLE, answer_to, describe, install
from heliograph.model import errors
from heliograph.model.errors import FieldError, HeliographError, Invalid, TooMany, Unavailable

EXAMPLES: dict[type[HeliographError], tuple[HeliographError, int, str]] = {
    errors.Malformed: (errors.Malformed("line 3 is not JSON"), 400, "malformed"),
    errors.Unauthenticated: (errors.Unauthenticated("unknown API key"), 401, "unauthenticated"),
    errors.Forbidden: (errors.Forbidden("not yours"), 403, "forbidden"),
    errors.NotFound: (errors.NotFound("no task"), 404, "not_found"),
    errors.Conflict: (errors.Conflict("the key"), 409, "conflict"),
    errors.TooLarge: (errors.TooLarge("9 bytes"), 413, "too_large"),
    errors.UnsupportedMedia: (errors.UnsupportedMedia("text/plain"), 415, "unsupported_media_type"),
    errors.Invalid: (Invalid.field("limit", "must be small"), 422, "invalid"),
    errors.TooMany: (TooMany("9 streams", 4.2), 429, "too_many"),
    errors.Unavailable: (Unavailable("away", 0.2), 503, "unavailable"),
}


def subclasses(cls: type) -> set[type]:
    """Return all classes below one."""
    below: set[type] = set(cls.__subclasses__())
    return below.union(*map(subclasses, below))


@pytest.fixture
def app() -> QuartTrio:
    """Make an app whose routes raise what their path names."""
    made = QuartTrio(__name__)
    install(made)

    @made.get("/raise/<name>")
    async def fail(name: str) -> str:
        raise EXAMPLES[getattr(errors, name)][0]

    @made.get("/bug")
    async def bug() -> str:
        raise KeyError("secret detail")

    return made


def test_every_fault_of_a_client_has_its_row() -> None:
    """The table knows every error of the family that a client can cause, and an outage."""
    family = {cls for cls in subclasses(errors.ClientFault) if cls.__module__ == errors.__name__}
    assert set(TABLE) == family | {Unavailable} == set(EXAMPLES)


def test_statuses_and_codes_are_the_documented_ones() -> None:
    """Each class has its own status and code, and a detail of this occurrence."""
    for error, status, code in EXAMPLES.values():
        problem = describe(error)
        assert (problem.status, problem.code, problem.detail) == (status, code, str(error))
    assert len({row[1] for row in TABLE.values()}) == len(TABLE)


@pytest.mark.parametrize("name", [cls.__name__ for cls in EXAMPLES])
async def test_an_error_of_the_family_is_answered_as_a_problem(app: QuartTrio, name: str) -> None:
    """A route that raises an error of the family answers a problem document with its status."""
    error, status, code = EXAMPLES[getattr(errors, name)]
    answer = await app.test_client().get(f"/raise/{name}")
    body = orjson.loads(await answer.get_data(as_text=False))
    assert answer.status_code == status
    assert answer.content_type == "application/problem+json"
    assert {name: body[name] for name in ("type", "status", "detail", "code")} == {
        "type": f"urn:heliograph:problem:{code}",
        "status": status,
        "detail": str(error),
        "code": code,
    }
    assert body["title"]
    assert ("errors" in body) == (code == "invalid")
    assert answer.headers.get("Retry-After") == {"too_many": "5", "unavailable": "1"}.get(code)
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)


def test_each_bad_field_is_listed() -> None:
    """The problem of an invalid request lists field, detail and, in a batch, the index of each error."""
    problem = describe(Invalid([FieldError("topic", "is missing", 3), FieldError("limit", "must be small")]))
    assert problem.errors == (FieldError("topic", "is missing", 3), FieldError("limit", "must be small"))


async def test_errors_of_the_framework_are_problems_too(app: QuartTrio) -> None:
    """An unknown path and a wrong method are problems; the latter says what is allowed."""
    client = app.test_client()
    missing = await client.get("/nowhere")
    assert (missing.status_code, missing.content_type) == (404, "application/problem+json")
    wrong = await client.post("/bug")
    assert (wrong.status_code, wrong.content_type) == (405, "application/problem+json")
    assert "GET" in wrong.headers["Allow"]
    assert orjson.loads(await wrong.get_data(as_text=False))["code"] == "method_not_allowed"


@pytest.mark.parametrize("status", sorted(set(default_exceptions) & {row[0] for row in TABLE.values()}))
def test_a_status_means_the_same_whoever_refuses(status: int) -> None:
    """Code and title of a status do not tell whether the framework or a route refused (RFC 9457, 3.1)."""
    (ours,) = [error for error, one, _ in EXAMPLES.values() if one == status]
    by_framework, by_route = (
        orjson.loads(answer_to(error).body) for error in (default_exceptions[status](), ours)
    )
    for name in ("type", "title", "status", "code"):
        assert by_framework[name] == by_route[name]


async def test_a_bug_is_logged_and_says_nothing(app: QuartTrio) -> None:
    """What is not in the family is answered by a bare 500, and logged with its traceback."""
    with structlog.testing.capture_logs() as logs:
        answer = await app.test_client().get("/bug")
    text = (await answer.get_data(as_text=False)).decode()
    assert (answer.status_code, orjson.loads(text)["code"]) == (500, "internal")
    assert "secret" not in text
    assert [type(entry["exc_info"]) for entry in logs] == [KeyError]


def test_the_pause_is_whole_seconds() -> None:
    """Retry-After is whole seconds, never less than one."""
    assert describe(Unavailable("x", 0)).answer().headers["Retry-After"] == "1"
    assert describe(Unavailable("x", 2.1)).answer().headers["Retry-After"] == "3"
