"""A real browser for tests of pages: Debian's Chromium, spoken to by its own debugging protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@dataclass
class Seen:
    """What a page did while it was open: requests that left it, what its console said, what scripts returned."""

    requests: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    picture: bytes = b""


def visit(
    page: Path, *scripts: str, width: int = 1200, height: int = 900, dark: bool = False, whole: bool = False
) -> Seen:
    """Open a file and evaluate each script in turn; skips the test where there is no Chromium."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory(prefix="dpo-chromium-") as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"]
        quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
        command = [CHROMIUM, *options, *quiet, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return asyncio.run(talk(Path(profile), page, scripts, (width, height), dark, whole))
        finally:
            process.terminate()
            process.wait(30)
            # its helpers may write into the profile for a moment yet
            shutil.rmtree(profile, ignore_errors=True)
            Path(profile).mkdir(exist_ok=True)


async def talk(
    profile: Path, page: Path, scripts: tuple[str, ...], size: tuple[int, int], dark: bool, whole: bool
) -> Seen:
    """One visit, over the browser's websocket."""
    from tornado.httpclient import AsyncHTTPClient
    from tornado.websocket import websocket_connect

    port = await until_ready(profile / "DevToolsActivePort")
    answer = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/json/list")
    target = next(t for t in json.loads(answer.body) if t["type"] == "page")
    socket = await websocket_connect(target["webSocketDebuggerUrl"], max_message_size=1 << 28)
    seen, numbers = Seen(), iter(range(1, 10_000))

    async def ask(method: str, until: str = "", **params: Any) -> dict[str, Any]:
        number = next(numbers)
        await socket.write_message(json.dumps({"id": number, "method": method, "params": params}))
        reply: dict[str, Any] | None = None
        event = not until
        while reply is None or not event:
            message = json.loads(await asyncio.wait_for(socket.read_message(), 60))
            if message.get("id") == number:
                assert "error" not in message, message
                reply = message["result"]
            event = event or message.get("method") == until
            note(message, seen)
        return reply

    for room in ("Page", "Network", "Runtime", "Log"):
        await ask(f"{room}.enable")
    width, height = size
    await ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    await ask("Emulation.setEmulatedMedia", features=[scheme])
    await ask("Page.navigate", url=page.resolve().as_uri(), until="Page.loadEventFired")
    for script in scripts:
        result = await ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        seen.values.append(result["result"].get("value"))
    shot = await ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **clip(width, whole, seen))
    seen.picture = base64.b64decode(shot["data"])
    socket.close()
    return seen


def clip(width: int, whole: bool, seen: Seen) -> dict[str, Any]:
    """The part of a page to take: all of it, or what `[top, bottom]`, the last script's value, says."""
    if not whole:
        return {}
    top, bottom = seen.values[-1]
    return {"clip": {"x": 0, "y": top, "width": width, "height": bottom - top, "scale": 1}}


def note(message: dict[str, Any], seen: Seen) -> None:
    """Keep what an event says of requests and of the console."""
    params = message.get("params", {})
    match message.get("method"):
        case "Network.requestWillBeSent":
            seen.requests.append(params["request"]["url"])
        case "Runtime.consoleAPICalled":
            seen.console.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        case "Runtime.exceptionThrown":
            seen.console.append(params["exceptionDetails"]["text"])
        case "Log.entryAdded":
            seen.console.append(params["entry"]["text"])


async def until_ready(port_file: Path) -> int:
    """The port that the browser chose, once it has written it."""
    for _ in range(600):
        if port_file.is_file() and port_file.read_text().strip():
            return int(port_file.read_text().split()[0])
        await asyncio.sleep(0.1)
    raise TimeoutError("chromium did not start")
