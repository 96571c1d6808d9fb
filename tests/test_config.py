import hashlib
import os
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph import config
from heliograph.config import (
    AuthSettings,
    KeySettings,
    ServerSettings,
    Settings,
    StorageSettings,
    as_toml_lines,
    hide_password,
    load,
)
from heliograph.model.errors import SettingsError
from heliograph.model.strict import structure
from heliograph.variables import ENVIRONMENT

DIGEST = hashlib.sha256(b"secret").hexdigest()
KEY = f'[[auth.keys]]\nname = "a"\nsha256 = "{DIGEST}"\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> Settings:
    """Load a file of this text, and this environment."""
    file = folder / "settings.toml"
    file.write_text(text, encoding="utf-8")
    return load(file, environ or {})


def problems(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return what is wrong with a file and an environment."""
    with pytest.raises(SettingsError) as caught:
        read(folder, text, environ)
    return caught.value.problems


def test_the_defaults_hold_without_file_and_environment(folder: Path) -> None:
    """In an empty folder and environment every setting has its default."""
    assert load(None, {}) == Settings()


def test_the_file_of_the_working_folder_is_read(folder: Path) -> None:
    """Without a name, ``config.toml`` of the working folder counts."""
    (folder / "config.toml").write_text('[server]\nport = 6001\n[log]\nlevel = "debug"\n')
    settings = load(None, {})
    assert (settings.server.port, settings.log.level) == (6001, "DEBUG")


def test_the_environment_goes_over_the_file(folder: Path) -> None:
    """A variable overrides the file, an empty one does not."""
    settings = read(folder, '[server]\nport = 6001\nhost = "127.0.0.2"', {"PORT": "6002", "HOST": " "})
    assert (settings.server.port, settings.server.host) == (6002, "127.0.0.2")


@pytest.mark.parametrize(
    ("variable", "text", "path", "value"),
    [
        ("HOST", "::1", "server.host", "::1"),
        ("PORT", "0", "server.port", 0),
        ("CORS_ORIGINS", "http://a, https://b:1,", "server.cors_origins", ("http://a", "https://b:1")),
        ("HELIOGRAPH_DATA", "/var/lib/h", "storage.data", Path("/var/lib/h")),
        ("HELIOGRAPH_WORKFLOWS", "w", "workflows", (Path("w"),)),
        ("HELIOGRAPH_WORKFLOWS", os.pathsep.join(["/a", "b"]), "workflows", (Path("/a"), Path("b"))),
        ("HELIOGRAPH_WEBHOOKS", "h", "webhooks", Path("h")),
        ("AGENT_ENGINE_URL", "http://e", "engine.url", "http://e"),
        ("LOG_LEVEL", "warning", "log.level", "WARNING"),
        ("HELIOGRAPH_API_KEYS", "secret", "auth.keys", (KeySettings("key1", DIGEST),)),
    ],
)
def test_a_variable_sets_its_setting(folder: Path, variable: str, text: str, path: str, value: Any) -> None:
    """Each variable of the environment is read into the setting it is for."""
    found: Any = load(None, {variable: text})
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value


def test_databases_are_set_by_their_urls(folder: Path) -> None:
    """The two URLs of the environment name the distributed form."""
    settings = load(None, {"DATABASE_URL": "postgresql://u@h/d", "REDIS_URL": "redis://h"})
    assert (settings.storage.database_url, settings.storage.redis_url) == ("postgresql://u@h/d", "redis://h")


def test_every_variable_names_a_setting() -> None:
    """The table of variables leads to settings that exist."""
    for path, _ in ENVIRONMENT.values():
        value: Any = Settings()
        for name in path.split("."):
            value = getattr(value, name)


def test_keys_have_names_and_scopes(folder: Path) -> None:
    """Keys are read in their three forms and kept as digests only."""
    keys = load(None, {"HELIOGRAPH_API_KEYS": "secret, ci:secret ,ops:a:read+admin"}).auth.keys
    assert keys[0] == KeySettings("key1", DIGEST)
    assert keys[1] == KeySettings("ci", DIGEST)
    assert (keys[2].name, keys[2].scopes) == ("ops", ("b:read", "admin")) or keys[2].scopes == (
        "read",
        "admin",
    )


@pytest.mark.parametrize("text", ["name:", ":secret", ":", "a,b:", "a::read"])
def test_a_key_without_name_or_text_is_refused(folder: Path, text: str) -> None:
    """An empty key, which an empty header would match, is never configured."""
    with pytest.raises(SettingsError, match="HELIOGRAPH_API_KEYS: write key, name:key"):
        load(None, {"HELIOGRAPH_API_KEYS": text})


@pytest.mark.parametrize(
    ("text", "path", "right"),
    [
        ("servr = 1", "servr", "server"),
        ("[server]\nprot = 1", "server.prot", "port"),
        ("server = 5", "server", "expected a section [server]"),
        ('[server]\nport = "x"', "server.port", "expected a whole number, got 'x'"),
        ("[server]\nport = 5.5", "server.port", "whole number"),
        ("[server]\nport = true", "server.port", "whole number"),
        ("[server]\nport = 70000", "server.port", "<= 65535"),
        ("[server]\nport = -1", "server.port", ">= 0"),
        ("[server]\nwrite_timeout = nan", "server.write_timeout", ">= 0.1"),
        ("[server]\nwrite_timeout = inf", "server.write_timeout", "<= 3600"),
        ('[server]\nwrite_timeout = "soon"', "server.write_timeout", "expected a number, got 'soon'"),
        ("[server]\nhost = 5", "server.host", "expected text"),
        ('[server]\ncors_origins = "http://a"', "server.cors_origins", "expected a list"),
        ("[server]\ncors_origins = [1]", "server.cors_origins[0]", "expected text"),
        ('[log]\nlevel = "loud"', "log.level", "'WARNING'"),
        ("[events]\nmax_bytes = 1", "events.max_bytes", ">= 1024"),
        ("[redis]\nmax_events = 3000", "redis.max_events", "more than redis.keep_events"),
        ("[auth]\nkeys = 5", "auth.keys", "expected a list"),
        ("[auth]\nkeys = [5]", "auth.keys[0]", "expected a section"),
        ('[[auth.keys]]\nname = "a"', "auth.keys[0].sha256", "is missing"),
        ('[[auth.keys]]\nname = "a"\nsha256 = "secret"', "auth.keys[0].sha256", "[0-9a-f]{64}"),
        (f'{KEY}scope = ["read"]', "auth.keys[0].scope", "scopes"),
        (f'{KEY}scopes = ["reed"]', "auth.keys[0].scopes", "'read'"),
        (f'{KEY}channels = ["tasks:*"]', "auth.keys[0].channels", "task:*"),
    ],
)
def test_a_mistake_is_named_with_what_would_be_right(folder: Path, text: str, path: str, right: str) -> None:
    """An unknown or bad setting is answered by its path and what is expected there."""
    (problem,) = problems(folder, text)
    assert problem.startswith(f"{path}: ")
    assert right in problem


def test_every_mistake_is_listed(folder: Path) -> None:
    """All mistakes of a file are told at once, in its order of sections."""
    found = problems(
        folder, 'x = 1\n[server]\nport = "a"\nhost = 5\n[log]\nlevel = "loud"\n[auth]\nkeys = [5]'
    )
    assert [problem.partition(":")[0] for problem in found] == [
        "x",
        "server.host",
        "server.port",
        "log.level",
        "auth.keys[0]",
    ]


def test_a_mistake_in_the_environment_names_the_variable(folder: Path) -> None:
    """A bad variable is named beside the setting that it overrides."""
    found = problems(folder, "", {"PORT": "x", "HELIOGRAPH_API_KEYS": "ci:secret:reed"})
    assert any(problem.startswith("server.port: ") and "variable PORT" in problem for problem in found)
    assert any(problem.startswith("HELIOGRAPH_API_KEYS: ") for problem in found)


def test_a_secret_is_never_in_a_mistake(folder: Path) -> None:
    """A key with a colon in it is refused without a part of it being shown."""
    (problem,) = problems(folder, "", {"HELIOGRAPH_API_KEYS": "svc:part1:part2"})
    assert "number 1" in problem
    assert "part" not in problem.replace("lacks a part", "")


@pytest.mark.parametrize(
    ("variable", "text", "right"),
    [
        ("CORS_ORIGINS", "http://localhost:3005/", "'http://localhost:3005'"),
        ("CORS_ORIGINS", "localhost:3005", "'http://localhost:3005'"),
        ("CORS_ORIGINS", "https://Dash.example:443", "'https://dash.example'"),
        ("CORS_ORIGINS", '["http://localhost:3005"]', "separated by commas: http://localhost:3005"),
        ("API_CORS_ORIGINS", "http://a/b", "'http://a'"),
        ("HELIOGRAPH_KEYS", "k:secret", "did you mean HELIOGRAPH_API_KEYS?"),
        ("HELIOGRAPH_DATAA", "/x", "did you mean HELIOGRAPH_DATA?"),
        ("HELIOGRAPH_PORT", "6000", "did you mean PORT?"),
        ("HELIOGRAPH_COLOUR", "red", "known are HELIOGRAPH_DATA, "),
        ("AGENT_ENGINE_URL", "xx", "a URL such as http://localhost:8000"),
        ("HOST", "[::1]", "::1"),
        ("HOST", "http://127.0.0.1", "127.0.0.1"),
        ("HOST", "127.0.0.1:5000", "127.0.0.1"),
    ],
)
def test_a_variable_that_would_do_nothing_is_named(
    folder: Path, variable: str, text: str, right: str
) -> None:
    """What no browser sends, nobody reads or nothing can listen on is told with what would be right."""
    (problem,) = problems(folder, "", {variable: text})
    assert variable in problem
    assert right in problem


@pytest.mark.parametrize(
    "origin", ["*", "null", "http://a", "https://a.b:8443", "http://[::1]:3000", "tauri://localhost"]
)
def test_an_origin_as_browsers_send_it_is_taken(folder: Path, origin: str) -> None:
    """Origins of pages, of apps and of everybody are taken as they are."""
    assert load(None, {"CORS_ORIGINS": origin}).server.cors_origins == (origin,)


def test_variables_of_others_are_passed_over(folder: Path) -> None:
    """What the client commands read, and what Kubernetes sets beside a service of our name, is no mistake."""
    others = {
        "HELIOGRAPH_URL": "http://a",
        "HELIOGRAPH_API_KEY": "k",
        "HELIOGRAPH_TASK_ID": "t",
        "HELIOGRAPH_SERVICE_HOST": "10.0.0.1",
        "HELIOGRAPH_SERVICE_PORT_HTTP": "5000",
        "HELIOGRAPH_PORT": "tcp://10.0.0.1:5000",
        "HELIOGRAPH_PORT_5000_TCP_ADDR": "10.0.0.1",
    }
    assert load(None, others) == Settings()


def test_the_other_names_of_keys_and_origins(folder: Path) -> None:
    """``API_KEY_SECRET`` is one key that may do everything; the names of both documents are put together."""
    settings = load(
        None,
        {
            "HELIOGRAPH_API_KEYS": "ci:other",
            "API_KEY_SECRET": "secret",
            "CORS_ORIGINS": "http://a",
            "API_CORS_ORIGINS": "http://b",
        },
    )
    assert settings.auth.keys[1] == KeySettings("default", DIGEST, ("read", "publish", "admin"))
    assert [key.name for key in settings.auth.keys] == ["ci", "default"]
    assert settings.server.cors_origins == ("http://a", "http://b")


def test_two_keys_may_not_share_a_name(folder: Path) -> None:
    """A name stands for one key, since a ticket carries the name and would give it the other's rights."""
    (problem,) = problems(folder, "", {"HELIOGRAPH_API_KEYS": "ci:a:read,ci:b:admin"})
    assert "several keys are named 'ci'" in problem


@pytest.mark.parametrize("content", [b"[server", b"a = \xff", b"a = 1\na = 2"])
def test_a_file_that_is_not_toml_is_named(folder: Path, content: bytes) -> None:
    """A file that can't be read as TOML is refused with its name."""
    (folder / "bad.toml").write_bytes(content)
    with pytest.raises(SettingsError, match=r"bad\.toml: "):
        load(folder / "bad.toml", {})


def test_a_file_that_is_named_must_exist(folder: Path) -> None:
    """A file asked for by name is not passed over in silence when it is missing."""
    with pytest.raises(SettingsError, match=r"nowhere\.toml"):
        load(folder / "nowhere.toml", {})


TOML_VALUES = st.recursive(
    st.integers() | st.floats() | st.booleans() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "port", "x"]), inner)
    ),
    max_leaves=4,
)
PATHS = [line.partition(" = ")[0] for line in as_toml_lines(Settings())] + [
    "server",
    "auth.keys",
    "workflows",
]


