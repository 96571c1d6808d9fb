"""Workflows over HTTP: the answers of the platform's reference, to the last key, and what is refused."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.conformance.clients import open_sse
from tests.http.conftest import Api, Start
from tests.recorded import BEGUN, EXAMPLES, NODES, WORKFLOW, recorded_run

V1 = "/api/v1/workflows"
RUN_ID = "0123456789abcdef"


@pytest.fixture
async def examples(start: Start) -> Api:
    """Start a service with the example workflows."""
    return await start(workflows=(EXAMPLES,))


@pytest.fixture
async def recorded(examples: Api) -> Api:
    """Publish the recorded run, as the platform's bus has it."""
    await examples.publish(*recorded_run())
    return examples


def run(topic: str, run_id: str, seconds: float = 0, **payload: Any) -> dict[str, Any]:
    """Make an event of a run of the nightly workflow."""
    return {
        "topic": topic,
        "payload": {"workflow_id": "nightly_quality", "run_id": run_id, **payload},
        "timestamp": (BEGUN + timedelta(seconds=seconds)).isoformat(),
    }


def kinds(value: dict[str, Any]) -> dict[str, str]:
    """Return the types of an object's members."""
    return {name: type(member).__name__ for name, member in value.items()}


async def test_the_list_of_workflows(recorded: Api) -> None:
    """Each workflow has what its files say, and what its runs add up to, in the reference's form."""
    answer = await recorded.get(V1)
    assert answer["total"] == 3
    assert answer["broken"] == []
    assert [one["id"] for one in answer["workflows"]] == [
        "helpdesk_assistant",
        "invoice_to_ledger",
        "nightly_quality",
    ]
    invoice = answer["workflows"][1]
    assert kinds(invoice) == {
        **dict.fromkeys(("id", "display_name", "description", "version", "icon", "color"), "str"),
        "enabled": "bool",
        "triggers": "list",
        "tags": "list",
        "strategy": "str",
        **dict.fromkeys(("step_count", "agent_count", "total_runs"), "int"),
        "success_rate": "float",
        "last_run": "dict",
        "problems": "list",
    }
    assert invoice["triggers"][0] == {
        "type": "gmail_push",
        "filter": "subject:invoice has:attachment",
        "label_ids": ["INBOX"],
    }
    assert (invoice["strategy"], invoice["step_count"], invoice["agent_count"]) == ("DAG", 10, 3)
    assert (invoice["total_runs"], invoice["success_rate"]) == (1, 100.0)
    assert (invoice["last_run"]["id"], invoice["last_run"]["status"]) == (RUN_ID, "success")
    assert invoice["enabled"] is True
    helpdesk = answer["workflows"][0]
    assert (helpdesk["total_runs"], helpdesk["success_rate"], helpdesk["last_run"]) == (0, 0.0, None)


async def test_one_workflow(recorded: Api) -> None:
    """Manifest, pipeline, agents and stats stand together; the manifest names the agents."""
    answer = await recorded.get(f"{V1}/{WORKFLOW}")
    assert list(answer) == ["manifest", "pipeline", "agents", "stats", "problems", "meta"]
    manifest = answer["manifest"]
    assert manifest["agents"] == ["bookkeeper", "reader", "scout"]
    assert manifest["memory"] == {"scope": "workflow", "keep_days": 90}
    assert manifest["settings"][0] == {
        "key": "LEDGER_TOKEN",
        "type": "secret",
        "required": True,
        "default": None,
        "description": "Of the ledger's API",
        "options": [],
    }
    assert answer["pipeline"] == await recorded.get(f"{V1}/{WORKFLOW}/pipeline")
    assert answer["agents"] == (await recorded.get(f"{V1}/{WORKFLOW}/agents"))["agents"]
    stats = answer["stats"]
    assert (stats["total"], stats["successful"], stats["by_status"]) == (1, 1, {"success": 1})
    assert stats["duration_ms"]["p50"] == pytest.approx(4321.5, rel=0.01)
    assert stats["cost_usd"]["p95"] == pytest.approx(0.0063, rel=0.01)
    assert stats["total_cost_usd"] == 0.0063


