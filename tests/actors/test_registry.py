"""The registry of workflows, over real folders: what it reads, refuses, notices, and says of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import orjson
import pytest
import structlog
import trio
from tests import polling

from heliograph.actors import folders, registry
from heliograph.actors.registry import Catalogue, Registry
from heliograph.model import yaml
from heliograph.model.errors import Unavailable, WorkflowNotFound
from heliograph.model.event import Draft
from heliograph.model.workflows.workflow import Workflow

Write = Callable[[str, str], Path]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make an empty folder of workflows."""
    made = tmp_path / "workflows"
    made.mkdir()
    return made


@pytest.fixture
def write(root: Path) -> Write:
    """Return a function that writes a file below the root."""

    def write_file(name: str, text: str) -> Path:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(".being-written")
        beside.write_text(text)
        return beside.replace(file)

    return write_file


class Announced:
    """Takes announcements, unless it is told to be away."""

    def __init__(self) -> None:
        self.drafts: list[Draft] = []
        self.away = False

    async def append(self, drafts: Sequence[Draft]) -> None:
        """Keep the drafts."""
        if self.away:
            raise Unavailable("away")
        self.drafts += drafts

    @property
    def changes(self) -> list[tuple[str, str]]:
        """What was announced: channels, and what happened to them."""
        return [(draft.channel, draft.payload["change"]) for draft in self.drafts]


async def catalogue_of(*roots: Path) -> Catalogue:
    """Read some roots once."""
    async with trio.open_nursery() as nursery:
        made = Registry(roots, Announced().append)
        await nursery.start(made.run)
        nursery.cancel_scope.cancel()
    return made.catalogue


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""

    async def holds() -> bool:
        return bool(condition())

    await polling.until(holds)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the registry look often, and believe at once what it sees."""
    monkeypatch.setattr(registry, "INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(folders, "SETTLED_AFTER", 0)


def reasons(catalogue: Catalogue) -> dict[str, list[str]]:
    """Return what is wrong with the broken folders."""
    return {
        broken.folder: [f"{problem.file}: {problem.detail}" for problem in broken.problems]
        for broken in catalogue.broken
    }


async def test_workflows_are_read_from_their_folders(root: Path, write: Write) -> None:
    """Manifest, pipeline and cards make a workflow, under the manifest's name."""
    write("folder/manifest.yaml", "name: named\nagents: {cards_dir: people/}")
    write("folder/pipeline.yaml", "steps: [{name: a}, {name: b}]")
    write("folder/people/x.agent.yaml", "name: x")
    write("folder/people/notes.yaml", "name: no card")
    write("other/workflow.yaml", "name: other")
    write("other/agents/y.agent.yaml", "name: y")
    catalogue = await catalogue_of(root)
    assert list(catalogue.workflows) == ["named", "other"]
    assert not catalogue.broken
    named = catalogue.workflows["named"]
    assert named.pipeline.layers == (("a",), ("b",))
    assert named.manifest.agents == ("x",)
    assert catalogue.workflows["other"].manifest.agents == ("y",)
    assert catalogue.workflows["other"].pipeline.nodes == ()


async def test_templates_and_plain_files_are_no_workflows(root: Path, write: Write) -> None:
    """What begins with ``_`` or ``.``, and files, are passed over without a word."""
    write("_template/manifest.yaml", "name: template")
    write(".git/manifest.yaml", "name: git")
    write("README.md", "hello")
    assert await catalogue_of(root) == Catalogue()


async def test_an_unknown_workflow_is_answered_by_those_there_are(root: Path, write: Write) -> None:
    """The error says what could have been asked for, as far as the caller may see it."""
    for name in ("c", "b", "a"):
        write(f"{name}/manifest.yaml", f"name: {name}")
    with pytest.raises(WorkflowNotFound, match=r"Available: \['a', 'b'\]"):
        (await catalogue_of(root)).get("d", {"workflow:a", "workflow:b"}.__contains__)