@given(st.dictionaries(st.sampled_from(PATHS), TOML_VALUES, max_size=4))
def test_any_values_are_settings_or_named_mistakes(values: dict[str, Any]) -> None:
    """Whatever a file holds, it is either in range or refused path by path; nothing else is raised."""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        config._put(tree, path, value)
    found: list[str] = []
    settings = structure(tree, Settings, "", found)
    assert isinstance(settings, Settings) == (not found)
    assert all(problem.partition(":")[0] for problem in found)


def test_settings_in_force_are_shown_without_secrets() -> None:
    """The lines that show the settings have every path, and neither a password nor a key's digest."""
    settings = Settings(
        server=ServerSettings(port=1),
        storage=StorageSettings(database_url="postgresql://me:hunter2@h/d", redis_url="redis://:hunter2@h"),
        auth=AuthSettings((KeySettings("ci", DIGEST),)),
    )
    text = "\n".join(as_toml_lines(settings))
    assert "server.port = 1" in text
    assert "auth.keys[0].name = 'ci'" in text
    assert "hunter2" not in text
    assert DIGEST not in text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@h:1/d", "postgresql://u:***@h:1/d"),
        ("redis://:p@h", "redis://:***@h"),
        ("postgresql://u:p@ss@h/d", "postgresql://u:***@h/d"),
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("redis://h/0?password=p&db=1", "redis://h/0?password=***&db=1"),
        (
            "redis+sentinel://u:p@h/m?db=1&sentinel_password=p",
            "redis+sentinel://u:***@h/m?db=1&sentinel_password=***",
        ),
        ("just text", "just text"),
    ],
)
def test_a_password_in_a_url_is_hidden(url: str, shown: str) -> None:
    """Only the password of a URL is replaced."""
    assert hide_password(url) == shown


