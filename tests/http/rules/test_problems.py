import gc

import orjson
import pytest
import structlog
from tests.http.conftest import Api
from werkzeug.exceptions import default_exceptions

from heliograph.http.rules.problems import UpgradeRequired, answer_to, describe
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
    UpgradeRequired: (UpgradeRequired("open it with ws://"), 426, "upgrade_required"),
}


def test_every_fault_of_a_client_is_here() -> None:
    """Each error of the family that a client can cause, and an outage, says what it looks like."""
    assert {*errors.ClientFault.__subclasses__(), Unavailable} == set(EXAMPLES)


def test_statuses_and_codes_are_the_documented_ones() -> None:
    """Each class has its own status and code, and a detail of this occurrence."""
    for error, status, code in EXAMPLES.values():
        problem = describe(error)
        assert (problem.status, problem.code, problem.detail) == (status, code, str(error))
    assert len({code for _, _, code in EXAMPLES.values()}) == len(EXAMPLES)


@pytest.mark.parametrize("cls", EXAMPLES)
def test_an_error_of_the_family_is_answered_as_a_problem(cls: type[HeliographError]) -> None:
    """An error of the family is answered by a problem with its status, in either form."""
    error, status, code = EXAMPLES[cls]
    answer = answer_to(error)
    body = orjson.loads(answer.body)
    assert answer.status == status
    assert answer.content_type == "application/problem+json"
    assert {name: body[name] for name in ("type", "status", "detail", "code")} == {
        "type": f"urn:heliograph:problem:{code}",
        "status": status,
        "detail": str(error),
        "code": code,
    }
    assert body["title"]
    assert body["error"] == {
        "error_code": code.upper(),
        "message": body["title"],
        "detail": str(error),
        "retryable": status in {429, 503},
        "http_status": status,
    }
    assert ("errors" in body) == (code == "invalid")
    assert answer.headers.get("Retry-After") == {"too_many": "5", "unavailable": "1"}.get(code)
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)


def test_an_error_may_name_its_entity() -> None:
    """A subclass with a code of its own is of the same status, and does not stand for it."""

    class ThingNotFound(errors.NotFound):
        code = "thing_not_found"

    try:
        body = orjson.loads(answer_to(ThingNotFound("no thing 5")).body)
        assert (body["status"], body["error"]["error_code"]) == (404, "THING_NOT_FOUND")
        assert errors.by_status()[404] is errors.NotFound
    finally:
        del ThingNotFound
        gc.collect()  # a class refers to itself; other tests list the family


def test_each_bad_field_is_listed() -> None:
    """The problem of an invalid request lists field, detail and, in a batch, the index of each error."""
    problem = describe(Invalid([FieldError("topic", "is missing", 3), FieldError("limit", "must be small")]))
    assert problem.errors == (FieldError("topic", "is missing", 3), FieldError("limit", "must be small"))


async def test_errors_of_the_framework_are_problems_too(api: Api) -> None:
    """An unknown path and a wrong method are problems; the latter says what is allowed."""
    assert (await api.problem("GET", "/nowhere"))["code"] == "not_found"
    answer = await api.http.post("/api/health")
    assert (answer.status_code, answer.headers["content-type"]) == (405, "application/problem+json")
    assert "GET" in answer.headers["Allow"]
    assert answer.json()["code"] == "method_not_allowed"


@pytest.mark.parametrize("status", sorted(set(default_exceptions) & {one for _, one, _ in EXAMPLES.values()}))
def test_a_status_means_the_same_whoever_refuses(status: int) -> None:
    """Code and title of a status do not tell whether the framework or a view refused (RFC 9457, 3.1)."""
    (ours,) = [error for error, one, _ in EXAMPLES.values() if one == status]
    by_framework, by_view = (
        orjson.loads(answer_to(error).body) for error in (default_exceptions[status](), ours)
    )
    for name in ("type", "title", "status", "code"):
        assert by_framework[name] == by_view[name]


@pytest.mark.parametrize("error", [KeyError("secret detail"), errors.SettingsError(["secret"])])
def test_a_bug_is_logged_and_says_nothing(error: Exception) -> None:
    """What no client can cause is answered by a bare 500, and logged with its traceback."""
    with structlog.testing.capture_logs() as logs:
        answer = answer_to(error)
    assert (answer.status, orjson.loads(answer.body)["code"]) == (500, "internal")
    assert b"secret" not in answer.body
    assert [entry["exc_info"] for entry in logs] == [error]


def test_the_pause_is_whole_seconds() -> None:
    """Retry-After is whole seconds, never less than one."""
    assert describe(Unavailable("x", 0)).answer().headers["Retry-After"] == "1"
    assert describe(Unavailable("x", 2.1)).answer().headers["Retry-After"] == "3"
