"""Webhooks' files on the disk: folders with a ``config.yaml``, and plain ``*.yaml`` files beside them.

Like workflows' folders (see ``folders``) they are checked again and again, and read when a file's inode has
changed. A broken file hides no other. All functions block; they are called in a worker thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import attrs

from heliograph.actors import folders
from heliograph.actors.folders import Signature
from heliograph.model import yaml
from heliograph.model.errors import FieldError, WebhookValidationError
from heliograph.model.webhooks.config import WebhookConfig, read_config

SUFFIXES = (".yaml", ".yml")
CONFIG = tuple(f"config{suffix}" for suffix in SUFFIXES)
MOST_FILES = 1000
MOST_TEMPLATE_BYTES = 256 * 1024


@attrs.frozen
class HookFile:
    """A file as it was read.

    Args:
        file: The file's path, relative to the root.
        signature: The signature of the file and the templates beside it, taken just before the reading.
        config: The configuration in the file; ``None``: the file is broken.
        error: The fault in the file.
        secret: The secret, if the file itself has it.
    """

    file: str
    signature: Signature
    config: WebhookConfig | None = None
    error: WebhookValidationError | None = None
    secret: str | None = attrs.field(default=None, repr=False)


def files_of(root: Path) -> tuple[list[Path], str | None]:
    """List the files that should be configurations, by name, and the problems met on the way."""
    try:
        names = sorted(os.listdir(root))
    except OSError as error:
        return [], f"{root} can't be read: {error.strerror}"
    return list(_found(root, names))[:MOST_FILES], None


def _found(root: Path, names: list[str]) -> Iterator[Path]:
    for name in names:
        if name.startswith(("_", ".")):
            continue
        if (root / name).is_dir():
            yield from [root / name / config for config in CONFIG if (root / name / config).exists()][:1]
        elif name.endswith(SUFFIXES):
            yield root / name


def look(file: Path) -> Signature:
    """Return a signature that changes with a file and with the templates in its folder."""
    names = [file.name]
    if file.name in CONFIG:
        for place, inner, found in os.walk(file.parent):
            inner[:] = [name for name in inner if not name.startswith(".")]
            names += sorted(os.path.relpath(os.path.join(place, name), file.parent) for name in found)
            if len(names) > MOST_FILES:
                break
    return tuple(folders.look_at(file.parent, names[:MOST_FILES]))


def read(file: Path, root: Path) -> HookFile:
    """Read a configuration; its content never raises, but is reported as a fault."""
    shown = str(file.relative_to(root))
    signature = look(file)
    if not folders.inside(file, root):
        wrong = WebhookValidationError("is a link that leads out of the folder of webhooks", shown)
        return HookFile(shown, signature, error=wrong)
    reader = folders.Reader(file.parent)
    document = reader.document(file.name)
    if document is None:
        errors = [FieldError("", _sentence(problem.detail, problem.line)) for problem in reader.problems]
        return HookFile(shown, signature, error=WebhookValidationError(errors, shown))
    in_folder = file.name in CONFIG
    name = file.parent.name if in_folder else file.stem

    def template_file(named: str) -> str:
        try:
            data = reader.bytes_of(named)
        except yaml.BadYaml as error:
            raise ValueError(str(error)) from None
        if len(data) > MOST_TEMPLATE_BYTES:
            raise ValueError("is too large")
        return data.decode()

    try:
        config = read_config(
            document,
            f"static-{name}",
            file=shown,
            name=name,
            is_builtin=True,
            template_file=template_file if in_folder else None,
        )
    except WebhookValidationError as error:
        return HookFile(shown, signature, error=error)
    secret = document.value.get("secret")
    return HookFile(shown, signature, config, secret=secret if isinstance(secret, str) else None)


def _sentence(detail: str, line: int | None) -> str:
    return detail if line is None else f"{detail} (line {line})"