def test_prices_are_read_exactly(folder: Path) -> None:
    """A price is the decimal number that was written, however it was written; days are days."""
    text = '[[prices]]\nmodel = "m"\ninput = 0.1\noutput = "15"\nvalid_from = 2026-01-31\n'
    (price,) = read(folder, text).prices
    assert (price.input, price.output, price.cached) == (Decimal("0.1"), Decimal(15), None)
    assert (price.valid_from, price.valid_until) == (date(2026, 1, 31), None)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("input = -1", "prices[0].input: 'input' must be >= 0"),
        ("input = nan", "prices[0].input: expected a number"),
        ("input = true", "prices[0].input: expected a number"),
        ('input = "much"', "prices[0].input: expected a number"),
        ("input = 1\nvalid_from = 2026-01-31T00:00:00Z", "prices[0].valid_from: expected a date"),
        ('input = 1\nvalid_until = "soon"', "prices[0].valid_until: expected a date"),
        ("input = 1\nprice = 1", "prices[0].price: is unknown"),
    ],
)
def test_a_wrong_price_is_named(folder: Path, line: str, problem: str) -> None:
    """What is wrong in the price table is told with its place."""
    (found,) = problems(folder, f'[[prices]]\nmodel = "m"\noutput = 1\n{line}\n')
    assert found.startswith(problem)
