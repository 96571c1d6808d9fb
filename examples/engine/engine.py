"""A small engine: answers each task by running a command, and streams what it says.

    python examples/engine/engine.py --port 5005 --service http://127.0.0.1:5000 -- COMMAND…

It is asked over HTTP (``POST /tasks``), or takes tasks from a list in Redis (``--redis URL``, which needs the
package ``redis``). The command gets the prompt on its standard input. Each line that it prints is shown as
output of the task, and as a piece of a message that grows in the task's conversation. What it was given is
kept in memory alone; the service gives it again when it finds that the engine was started anew.

It needs nothing but Python. Without a command it says what it was told, word by word.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

ECHO = (
    "import sys, time\n"
    "print('You said:', flush=True)\n"
    "for word in sys.stdin.read().split():\n"
    "    time.sleep(0.05)\n"
    "    print(word, flush=True)\n"
)


class Service:
    """The service that tasks come from."""

    def __init__(self, url: str, key: str | None) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Content-Type": "application/json", **({"X-API-Key": key} if key else {})}

    def send(self, method: str, path: str, body: Any) -> None:
        """Send something until it is taken: the service may be away for a while."""
        delay = 0.1
        while True:
            request = urllib.request.Request(
                self._url + path, json.dumps(body).encode(), self._headers, method=method
            )
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    answer.read()
                break
            except urllib.error.HTTPError as error:
                if error.code < 500 and error.code != 429:
                    sys.stderr.write(f"refused: {method} {path}: {error.read().decode()}\n")
                    break
            except OSError:
                pass  # away
            time.sleep(delay)
            delay = min(delay * 2, 5)


class Engine:
    """Works on tasks, each in a thread of its own.

    Args:
        service: Where answers go.
        command: What answers.
    """

    def __init__(self, service: Service, command: list[str]) -> None:
        self.instance = uuid4().hex
        self.tasks: dict[str, str] = {}
        self._service = service
        self._command = command
        self._lock = threading.Lock()

    def take(self, task: dict[str, Any]) -> str:
        """Begin a task, unless it is known; return its id."""
        task_id = str(task["task_id"])
        with self._lock:
            known = task_id in self.tasks
            self.tasks.setdefault(task_id, "running")
        if not known:
            threading.Thread(target=self._work, args=(task_id, task), daemon=True).start()
        return task_id

    def _work(self, task_id: str, task: dict[str, Any]) -> None:
        begun = time.monotonic()
        change = f"/api/v1/tasks/{task_id}"
        self._service.send("PATCH", change, {"status": "running"})
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        threading.Thread(target=_feed, args=(process.stdin, str(task.get("prompt", ""))), daemon=True).start()
        said = ""
        for line in process.stdout:
            self._say(task_id, task, line, first=not said)
            said += line
        status = process.wait()
        if said:
            self._grow(task_id, task, {"content": "", "done": True})
        end = {"status": "failed", "error": f"exit status {status}"} if status else {"status": "completed"}
        self._service.send(
            "PATCH", change, {**end, "output": said[-10_000:], "duration_seconds": time.monotonic() - begun}
        )
        self.tasks[task_id] = end["status"]

    def _say(self, task_id: str, task: dict[str, Any], line: str, *, first: bool) -> None:
        self._publish({"type": "task_output", "task_id": task_id, "output": line})
        # A task that is given again begins its answer again: it is written over what was said before.
        self._grow(task_id, task, {"content": line, **({"rewind": True} if first else {})})

    def _grow(self, task_id: str, task: dict[str, Any], piece: dict[str, Any]) -> None:
        if not task.get("conversation_id"):
            return
        payload = {"message_id": f"answer-{task_id}", "role": "assistant", "task_id": task_id, **piece}
        channel = f"conversation:{task['conversation_id']}"
        self._publish({"topic": "conversation.delta", "channel": channel, "payload": payload})

    def _publish(self, item: dict[str, Any]) -> None:
        # A service that ends before it has answered may have kept the item: by its key it is kept once.
        self._service.send("POST", "/api/v1/events", {**item, "key": uuid4().hex})


def _feed(stdin: Any, prompt: str) -> None:
    try:
        stdin.write(prompt)
        stdin.close()
    except BrokenPipeError:
        pass  # the command does not read it


def serve(engine: Engine, port: int) -> None:
    """Serve the engine over HTTP until interrupted."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/health":
                self._answer(200, {"status": "healthy", "service": "engine", "instance": engine.instance})
            elif self.path == "/status":
                self._answer(200, {"tasks": engine.tasks})
            else:
                self._answer(404, {"detail": "there is GET /health, GET /status and POST /tasks"})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                task_id = engine.take(json.loads(body))
            except (ValueError, KeyError, TypeError):
                self._answer(422, {"detail": "a task has a task_id and a prompt"})
                return
            self._answer(202, {"task_id": task_id, "status": "queued"})

        def _answer(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        sys.stderr.write(f"engine: http://127.0.0.1:{server.server_port}\n")
        server.serve_forever()


def take_from_redis(engine: Engine, url: str, queue: str) -> None:
    """Take tasks from a list in Redis until interrupted."""
    import redis

    client = redis.Redis.from_url(url)
    sys.stderr.write(f"engine: {queue}\n")
    while True:
        _, data = client.brpop([queue])
        engine.take(json.loads(data))


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)


def main() -> None:
    """Run an engine."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--service", default=os.environ.get("HELIOGRAPH_URL", "http://127.0.0.1:5000"))
    parser.add_argument("--port", type=int, default=5005)
    parser.add_argument("--redis")
    parser.add_argument("--queue", default="agent:tasks")
    parser.add_argument("--with-parent", action="store_true", help="end when the parent process ends")
    parser.add_argument("command", nargs="*", default=[sys.executable, "-c", ECHO])
    asked = parser.parse_args()
    if asked.with_parent:
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    engine = Engine(Service(asked.service, os.environ.get("HELIOGRAPH_API_KEY")), asked.command)
    try:
        if asked.redis:
            take_from_redis(engine, asked.redis, asked.queue)
        else:
            serve(engine, asked.port)
    except KeyboardInterrupt:
        pass
    except OSError as error:
        sys.exit(f"engine: port {asked.port}: {error.strerror}")


if __name__ == "__main__":
    main()
