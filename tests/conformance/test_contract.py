"""Requests that schemathesis makes of the API's own document, to every endpoint of a running service.

It draws what the document allows and what it does not. No answer is an error of the service, and each has a
status, a type, headers and a body that the document tells of. Event streams, which do not end, are watched by
clients of their own in ``test_streams``. Publishing is walked value by value: schemathesis can't draw items
of three forms at random.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from tests.conformance.clients import output, publish, status
from tests.conformance.conftest import Launch

CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_headers_conformance", "response_schema_conformance"),
)
PUBLISHING = ("--include-path", "/api/v1/events", "--include-method", "POST")
OTHERS = ("--exclude-path-regex", "stream$", "--exclude-operation-id", "publish")
WALKS = {
    "publishing": (*PUBLISHING, "--phases", "coverage"),
    "all others": (*OTHERS, "--phases", "examples,fuzzing", "--max-examples", "10", "--seed", "1"),
}

pytestmark = pytest.mark.skipif(
    not os.environ.get("HELIOGRAPH_TEST_CONTRACT"), reason="takes a minute: .ci/run has it, by its variable"
)


@pytest.mark.parametrize("walk", WALKS)
async def test_every_answer_is_as_the_document_says(launch: Launch, tmp_path: Path, walk: str) -> None:
    """Whatever is asked, the answer is one that the document describes, and never the service's fault."""
    service = await launch()
    await publish(service.url, output("42", "hello\n"), status("42", "completed"))
    arguments = (
        *("run", f"{service.url}/openapi.json", *WALKS[walk], "--checks", ",".join(CHECKS)),
        *("--continue-on-failure", "--warnings", "off", "--suppress-health-check", "all"),
        *("--request-timeout", "60", "--no-color"),
    )
    result = await trio.run_process(
        [str(Path(sys.executable).with_name("st")), *arguments],
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.line_serializers", "PYTHONPATH": str(Path.cwd())},
        check=False,
        capture_stdout=True,
        stderr=subprocess.STDOUT,
    )
    assert result.returncode == 0, result.stdout.decode()