async def test_the_pipeline_of_a_graph(examples: Api) -> None:
    """Ten nodes, twelve edges and nine layers, with types told from the references."""
    answer = await examples.get(f"{V1}/{WORKFLOW}/pipeline")
    assert list(answer) == ["strategy", "nodes", "edges", "layers"]
    assert (answer["strategy"], len(answer["nodes"]), len(answer["edges"])) == ("DAG", 10, 12)
    assert answer["layers"] == [
        *(["fetch_invoice"], ["read_invoice"], ["build_query", "match_supplier"], ["look_up_supplier"]),
        *(["build_entry_prompt"], ["classify_entry"], ["compose_entry"], ["post_entry"], ["announce_entry"]),
    ]
    assert answer["nodes"][2] == {
        "name": "match_supplier",
        "type": "function",
        "ref": "invoices.steps.suppliers.match",
        "description": "",
        "layer": 2,
        "dependencies": ["read_invoice"],
    }
    assert answer["edges"][0] == {"source": "fetch_invoice", "target": "read_invoice"}
    assert [node["type"] for node in answer["nodes"]].count("agent") == 3


async def test_a_sequential_pipeline_with_nested_steps(examples: Api) -> None:
    """One step per layer; the loop's body and the parallel's children are inside."""
    answer = await examples.get(f"{V1}/nightly_quality/pipeline")
    assert answer["layers"] == [["sample_answers"], ["improve_prompts"], ["check_effects"], ["write_report"]]
    assert len(answer["edges"]) == 3
    loop, parallel = answer["nodes"][1:3]
    assert (loop["body"]["name"], loop["condition_expr"], loop["max_iterations"]) == (
        "rewrite_prompt",
        "state.score < 0.9",
        4,
    )
    assert [child["name"] for child in parallel["children"]] == [
        "measure_latency",
        "measure_cost",
        "review_tone",
    ]
    assert "children" not in loop
    assert "body" not in parallel


async def test_a_workflow_without_a_pipeline(examples: Api) -> None:
    """It has an empty graph, exactly."""
    answer = await examples.get(f"{V1}/helpdesk_assistant/pipeline")
    assert answer == {"strategy": "SEQUENTIAL", "nodes": [], "edges": [], "layers": []}


async def test_the_cards_of_agents(examples: Api) -> None:
    """Cards have exactly eleven fields; an object in place of a schema's name is null."""
    answer = await examples.get(f"{V1}/helpdesk_assistant/agents")
    assert answer == {
        "agents": [
            {
                "name": "assistant",
                "display_name": "Helpdesk assistant",
                "type": "llm",
                "description": "Answers a question, or hands it on to a person.",
                "model": "demo-small",
                "stage": 0,
                "tools": ["search_manual", "hand_over"],
                "guardrails_before": [],
                "guardrails_after": [],
                "input_schema": None,
                "output_schema": None,
            }
        ],
        "total": 1,
    }


async def test_the_runs_of_a_workflow(recorded: Api) -> None:
    """A run has the platform's fields, and ours beside them."""
    answer = await recorded.get(f"{V1}/{WORKFLOW}/runs")
    assert (answer["workflow_id"], answer["meta"]["next_cursor"]) == (WORKFLOW, None)
    assert (answer["stats"]["total"], answer["stats"]["successful"]) == (1, 1)
    (one,) = answer["runs"]
    assert {name: one[name] for name in ("id", "workflow_id", "status", "duration_ms", "error")} == {
        "id": RUN_ID,
        "workflow_id": WORKFLOW,
        "status": "success",
        "duration_ms": 4321.5,
        "error": None,
    }
    assert (one["trigger_data"], one["result"], one["trigger_type"]) == ({}, {}, None)
    assert one["completed_at"] == one["finished_at"]
    assert (one["cost_usd"], one["input_tokens"], one["steps"]) == (0.0063, 3600, {"success": 10})


async def test_runs_are_paged_and_filtered(examples: Api) -> None:
    """Pages go on by a cursor, or by a time; statuses and times narrow the list; they don't overlap."""
    for n in range(5):
        end = {
            "status": "success" if n % 2 else "failed",
            "error": None if n % 2 else "e",
            "duration_ms": 10 * n,
        }
        await examples.publish(
            run("run.started", f"r{n}", 60 * n, trigger="manual"),
            run("run.finished", f"r{n}", 60 * n + 1, **end),
        )
    path = f"{V1}/nightly_quality/runs"
    first = await examples.get(f"{path}?limit=2")
    second = await examples.get(f"{path}?limit=2&start_after={first['meta']['next_cursor']}")
    third = await examples.get(f"{path}?limit=2&start_after={second['meta']['next_cursor']}")
    pages = [[one["id"] for one in page["runs"]] for page in (first, second, third)]
    assert pages == [["r4", "r3"], ["r2", "r1"], ["r0"]]
    assert third["meta"]["next_cursor"] is None
    assert first["stats"] == third["stats"]
    assert (first["stats"]["total"], first["stats"]["successful"]) == (5, 2)
    moment = first["runs"][1]["started_at"]
    assert [one["id"] for one in (await examples.get(f"{path}?start_after={moment}"))["runs"]] == [
        "r2",
        "r1",
        "r0",
    ]
    good = await examples.get(f"{path}?status=success&since={moment}")
    assert [one["id"] for one in good["runs"]] == ["r3"]
    assert [one["id"] for one in (await examples.get(f"{path}?until={moment}"))["runs"]] == ["r2", "r1", "r0"]
    assert (await examples.get(V1))["workflows"][2]["success_rate"] == 40.0
    for wrong in ("start_after=x", "status=done", "since=soon", "limit=0", "colour=red"):
        problem = await examples.problem("GET", f"{path}?{wrong}")
        assert (problem["status"], problem["errors"][0]["field"]) == (422, wrong.partition("=")[0])


