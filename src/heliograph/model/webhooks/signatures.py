"""Signatures of deliveries in each provider's form; pure functions of the request, a secret and the time.

Signatures are compared as text, whole and in constant time: hexadecimal in another case, or base64 with other
unused bits, is another text. A delivery that is signed with a time is refused if that time is more than five
minutes away, in either direction. GitLab signs nothing: it sends the secret itself, so its deliveries are
only as safe as the connection.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping

from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook, WebhookVerificationError

from heliograph.model.errors import BadSignature

TOLERANCE_SECONDS = 300

HEADERS = {
    "github": "x-hub-signature-256",
    "jira": "x-hub-signature",
    "slack": "x-slack-signature",
    "gitlab": "x-gitlab-token",
    "sentry": "sentry-hook-signature",
    "stripe": "stripe-signature",
    "standard": "webhook-signature",
    "custom": "x-hub-signature-256",
}
"""The header of each provider's signature."""

SLACK_TIME = "x-slack-request-timestamp"
MORE_HEADERS = (SLACK_TIME, "webhook-id", "webhook-timestamp")
"""The headers that are signed besides the body."""

TIMED = frozenset({"slack", "stripe", "standard"})
"""The providers whose signatures expire."""


def verify(
    provider: str, headers: Mapping[str, str], body: bytes, secret: str, now: float, header: str = ""
) -> None:
    """Check the signature of a delivery.

    Args:
        provider: The provider of the delivery.
        headers: The headers of the request, with names in lower case.
        body: The body of the request, as it came.
        secret: The secret that the provider shares with us.
        now: The time in seconds since the epoch; Standard Webhooks use the system's clock.
        header: The header of the signature, if it is not the provider's usual one.

    Raises:
        BadSignature: It is missing, wrong or too old.
    """
    name = header.lower() or HEADERS[provider]
    said = headers.get(name)
    if not said:
        raise BadSignature("unsigned", f"the header {name} is missing")
    key = secret.encode()
    match provider:
        case "slack":
            _slack(said, headers.get(SLACK_TIME, ""), body, key, now)
        case "stripe":
            _stripe(said, body, key, now)
        case "standard":
            _standard(said, headers, body, secret)
        case "gitlab":
            _compare(said.encode(), key)
        case _:
            _compare(said.removeprefix("sha256=").encode(), _hex(key, body))
            if provider == "github" and not said.startswith("sha256="):
                raise BadSignature("mismatch", f"{name} must begin with sha256=")


def _slack(said: str, at: str, body: bytes, key: bytes, now: float) -> None:
    _compare(said.encode(), b"v0=" + _hex(key, b"v0:" + at.encode() + b":" + body))
    _require_recent(at, now)


def _stripe(said: str, body: bytes, key: bytes, now: float) -> None:
    parts = [part.partition("=")[::2] for part in said.split(",")]
    at = next((value for name, value in parts if name == "t"), "")
    wanted = _hex(key, at.encode() + b"." + body)
    # There are several while a secret is being changed.
    matching = [hmac.compare_digest(value.encode(), wanted) for name, value in parts if name == "v1"]
    if not any(matching):
        raise BadSignature("mismatch", "no signature is that of this body and the secret")
    _require_recent(at, now)


def _standard(said: str, headers: Mapping[str, str], body: bytes, secret: str) -> None:
    sound = " ".join(one for one in said.split(" ") if _is_canonical(one))
    try:
        Webhook(secret).verify(body, {**headers, "webhook-signature": sound}, json_parse=False)
    except WebhookVerificationError as error:
        stale = "timestamp too" in str(error)
        raise BadSignature("stale" if stale else "mismatch", str(error)) from None
    except (EmptyWebhookSecretError, ValueError):
        raise BadSignature("mismatch", "the signature or the secret is not of Standard Webhooks") from None


def _is_canonical(signature: str) -> bool:
    """Tell whether a signature is the canonical base64 of its bytes, without stray unused bits."""
    _, comma, text = signature.partition(",")
    try:
        return bool(comma) and base64.b64encode(base64.b64decode(text, validate=True)).decode() == text
    except (binascii.Error, ValueError):
        return False


def _require_recent(at: str, now: float) -> None:
    if not (at.isascii() and at.isdigit() and len(at) < 15):
        raise BadSignature("mismatch", "the time of the signature is none")
    if abs(now - int(at)) > TOLERANCE_SECONDS:
        raise BadSignature("stale", f"the signature's time is more than {TOLERANCE_SECONDS} seconds away")


def _hex(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).hexdigest().encode()


def _compare(said: bytes, wanted: bytes) -> None:
    if not hmac.compare_digest(said, wanted):
        raise BadSignature("mismatch", "the signature is not that of this body and the secret")