async def test_what_is_broken_hides_no_other(root: Path, write: Write) -> None:
    """Each broken folder is listed with the file, the line and what is wrong; the good one is there."""
    write("good/manifest.yaml", "name: good")
    write("syntax/manifest.yaml", "name: x\n  bad: [")
    write("large/manifest.yaml", "name: large\n#" + "x" * 10_000_000)
    write("tag/manifest.yaml", "name: !!python/name:os.system ''")
    write("nameless/manifest.yaml", "display_name: x")
    (root / "empty").mkdir()
    (root / "strange" / "manifest.yaml").mkdir(parents=True)
    (root / "waiting").mkdir()
    os.mkfifo(root / "waiting" / "manifest.yaml")
    catalogue = await catalogue_of(root)
    assert list(catalogue.workflows) == ["good"]
    found = reasons(catalogue)
    assert found["large"] == [f"manifest.yaml: the file has more than {yaml.MAX_BYTES} bytes"]
    assert "mapping values" in found["syntax"][0]
    assert "python/name" in found["tag"][0]
    assert "A-Z" in found["nameless"][0]
    assert found["empty"] == ["manifest.yaml: can't be read: No such file or directory"]
    assert "directory" in found["strange"][0]
    assert found["waiting"] == ["manifest.yaml: is not a plain file"]
    (syntax,) = (broken for broken in catalogue.broken if broken.folder == "syntax")
    assert syntax.problems[0].line == 2


async def test_a_workflow_with_a_broken_part_is_there_without_it(root: Path, write: Write) -> None:
    """A bad pipeline or card is a problem of its workflow, and leaves the rest of it."""
    write("w/manifest.yaml", "name: w")
    write("w/pipeline.yaml", "steps: [")
    write("w/agents/good.agent.yaml", "name: good")
    write("w/agents/bad.agent.yaml", "name: [")
    workflow = (await catalogue_of(root)).workflows["w"]
    assert [card.name for card in workflow.cards] == ["good"]
    assert [problem.file for problem in workflow.problems] == ["pipeline.yaml", "agents/bad.agent.yaml"]


async def test_a_name_that_is_there_twice_belongs_to_the_first(
    root: Path, write: Write, tmp_path: Path
) -> None:
    """The second folder of a name is broken, in one root and over several."""
    write("a/manifest.yaml", "name: same\nversion: '1'")
    write("b/manifest.yaml", "name: same\nversion: '2'")
    further = tmp_path / "further" / "c"
    further.mkdir(parents=True)
    (further / "manifest.yaml").write_text("name: same\nversion: '3'")
    catalogue = await catalogue_of(root, further.parent)
    assert catalogue.workflows["same"].manifest.version == "1"
    assert reasons(catalogue) == {
        folder: [".: another workflow is named 'same' too: the one in a"] for folder in "bc"
    }


async def test_links_do_not_lead_out(root: Path, write: Write, tmp_path: Path) -> None:
    """A link is followed inside its workflow's folder, and refused where it leads out of it."""
    secret = tmp_path / "secret.yaml"
    secret.write_text("name: secret")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "manifest.yaml").write_text("name: elsewhere")
    write("inside/..data/manifest.yaml", "name: inside")
    (root / "inside" / "manifest.yaml").symlink_to("..data/manifest.yaml")
    (root / "file").mkdir()
    (root / "file" / "manifest.yaml").symlink_to(secret)
    (root / "folder").symlink_to(elsewhere)
    write("neighbour/manifest.yaml", "name: neighbour\nagents: {cards_dir: cards}")
    (root / "neighbour" / "cards").symlink_to(root / "inside")
    catalogue = await catalogue_of(root)
    assert list(catalogue.workflows) == ["inside", "neighbour"]
    assert "leads out" in reasons(catalogue)["file"][0]
    assert "leads out" in reasons(catalogue)["folder"][0]
    assert "leads out" in catalogue.workflows["neighbour"].problems[0].detail