async def test_a_trace_is_in_the_pipelines_order(examples: Api) -> None:
    """Steps stand as in the pipeline, on the run's own axis; those that have not begun are there too."""
    await examples.publish(
        run("run.started", "r"),
        run("step.started", "r", 5, step="improve_prompts"),
        run("step.started", "r", 6, step="rewrite_prompt"),
        run("step.failed", "r", 7, step="rewrite_prompt", error="out of words"),
        run("step.started", "r", 8, step="rewrite_prompt"),
        run("step.started", "r", 1, step="sample_answers"),
        run(
            "step.completed", "r", 3, step="sample_answers", output={"n": 200}, input_tokens=10, cost_usd=0.5
        ),
    )
    answer = await examples.get(f"{V1}/nightly_quality/runs/r")
    steps = {step["name"]: step for step in answer["steps"]}
    assert list(steps) == [
        *("sample_answers", "improve_prompts", "rewrite_prompt", "check_effects", "write_report"),
    ]
    assert [step["status"] for step in steps.values()] == [
        *("success", "running", "running", "pending", "pending"),
    ]
    sample = steps["sample_answers"]
    assert (sample["offset_ms"], sample["duration_ms"], sample["output"]) == (1000.0, 2000.0, {"n": 200})
    assert (sample["artifact_key"], sample["has_llm_response"], sample["llm_response"]) == (None, False, None)
    assert sample["token_metrics"] == {
        "prompt_tokens": 10,
        "candidates_tokens": 0,
        "total_tokens": 10,
        "cached_tokens": 0,
        "compression_events": 0,
        "est_cost_usd": 0.5,
    }
    again = steps["rewrite_prompt"]
    assert (again["attempts"], [one["status"] for one in again["tries"]]) == (2, ["failed", "running"])
    assert again["tries"][0]["error"] == "out of words"
    assert answer["run"]["steps"] == {"success": 1, "running": 2}


async def test_steps_that_never_ended_end_with_their_run(examples: Api) -> None:
    """When the run has failed, so has what was under way; what had not begun was skipped."""
    await examples.publish(
        run("run.started", "r"),
        run("step.started", "r", 1, step="sample_answers"),
        run("run.finished", "r", 2, status="failed", error="no more paper"),
    )
    answer = await examples.get(f"{V1}/nightly_quality/runs/r")
    assert [step["status"] for step in answer["steps"]] == ["failed", "skipped", "skipped", "skipped"]
    assert answer["run"]["error"] == "no more paper"


async def pages_of(api: Api, path: str, cursor: str | None = "") -> list[list[dict[str, Any]]]:
    """Read all pages of a trace behind a cursor."""
    pages = []
    while cursor is not None:
        answer = await api.get(f"{path}&start_after={cursor}")
        pages.append(answer["steps"])
        cursor = answer["meta"]["next_cursor"]
    return pages


async def test_a_long_trace_opens_in_pages(examples: Api) -> None:
    """Steps that the pipeline does not have come behind its own, in the order in which they began."""
    await examples.publish(*(run("step.started", "r", n / 100, step=f"s{n}") for n in range(1200)))
    pages = await pages_of(examples, f"{V1}/nightly_quality/runs/r?limit=500")
    assert [len(page) for page in pages] == [500, 500, 204]
    names = [step["name"] for page in pages for step in page]
    assert names[:4] == ["sample_answers", "improve_prompts", "check_effects", "write_report"]
    assert names[4:] == [f"s{n}" for n in range(1200)]


