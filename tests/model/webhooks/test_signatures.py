"""Right signatures are good, and nothing else is."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook

from heliograph.model.errors import BadSignature, Unauthenticated
from heliograph.model.webhooks.signatures import TOLERANCE_SECONDS, verify

SECRET = "It's a Secret to Everybody"
STANDARD = "whsec_" + base64.b64encode(b"k" * 24).decode()
BODY = b'{"action":"opened","n":1}'

Signed = Mapping[str, str]


def the_time() -> int:
    """Return the time now: the suite may run for longer than a signature is good."""
    return int(time.time())


def _hex(data: bytes) -> str:
    return hmac.new(SECRET.encode(), data, hashlib.sha256).hexdigest()


def _standard(body: bytes, at: int) -> Signed:
    signature = Webhook(STANDARD).sign("msg_1", datetime.fromtimestamp(at, UTC), body.decode())
    return {"webhook-id": "msg_1", "webhook-timestamp": str(at), "webhook-signature": signature}


SIGN: Mapping[str, Callable[[bytes, int], Signed]] = {
    "github": lambda body, at: {"x-hub-signature-256": f"sha256={_hex(body)}"},
    "jira": lambda body, at: {"x-hub-signature": _hex(body)},
    "sentry": lambda body, at: {"sentry-hook-signature": _hex(body)},
    "custom": lambda body, at: {"x-hub-signature-256": _hex(body)},
    "slack": lambda body, at: {
        "x-slack-signature": f"v0={_hex(b'v0:%d:%s' % (at, body))}",
        "x-slack-request-timestamp": str(at),
    },
    "stripe": lambda body, at: {"stripe-signature": f"t={at},v1={_hex(b'%d.%s' % (at, body))},v0=old"},
    "standard": _standard,
}
TIMED = ("slack", "stripe", "standard")


def good(provider: str, headers: Signed, body: bytes, now: float | None = None) -> bool:
    """Tell whether a delivery's signature is good, at a time or now."""
    secret = STANDARD if provider == "standard" else SECRET
    try:
        verify(provider, headers, body, secret, the_time() if now is None else now)
    except BadSignature:
        return False
    return True


def test_githubs_own_example() -> None:
    """The example in GitHub's documentation is good."""
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    verify("github", {"x-hub-signature-256": signature}, b"Hello, World!", SECRET, the_time())


def test_slacks_own_example() -> None:
    """The example in Slack's documentation is good at its time."""
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
        b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
        b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
        b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )
    headers = {
        "x-slack-signature": "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
        "x-slack-request-timestamp": "1531420618",
    }
    verify("slack", headers, body, "8f742231b10e8888abcd99yyyzzz85a5", 1531420618)


@pytest.mark.parametrize("provider", SIGN)
def test_a_right_signature_is_good(provider: str) -> None:
    """What the provider signs with the secret that we share is good; with another one it is not."""
    headers = SIGN[provider](BODY, the_time())
    assert good(provider, headers, BODY)
    with pytest.raises(Unauthenticated):
        verify(provider, headers, BODY, "whsec_b3RoZXI=", the_time())
    assert not good(provider, {}, BODY)


@pytest.mark.parametrize("provider", SIGN)
@given(data=st.data())
def test_every_single_bit_counts(provider: str, data: st.DataObject) -> None:
    """A change of any bit of the body, of the signature or of what is signed with it is refused."""
    headers = dict(SIGN[provider](BODY, the_time()))
    if provider == "stripe":
        headers["stripe-signature"] = headers["stripe-signature"].removesuffix(",v0=old")
    places = ["", *headers]
    place = data.draw(st.sampled_from(places))
    changed = bytearray(headers[place].encode() if place else BODY)
    bit = data.draw(st.integers(0, 8 * len(changed) - 1))
    changed[bit // 8] ^= 1 << bit % 8
    if place:
        headers[place] = changed.decode("latin-1")
        assert not good(provider, headers, BODY)
    else:
        assert not good(provider, headers, bytes(changed))


@pytest.mark.parametrize("provider", TIMED)
@pytest.mark.parametrize("sign", [-1, 1])
def test_an_old_or_future_signature_is_refused(provider: str, sign: int) -> None:
    """A signature holds for five minutes, either way; the refusal says that it is about time."""
    now = int(time.time())  # Standard Webhooks' library looks at the clock itself
    at = now - sign * (TOLERANCE_SECONDS - 30)
    assert good(provider, SIGN[provider](BODY, at), BODY, now)
    at = now - sign * (TOLERANCE_SECONDS + 30)
    with pytest.raises(BadSignature) as caught:
        verify(
            provider,
            SIGN[provider](BODY, at),
            BODY,
            STANDARD if provider == "standard" else SECRET,
            now,
        )
    assert caught.value.reason == "stale"


def test_one_of_several_signatures_is_enough() -> None:
    """While a secret is changed, Stripe and Standard Webhooks sign with both."""
    headers = SIGN["stripe"](BODY, the_time())["stripe-signature"]
    assert good("stripe", {"stripe-signature": headers.replace(",v1=", ",v1=00,v1=")}, BODY)
    standard = dict(SIGN["standard"](BODY, the_time()))
    standard["webhook-signature"] = "v1,AAAA v2,x " + standard["webhook-signature"]
    assert good("standard", standard, BODY)


def test_a_header_of_ones_own_and_gitlabs_token() -> None:
    """A configuration may name the header; GitLab sends the secret itself."""
    headers = {"x-mine": _hex(BODY)}
    verify("custom", headers, BODY, SECRET, the_time(), "X-Mine")
    with pytest.raises(BadSignature):
        verify("custom", headers, BODY, SECRET, the_time())
    assert good("gitlab", {"x-gitlab-token": SECRET}, b"anything")
    assert not good("gitlab", {"x-gitlab-token": SECRET.lower()}, b"anything")


@given(st.sampled_from(sorted(SIGN)), st.text(), st.binary())
def test_nonsense_is_refused(provider: str, signature: str, body: bytes) -> None:
    """Whatever stands where the signature should, it is a refusal and no failure."""
    headers = dict.fromkeys(("webhook-id", "webhook-timestamp", "x-slack-request-timestamp"), str(the_time()))
    for name in SIGN[provider](BODY, the_time()):
        headers.setdefault(name, signature)
    assert not good(provider, headers, body)