async def test_what_may_not_be_read_is_said(
    root: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file, a folder of cards or a root without rights is a problem, and the rest goes on."""
    write("closed/manifest.yaml", "name: closed")
    write("open/manifest.yaml", "name: open")
    real_open, real_list = os.open, os.listdir

    def refuse(path: Any, *rest: Any) -> int:
        if "closed" in str(path):
            raise PermissionError(13, "Permission denied")
        return real_open(path, *rest)

    def refuse_list(path: Any) -> list[str]:
        if str(path).endswith("open/agents"):
            raise PermissionError(13, "Permission denied")
        return real_list(path)

    # Tests may run as root, whom no rights stop: the system's own refusal is put in place.
    monkeypatch.setattr("os.open", refuse)
    monkeypatch.setattr("os.listdir", refuse_list)
    catalogue = await catalogue_of(root)
    assert reasons(catalogue) == {"closed": ["manifest.yaml: can't be read: Permission denied"]}
    assert catalogue.workflows["open"].problems[0].detail == "can't be read: Permission denied"


async def test_changes_show_and_are_announced(
    root: Path, write: Write, quick: None, nursery: trio.Nursery
) -> None:
    """What is added, changed, broken, mended and removed shows by itself, each with its event."""
    write("a/manifest.yaml", "name: a")
    announced = Announced()
    made = Registry([root], announced.append)
    await nursery.start(made.run)
    assert announced.drafts == []

    write("b/manifest.yaml", "name: b")
    await until(lambda: "b" in made.catalogue.workflows and announced.drafts)
    write("a/pipeline.yaml", "steps: [{name: x}]")
    await until(lambda: made.catalogue.workflows["a"].pipeline.nodes and len(announced.drafts) == 2)
    write("a/agents/c.agent.yaml", "name: c")
    await until(lambda: made.catalogue.workflows["a"].cards and len(announced.drafts) == 3)
    write("b/manifest.yaml", "name: [")
    await until(lambda: "b" not in made.catalogue.workflows and len(announced.drafts) == 4)
    assert [broken.folder for broken in made.catalogue.broken] == ["b"]
    write("b/manifest.yaml", "name: b")
    await until(lambda: "b" in made.catalogue.workflows and len(announced.drafts) == 5)
    shutil.rmtree(root / "b")
    await until(lambda: "b" not in made.catalogue.workflows and len(announced.drafts) == 6)
    assert announced.changes == [
        ("workflow:b", "added"),
        ("workflow:a", "changed"),
        ("workflow:a", "changed"),
        ("workflow:b", "removed"),
        ("workflow:b", "added"),
        ("workflow:b", "removed"),
    ]
    assert {draft.topic for draft in announced.drafts} == {"workflow.changed"}
    assert len({draft.key for draft in announced.drafts}) == 6
    nursery.cancel_scope.cancel()


async def test_nodes_announce_one_change_under_one_key(
    root: Path, write: Write, quick: None, nursery: trio.Nursery
) -> None:
    """Two registries over the same files use the same key, so the log keeps one event."""
    both = Announced(), Announced()
    for announced in both:
        await nursery.start(Registry([root], announced.append).run)
    write("a/manifest.yaml", "name: a")
    await until(lambda: all(announced.drafts for announced in both))
    one, other = (announced.drafts[0] for announced in both)
    assert (one.key, one.body) == (other.key, other.body)
    nursery.cancel_scope.cancel()


async def test_a_change_is_announced_when_the_log_is_back(
    root: Path, write: Write, quick: None, nursery: trio.Nursery
) -> None:
    """An announcement that was not taken is tried again; of several for one workflow the newest is."""
    announced = Announced()
    announced.away = True
    made = Registry([root], announced.append)
    await nursery.start(made.run)
    write("a/manifest.yaml", "name: a")
    await until(lambda: "a" in made.catalogue.workflows)
    shutil.rmtree(root / "a")
    await until(lambda: "a" not in made.catalogue.workflows)
    announced.away = False
    await until(lambda: announced.drafts)
    assert announced.changes == [("workflow:a", "removed")]
    nursery.cancel_scope.cancel()


async def test_a_root_may_vanish_and_come_back(
    root: Path, write: Write, quick: None, nursery: trio.Nursery, tmp_path: Path
) -> None:
    """While it is away that is listed, and another root goes on; when it is back, so are its workflows."""
    write("a/manifest.yaml", "name: a")
    further = tmp_path / "further" / "b"
    further.mkdir(parents=True)
    (further / "manifest.yaml").write_text("name: b")
    made = Registry([root, further.parent], Announced().append)
    await nursery.start(made.run)
    away = tmp_path / "away"
    os.rename(root, away)
    await until(lambda: list(made.catalogue.workflows) == ["b"])
    assert reasons(made.catalogue) == {str(root): [".: can't be read: No such file or directory"]}
    os.rename(away, root)
    await until(lambda: list(made.catalogue.workflows) == ["a", "b"])
    assert not made.catalogue.broken
    nursery.cancel_scope.cancel()


async def test_only_what_changed_is_read_again(
    root: Path, write: Write, quick: None, nursery: trio.Nursery
) -> None:
    """A look opens no file that is as it was; another right counts as a change."""
    for name in "abc":
        file = write(f"{name}/manifest.yaml", f"name: {name}")
    made = Registry([root], Announced().append)
    await nursery.start(made.run)
    assert made.stats().read == 3
    file.chmod(0o600)
    await until(lambda: made.stats().read == 4)
    looks = made.catalogue
    await until(lambda: made.catalogue is not looks)
    assert made.stats().read == 4
    assert (made.stats().workflows, made.stats().troubled, made.stats().broken) == (3, 0, 0)
    nursery.cancel_scope.cancel()


async def test_a_file_that_is_being_saved_is_not_read_yet(
    root: Path, write: Write, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    """What was changed just now may be half written: until it has settled, what was read before is shown."""
    monkeypatch.setattr(registry, "INTERVAL_SECONDS", 0.01)
    write("a/manifest.yaml", "name: a")
    announced = Announced()
    made = Registry([root], announced.append)
    await nursery.start(made.run)
    monkeypatch.setattr(folders, "SETTLED_AFTER", 3600)
    file = root / "a" / "manifest.yaml"
    file.write_text("")
    for _ in range(3):
        looked = made.catalogue
        await until(partial(lambda before: made.catalogue is not before, looked))
    assert list(made.catalogue.workflows) == ["a"]
    file.write_text("name: a\nversion: '2'")
    monkeypatch.setattr(folders, "SETTLED_AFTER", 0)
    await until(lambda: announced.changes)
    assert made.catalogue.workflows["a"].manifest.version == "2"
    assert announced.changes == [("workflow:a", "changed")]
    nursery.cancel_scope.cancel()


async def test_a_problem_is_logged_once(root: Path, write: Write, quick: None, nursery: trio.Nursery) -> None:
    """However often the folder is looked at, what is wrong is said once, and when it is mended."""
    file = write("a/manifest.yaml", "name: a\ntags: 5")
    made = Registry([root], Announced().append)
    with structlog.testing.capture_logs() as logged:
        await nursery.start(made.run)
        for _ in range(3):
            looked = made.catalogue
            await until(partial(lambda before: made.catalogue is not before, looked))
        file.write_text("name: a")
        await until(lambda: not made.catalogue.workflows["a"].problems)
    said = [(entry["event"], entry["workflow"]) for entry in logged]
    assert said.count(("workflow problem", "a")) == 1
    assert said.count(("workflow mended", "a")) == 1
    problem = next(entry for entry in logged if entry["event"] == "workflow problem")
    assert (problem["file"], problem["line"], problem["field"]) == ("manifest.yaml", 2, "tags")
    nursery.cancel_scope.cancel()


async def test_three_hundred_workflows_are_read(root: Path, write: Write) -> None:
    """As many as a platform has are there after one reading."""
    for number in range(300):
        write(f"w{number}/manifest.yaml", f"name: w{number}")
        write(f"w{number}/pipeline.yaml", "steps: [{name: a}]")
    catalogue = await catalogue_of(root)
    assert len(catalogue.workflows) == 300
    assert all(isinstance(workflow, Workflow) for workflow in catalogue.workflows.values())


async def test_names_may_be_any_bytes(root: Path, write: Write) -> None:
    """A folder or a card whose name is no UTF-8 is read, or a problem that can be written as JSON."""
    os.makedirs(os.fsencode(root) + b"/\xff\xfe")
    write("good/manifest.yaml", "name: good")
    os.makedirs(os.fsencode(root) + b"/good/agents")
    os.close(os.open(os.fsencode(root) + b"/good/agents/\xff.agent.yaml", os.O_CREAT | os.O_WRONLY))
    catalogue = await catalogue_of(root)
    assert [broken.folder for broken in catalogue.broken] == ["??"]
    assert [problem.file for problem in catalogue.workflows["good"].problems] == ["agents/?.agent.yaml"]
    orjson.dumps([attrs.asdict(broken) for broken in catalogue.broken])


async def test_too_many_folders_are_a_problem(
    root: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the bound the first are read, and it is said that there are more."""
    monkeypatch.setattr(folders, "MAX_FOLDERS", 2)
    for name in "abc":
        write(f"{name}/manifest.yaml", f"name: {name}")
    catalogue = await catalogue_of(root)
    assert list(catalogue.workflows) == ["a", "b"]
    assert reasons(catalogue) == {str(root): [".: has 3 folders; the first 2 are read"]}
