"""The registry: the workflows in their folders, at most a second old.

It looks at the folders once a second, in a worker thread, and reads what changed. A look costs one ``stat``
for each file (300 workflows: some milliseconds), keeps no thread, and notices what a kernel's watch does not
report: changes in folders on a network, mounted or bound into a container, and a root that vanishes and comes
back under its own name. A watcher such as ``watchfiles`` holds a thread for good and has to be told about the
roots again.

The first reading is not announced; each later change is, as ``workflow.changed`` on the workflow's channel.
Every node has its own registry. Nodes that see the same files announce a change under the same key, so the
log keeps it once. An announcement that the log does not take is kept, the newest for each workflow, and
retried.

A problem is logged when it is first seen, and again when it is mended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import structlog
import trio

from heliograph.actors import folders
from heliograph.actors.folders import Found
from heliograph.model.errors import Unavailable, WorkflowNotFound
from heliograph.model.event import Draft
from heliograph.model.workflows.manifest import CARDS
from heliograph.model.workflows.reading import FileProblem
from heliograph.model.workflows.workflow import Broken, Workflow

INTERVAL_SECONDS = 1.0
TOPIC = "workflow.changed"
KEYS = "workflows/"
"""The beginning of the idempotency keys of announcements."""
MOST_TOLD = 50
"""The number of ids that an error lists."""

log = structlog.get_logger(__name__)


@attrs.frozen
class Catalogue:
    """All workflows at one moment.

    Args:
        workflows: The workflows by id, sorted.
        broken: Folders that should be workflows but can't be read.
        marks: For each workflow, a text that changes with its files.
    """

    workflows: Mapping[str, Workflow] = attrs.field(factory=dict)
    broken: tuple[Broken, ...] = ()
    marks: Mapping[str, str] = attrs.field(factory=dict)

    def get(self, workflow_id: str, may_see: Callable[[str], bool]) -> Workflow:
        """Return one workflow.

        Args:
            may_see: Tells of a channel whether the caller may use it.

        Raises:
            WorkflowNotFound: There is none of that id; the message lists the ids that the caller may see.
        """
        workflow = self.workflows.get(workflow_id)
        if workflow is None:
            known = [name for name in self.workflows if may_see(f"workflow:{name}")]
            more = f" and {len(known) - MOST_TOLD} more" if len(known) > MOST_TOLD else ""
            raise WorkflowNotFound(
                f"there is no workflow {workflow_id[:200]!r}. Available: {known[:MOST_TOLD]}{more}"
            )
        return workflow


@attrs.frozen
class RegistryStats:
    """The counters of the registry.

    Args:
        workflows: The number of workflows.
        troubled: The number of workflows with problems in their files.
        broken: Folders that should be workflows but can't be read.
        read: Folders read since the start.
        looked: The duration of the last look, in seconds.
    """

    workflows: int
    troubled: int
    broken: int
    read: int
    looked: float


class Registry:
    """Keeps the catalogue up to date.

    Args:
        roots: Folders of workflows; of two workflows with the same name, the earlier root's is used.
        append: Appends drafts to the log.
    """

    def __init__(self, roots: Sequence[Path], append: Callable[[Sequence[Draft]], Awaitable[object]]) -> None:
        self.catalogue = Catalogue()
        self._roots = roots
        self._append = append
        self._found: dict[Path, Found] = {}
        self._waiting: dict[str, Draft] = {}
        self._said: set[tuple[str, FileProblem]] = set()
        self._read = 0
        self._looked = 0.0

    def stats(self) -> RegistryStats:
        """Return a snapshot of the counters."""
        catalogue = self.catalogue
        return RegistryStats(
            workflows=len(catalogue.workflows),
            troubled=sum(bool(workflow.problems) for workflow in catalogue.workflows.values()),
            broken=len(catalogue.broken),
            read=self._read,
            looked=self._looked,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read all folders, then look again until cancelled; ``started`` after the first reading."""
        if not self._roots:
            task_status.started()
            return
        await self._look()
        task_status.started()
        while True:
            await trio.sleep(INTERVAL_SECONDS)
            before = self.catalogue
            await self._look()
            self._note_changes(before, self.catalogue)
            await self._announce()

    async def _look(self) -> None:
        begun = trio.current_time()
        # A network folder may never answer; its thread is left behind when the service stops.
        self.catalogue = await trio.to_thread.run_sync(self._look_now, abandon_on_cancel=True)
        self._looked = trio.current_time() - begun
        self._log_problems()

    def _look_now(self) -> Catalogue:
        """Look at all roots, read what changed, and make the catalogue; in a worker thread."""
        found: dict[Path, Found] = {}
        broken: list[Broken] = []
        for root in self._roots:
            there, problems = folders.folders_of(root)
            if problems:
                broken.append(Broken(str(root), tuple(problems)))
            for folder in there:
                found[folder] = self._current(folder, root)
        self._found = found
        return _catalogue(found, broken)

    def _current(self, folder: Path, root: Path) -> Found:
        """Return the content of a folder. It is read again once a change of it has settled."""
        known = self._found.get(folder)
        if known is not None:
            signature = folders.look(folder, known.cards)
            if signature == known.signature or not folders.settled(signature):
                return known
        self._read += 1
        return folders.read(folder, root, CARDS if known is None else known.cards)

    def _note_changes(self, before: Catalogue, after: Catalogue) -> None:
        for name in sorted(before.marks.keys() | after.marks.keys()):
            old, new = before.marks.get(name), after.marks.get(name)
            if old == new:
                continue
            change = "added" if old is None else "removed" if new is None else "changed"
            workflow = after.workflows.get(name)
            payload = {
                "workflow_id": name,
                "change": change,
                "problems": 0 if workflow is None else len(workflow.problems),
            }
            log.info("workflow changed", workflow=name, change=change)
            self._waiting[name] = _draft(name, payload, f"{KEYS}{name}/{change}/{new or old}")

    async def _announce(self) -> None:
        if not self._waiting:
            return
        try:
            await self._append(list(self._waiting.values()))
        except Unavailable as error:
            log.warning("changes of workflows wait", count=len(self._waiting), reason=str(error))
        else:
            self._waiting.clear()

    def _log_problems(self) -> None:
        """Log the problems that are new, and those that are gone."""
        now = {(owner, problem) for owner, problems in _problems(self.catalogue) for problem in problems}
        for owner, problem in sorted(now - self._said, key=repr):
            log.warning("workflow problem", workflow=owner, **attrs.asdict(problem))
        for owner in sorted({owner for owner, _ in self._said} - {owner for owner, _ in now}):
            log.info("workflow mended", workflow=owner)
        self._said = now


def _problems(catalogue: Catalogue) -> list[tuple[str, tuple[FileProblem, ...]]]:
    return [
        *((name, workflow.problems) for name, workflow in catalogue.workflows.items()),
        *((broken.folder, broken.problems) for broken in catalogue.broken),
    ]


def _catalogue(found: Mapping[Path, Found], broken: list[Broken]) -> Catalogue:
    """Make the catalogue; of two folders with one name the second is broken."""
    owners: dict[str, Path] = {}
    for folder, read in found.items():
        if isinstance(read.content, Broken):
            broken.append(read.content)
            continue
        owner = owners.setdefault(read.content.id, folder)
        if owner != folder:
            detail = f"another workflow is named {read.content.id!r} too: the one in {owner.name}"
            broken.append(Broken(folder.name, (FileProblem(".", detail, "name"),)))
    workflows = {name: found[folder].content for name, folder in sorted(owners.items())}
    return Catalogue(
        {name: content for name, content in workflows.items() if isinstance(content, Workflow)},
        tuple(broken),
        {name: found[folder].mark for name, folder in owners.items()},
    )


def _draft(name: str, payload: dict[str, Any], key: str) -> Draft:
    return Draft.own(f"workflow:{name}", TOPIC, payload, sender="registry", key=key)