async def test_a_long_pipeline_is_in_its_order_on_every_page(start: Start, tmp_path: Path) -> None:
    """Pages follow the pipeline, with steps that have not begun; others come behind, none is lost or twice.

    What begins between two pages moves nothing.
    """
    folder = tmp_path / "flows" / "long"
    folder.mkdir(parents=True)
    (folder / "manifest.yaml").write_text("name: long\n")
    steps = ", ".join(f"{{name: p{n}}}" for n in range(1200))
    (folder / "pipeline.yaml").write_text(f"strategy: sequential\nsteps: [{steps}]\n")
    api = await start(workflows=(tmp_path / "flows",), artifacts={"folder": tmp_path / "artifacts"})

    def began(name: str, second: int) -> dict[str, Any]:
        payload = {"workflow_id": "long", "run_id": "r", "step": name}
        at = (BEGUN + timedelta(seconds=second)).isoformat()
        return {"topic": "step.started", "payload": payload, "timestamp": at}

    await api.publish(*(began(f"p{n}", 5000 - n) for n in range(0, 1200, 2)))
    await api.publish(*(began(f"x{n}", 6000 + n) for n in range(60)))
    left = tmp_path / "artifacts" / "long" / "r"
    left.mkdir(parents=True)
    for name in ("p3", "p700", "x5", *(f"y{n:02}" for n in range(40))):
        (left / f"{name}.json").write_bytes(orjson.dumps({"of": name}))
    path = f"{V1}/long/runs/r?limit=500"
    first = await api.get(path)
    await api.publish(began("p1", 1), began("p1199", 2))
    rest = await pages_of(api, path, first["meta"]["next_cursor"])
    pages = [first["steps"], *rest]
    assert [len(page) for page in pages] == [500, 500, 300]
    shown = {step["name"]: step for page in pages for step in page}
    assert list(shown) == [
        *(f"p{n}" for n in range(1200)),
        *(f"x{n}" for n in range(60)),
        *(f"y{n:02}" for n in range(40)),
    ]
    assert [shown[name]["status"] for name in ("p0", "p1", "p3", "p5", "p1198", "p1199", "x1", "y39")] == [
        *("running", "pending", "success", "pending", "running", "running", "running", "success")
    ]
    for name in ("p3", "p700", "x5", "y00", "y39"):
        assert shown[name]["output"] == {"of": name}
    exact = await api.get(f"{V1}/long/runs/r?limit=1&start_after={await last_but_one(api, path)}")
    assert ([step["name"] for step in exact["steps"]], exact["meta"]["next_cursor"]) == (["y39"], None)


async def last_but_one(api: Api, path: str) -> str:
    """Return the cursor behind which a trace of 1,300 steps has one more."""
    cursor = ""
    for limit in (500, 500, 299):
        answer = await api.get(f"{path.partition('?')[0]}?limit={limit}&start_after={cursor}")
        cursor = answer["meta"]["next_cursor"]
    return cursor


async def test_what_steps_left_behind_is_in_the_trace(start: Start, tmp_path: Path) -> None:
    """An artifact's whole document is the output; a missing one is no error, and a broken one says so."""
    api = await start(workflows=(EXAMPLES,), artifacts={"folder": tmp_path / "artifacts"})
    await api.publish(*recorded_run())
    folder = tmp_path / "artifacts" / WORKFLOW / RUN_ID
    folder.mkdir(parents=True)
    document = {"node": "read_invoice", "engine": "agent", "duration_ms": 812.5, "output": {"total": 12.5}}
    answered = {
        "agent": "reader",
        "cost": {
            "prompt_tokens": 7,
            "candidates_tokens": 2,
            "thoughts_tokens": 1,
            "estimated_cost_usd": 0.01,
        },
        "final_text": "12.50",
    }
    (folder / "read_invoice.json").write_bytes(orjson.dumps(document))
    (folder / "read_invoice.llm.json").write_bytes(orjson.dumps(answered))
    (folder / "compose_entry.json").write_bytes(b"{broken")
    (folder / "a_step_nobody_told_of.json").write_bytes(b'{"duration_ms": 3}')
    (folder / "notes.txt").write_bytes(b"x")
    answer = await api.get(f"{V1}/{WORKFLOW}/runs/{RUN_ID}")
    steps = {step["name"]: step for step in answer["steps"]}
    assert list(steps) == [*NODES, "a_step_nobody_told_of"]
    read = steps["read_invoice"]
    assert (read["artifact_key"], read["output"], read["duration_ms"]) == (
        "read_invoice.json",
        document,
        812.5,
    )
    assert (read["has_llm_response"], read["llm_response"]) == (True, answered)
    assert read["token_metrics"] == {
        "prompt_tokens": 7,
        "candidates_tokens": 3,
        "total_tokens": 10,
        "cached_tokens": 0,
        "compression_events": 0,
        "est_cost_usd": 0.01,
    }
    broken = steps["compose_entry"]
    assert broken["artifact_key"] == "compose_entry.json"
    assert "compose_entry.json is not JSON" in broken["artifact_error"]
    assert (broken["output"], broken["status"]) == ({}, "success")
    extra = steps["a_step_nobody_told_of"]
    assert (extra["status"], extra["duration_ms"], extra["attempts"]) == ("success", 3.0, 1)
    assert steps["fetch_invoice"]["artifact_error"] is None


