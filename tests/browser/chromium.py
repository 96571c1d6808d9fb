"""A real Chromium, driven over its DevTools protocol.

Only what the tests need: open a page, evaluate JavaScript in it, wait until an expression holds, press
keys, take a picture. One WebSocket to the browser carries every call; answers are matched by their id.
"""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

import trio
from tests.servers import wait_until
from trio_websocket import WebSocketConnection, open_websocket_url

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--remote-debugging-port=0",
    "--explicitly-allowed-ports=10080",  # it is no port of the web to Chromium, and the tests may be given it
)
MAX_MESSAGE = 64 * 1024 * 1024


class PageError(Exception):
    """What was evaluated in the page raised an error."""


class Page:
    """One tab of the browser.

    Args:
        connection: The browser's DevTools WebSocket.
        session: The tab's session on it; ``None`` speaks to the browser itself.
    """

    def __init__(
        self, connection: WebSocketConnection, session: str | None, address: str = "", context: str = ""
    ) -> None:
        self._connection = connection
        self._session = session
        self._address = address
        self._context = context
        self._numbers = count(1)
        self.messages: list[str] = []
        """What the page wrote to the console as warning or error, and its uncaught errors."""

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Make one DevTools call and return its result.

        Raises:
            PageError: The browser refused the call.
        """
        number = next(self._numbers)
        request = {"id": number, "method": method, "params": params}
        if self._session is not None:
            request["sessionId"] = self._session
        await self._connection.send_message(json.dumps(request))
        while True:
            message = json.loads(await self._connection.get_message())
            if message.get("id") == number:
                break
            self._note(message)
        if "error" in message:
            raise PageError(f"{method}: {message['error']['message']}")
        result: dict[str, Any] = message["result"]
        return result

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                self.messages.append(details.get("exception", {}).get("description") or details["text"])
            case "Log.entryAdded" if params["entry"]["level"] in {"warning", "error"}:
                self.messages.append(f"{params['entry']['text']} {params['entry'].get('url', '')}".strip())

    @asynccontextmanager
    async def another(self) -> AsyncIterator[Page]:
        """Open another tab of the same reader: it shares what tabs share."""
        async with new_page(self._address, self._context) as page:
            yield page

    async def go(self, url: str) -> None:
        """Open an address."""
        await self.call("Page.navigate", url=url)

    async def evaluate(self, expression: str) -> Any:
        """Evaluate JavaScript, awaiting a promise, and return the JSON value.

        Raises:
            PageError: It raised an error; the message is its description.
        """
        answer = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise PageError(details.get("exception", {}).get("description") or details["text"])
        return answer["result"].get("value")

    async def until(self, expression: str, seconds: float = 20) -> Any:
        """Wait until an expression is truthy, and return its value.

        Raises:
            PageError: It was not in time; the message tells what the page shows.
        """
        with trio.move_on_after(seconds):
            while True:
                try:
                    value = await self.evaluate(expression)
                except PageError as error:  # such as a navigation in between
                    value, last = None, str(error)
                else:
                    last = repr(value)
                if value:
                    return value
                await trio.sleep(0.03)
        text = await self.evaluate("document.body.innerText.slice(0, 2000)")
        raise PageError(f"never true: {expression} (last: {last}); {self.messages}; the page shows:\n{text}")

    async def press(self, key: str) -> None:
        """Press and release one key: a character, or a name such as ``Enter``."""
        codes = {
            "Enter": 13,
            "Escape": 27,
            "ArrowDown": 40,
            "ArrowUp": 38,
            "Home": 36,
            "End": 35,
            "PageUp": 33,
        }
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        code = codes.get(key, ord(key.upper()) if len(key) == 1 else 0)
        common = {"key": key, "windowsVirtualKeyCode": code}
        await self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    async def wheel(self, x: float, y: float, pixels: float) -> None:
        """Turn the mouse wheel at a point; positive is down."""
        await self.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=pixels)

    async def point(self, x: float, y: float) -> None:
        """Move the pointer to a point."""
        await self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    async def resize(self, width: int, height: int, *, dark: bool = True) -> None:
        """Set the size of the view and the preferred colours."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def picture(self) -> bytes:
        """Return what the page shows, as PNG."""
        answer = await self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(answer["data"])


@contextmanager
def chromium() -> Iterator[str]:
    """Run a browser with a new empty profile; yield the address of its DevTools."""
    profile = Path(tempfile.mkdtemp(prefix="heliograph-chromium-"))
    port = profile / "DevToolsActivePort"  # the port, and the path of the WebSocket
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = Popen(command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    try:
        wait_until(lambda: port.exists() and len(port.read_text().split()) == 2, "Chromium starts", 60)
        number, path = port.read_text().split()
        yield f"ws://127.0.0.1:{number}{path}"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(profile, ignore_errors=True)


@asynccontextmanager
async def new_page(address: str, context: str | None = None) -> AsyncIterator[Page]:
    """Open a tab, and switch on what the tests look at.

    Args:
        address: Of the browser.
        context: Whose tab it is; by default it shares nothing with those before it.
    """
    async with open_websocket_url(address, max_message_size=MAX_MESSAGE) as connection:
        browser = Page(connection, None)
        if context is None:
            made = await browser.call("Target.createBrowserContext", disposeOnDetach=True)
            context = made["browserContextId"]
        tab = await browser.call("Target.createTarget", url="about:blank", browserContextId=context)
        session = await browser.call("Target.attachToTarget", flatten=True, **tab)
        page = Page(connection, session["sessionId"], address, context)
        for domain in ("Page", "Runtime", "Log"):
            await page.call(f"{domain}.enable")
        await page.resize(1440, 900)
        yield page
