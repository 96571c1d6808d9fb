"""A run whose telling is cut by a kill, with the databases apart from the nodes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from tests.recorded import RUN_ID, WORKFLOW, recorded_run
from tests.servers import wait_until

if TYPE_CHECKING:
    from tests.chaos.conftest import NodeMaker
    from tests.deployment import Node

RUN = f"/api/v1/workflows/{WORKFLOW}/runs/{RUN_ID}"
CUT = 23
OTHER = "fedcba9876543210"


def trace(node: Node, run_id: str) -> dict[str, Any] | None:
    """Return a run with its steps, ``None`` until something was told of it."""
    status, answer = node.ask(RUN.replace(RUN_ID, run_id))
    return {"run": answer["run"], "steps": answer["steps"]} if status == 200 else None


def stands(node: Node, run_id: str, status: str) -> bool:
    """Tell whether a node knows that a run has a status."""
    found = trace(node, run_id)
    return found is not None and found["run"]["status"] == status


def test_a_run_that_is_cut_by_a_kill_is_one_run(make_node: NodeMaker) -> None:
    """Its node is killed -9 in the middle of 47 messages; told again to another one, it is the same run.

    A run that nobody cut is what it must be the same as; the killed node comes back and says so, too.
    """
    first, second = make_node("first"), make_node("second")
    first.start()
    wait_until(lambda: first.archives, "the first archives")
    messages = recorded_run()
    assert first.publish(*recorded_run(OTHER)).status_code == 201
    assert first.publish(*messages[:CUT]).status_code == 201
    first.kill()
    second.start()
    wait_until(partial(stands, second, RUN_ID, "running"), "the second has what the first was told")
    assert second.publish(*messages).status_code == 201
    first.start()
    for node in (first, second):
        for run_id in (OTHER, RUN_ID):
            wait_until(partial(stands, node, run_id, "success"), "the run has ended")
    whole, cut = trace(first, OTHER), trace(first, RUN_ID)
    assert whole is not None
    assert cut == trace(second, RUN_ID)
    assert cut == {**whole, "run": {**whole["run"], "id": RUN_ID}}
    assert len(whole["steps"]) == 10
    workflow = first.ask(f"/api/v1/workflows/{WORKFLOW}/runs")[1]
    assert workflow["stats"]["by_status"] == {"success": 2}