async def test_what_is_not_there_is_answered_by_what_is(examples: Api) -> None:
    """An unknown workflow names those that there are; an unknown run says which workflow has none."""
    for path in ("", "/pipeline", "/agents", "/runs"):
        problem = await examples.problem("GET", f"{V1}/nowhere{path}")
        assert problem["status"] == 404
        assert problem["error"]["error_code"] == "WORKFLOW_NOT_FOUND"
        listed = "Available: ['helpdesk_assistant', 'invoice_to_ledger', 'nightly_quality']"
        assert listed in problem["error"]["detail"]
        assert listed in problem["detail"]
    for path in ("", "/stream"):
        problem = await examples.problem("GET", f"{V1}/{WORKFLOW}/runs/none{path}")
        assert (problem["status"], problem["error"]["error_code"]) == (404, "RUN_NOT_FOUND")
    for strange in ("%2e%2e", "..%2f..%2fetc", "a%00b", "%F0%9F%8E%B2"):
        answer = await examples.http.get(f"{V1}/{strange}")
        assert answer.status_code in {404, 422}


async def test_runs_of_a_workflow_without_a_folder_are_there(examples: Api) -> None:
    """Who only publishes finds its runs, too; it is not in the list of workflows."""
    await examples.publish({"topic": "run.started", "payload": {"workflow_id": "loose", "run_id": "r"}})
    answer = await examples.get(f"{V1}/loose/runs")
    assert [one["id"] for one in answer["runs"]] == ["r"]
    assert (await examples.get(f"{V1}/loose/runs/r"))["run"]["status"] == "running"
    assert (await examples.get(V1))["total"] == 3


async def test_a_workflow_is_switched_off(examples: Api) -> None:
    """The switch is kept, counted in the health, and told on the workflow's channel."""
    answer = await examples.http.patch(f"{V1}/{WORKFLOW}", json={"enabled": False})
    assert (answer.status_code, answer.json()["enabled"]) == (200, False)
    assert (await examples.get(f"{V1}/{WORKFLOW}"))["manifest"]["enabled"] is False
    assert (await examples.get("/api/v1/health"))["workflows"] == {"total": 3, "enabled": 2}
    events = await examples.get(f"/api/v1/events?channel=workflow:{WORKFLOW}")
    assert events["events"][0]["payload"] == {"workflow_id": WORKFLOW, "enabled": False}
    wrongs: list[Any] = [{}, {"enabled": "no"}, {"enabled": True, "colour": "red"}, []]
    for wrong in wrongs:
        refused = await examples.http.patch(f"{V1}/{WORKFLOW}", json=wrong)
        assert refused.status_code == 422


async def test_the_health_of_the_platform(examples: Api) -> None:
    """Workflows and the bus are told in exactly the reference's form."""
    await examples.publish(run("run.started", "r"))
    answer = await examples.get("/api/v1/health")
    assert answer == {
        "status": "healthy",
        "workflows": {"total": 3, "enabled": 3},
        "bus": {"published": 1, "delivered": 0, "errors": 0},
    }


async def test_the_log_of_events_for_every_topic(recorded: Api) -> None:
    """``topic=*`` gives all of them, newest first, with the five fields of the bus."""
    answer = await recorded.get("/api/v1/events?topic=*&limit=47")
    assert answer["total"] == 47
    sent = [
        {name: message[name] for name in ("topic", "sender", "payload", "correlation_id")}
        for message in reversed(recorded_run())
    ]
    assert [{name: event[name] for name in sent[0]} for event in answer["events"]] == sent
    completed = await recorded.get("/api/v1/events?topic=dag.completed")
    assert completed["total"] == 1


async def test_what_is_wrong_in_the_files_shows(start: Start, tmp_path: Path) -> None:
    """A cycle is in its workflow's problems; a folder that is no workflow is listed apart."""
    for name, files in {
        "round": {"manifest.yaml": "name: round\nagents: [one, two]", "pipeline.yaml": CYCLE},
        "torn": {"manifest.yaml": "name: [\n"},
    }.items():
        (tmp_path / "w" / name).mkdir(parents=True)
        for file, text in files.items():
            (tmp_path / "w" / name / file).write_text(text)
    api = await start(workflows=(tmp_path / "w",))
    answer = await api.get(V1)
    assert answer["workflows"][0]["agent_count"] == 2
    (problem,) = answer["workflows"][0]["problems"]
    assert (problem["file"], problem["line"]) == ("pipeline.yaml", 3)
    assert problem["detail"] in {"cycle: a -> b -> a", "cycle: b -> a -> b"}
    (torn,) = answer["broken"]
    assert (torn["folder"], torn["problems"][0]["file"]) == ("torn", "manifest.yaml")


CYCLE = """strategy: dag
nodes:
- {name: a, dependencies: [b]}
- {name: b, dependencies: [a]}
"""


async def test_a_bad_event_of_a_run_names_its_fields(examples: Api) -> None:
    """The documented topics are checked; what a platform's runners say is taken as it is."""
    answer = await examples.problem(
        "POST",
        "/api/v1/events",
        json=run("run.finished", "no name", status="done", duration_ms="long", cost_usd=-1),
    )
    fields = {error["field"] for error in answer["errors"]}
    assert fields == {"payload.run_id", "payload.status", "payload.duration_ms", "payload.cost_usd"}
    answer = await examples.problem("POST", "/api/v1/events", json=run("step.started", "r"))
    assert answer["errors"][0]["field"] == "payload.step"
    odd = {"topic": "dag.completed", "payload": {"execution_id": ["x"], "pipeline": 5, "duration_ms": "x"}}
    await examples.publish(odd)


async def test_what_names_only_its_session_is_in_its_runs_stream(examples: Api) -> None:
    """Calls of models and tools of a run whose workflow is known belong to it; others stay on their topic.

    A retry under the same key is the same event, wherever it was put at first.
    """
    call = {"topic": "tool.started", "payload": {"session_id": RUN_ID, "tool": "t"}, "key": "k"}
    await examples.publish(call)
    await examples.publish(*recorded_run())
    await examples.publish(call)
    await examples.publish({"topic": "model.started", "payload": {"session_id": "of nobody"}})
    mine = [
        message["topic"]
        for message in recorded_run()
        if {"execution_id", "session_id"} & message["payload"].keys()
    ]
    assert len(mine) == 45
    async with await open_sse(examples.url, f"{V1}/{WORKFLOW}/runs/{RUN_ID}/stream") as stream:
        story = await stream.story(len(mine))
    assert [told.fields["topic"] for told in story] == mine
    kept = await examples.get(f"/api/v1/events?channel=workflow:{WORKFLOW}&limit=100")
    assert kept["total"] == 46  # and what triggered it
    early = await examples.get("/api/v1/events?channel=topic:tool.started")
    assert early["total"] == 1
    assert (await examples.get("/api/v1/events?channel=topic:model.started"))["total"] == 1
    trace = await examples.get(f"{V1}/{WORKFLOW}/runs/{RUN_ID}")
    assert (trace["run"]["cost_usd"], trace["run"]["steps"]) == (0.0063, {"success": 10})


async def test_a_stream_of_a_run_begins_with_what_was(examples: Api) -> None:
    """Who comes late is told the run from its first event on, then what happens, and of no other run."""
    await examples.publish(
        run("run.started", "other"), run("run.started", "r"), run("step.started", "other", step="a")
    )
    await examples.publish(run("step.started", "r", 1, step="a"))
    path = f"{V1}/nightly_quality/runs/r/stream"
    async with await open_sse(examples.url, path) as late:
        heard = await late.story(2)
        cursor = heard[-1].id
        end = run("run.finished", "r", 3)
        await examples.publish(run("step.completed", "other", 2, step="a"), end)
        heard += await late.story(1)
    assert [(told.fields["topic"], told.fields["payload"]["run_id"]) for told in heard] == [
        ("run.started", "r"),
        ("step.started", "r"),
        ("run.finished", "r"),
    ]
    async with await open_sse(examples.url, path, {"Last-Event-ID": str(cursor)}) as resumed:
        assert await resumed.story(1) == heard[-1:]
