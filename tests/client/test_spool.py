from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.client import spool as spool_module
from heliograph.client.spool import About, Spool, spools

ABOUT = About("http://service", "t1", "a command")
Items = Callable[[Spool], list[dict[str, Any]]]


def numbers(data: bytes) -> list[int]:
    """Return the numbers in lines that were read."""
    return [orjson.loads(line)["n"] for line in data.splitlines()]


def test_in_order_and_once(spool: Spool) -> None:
    """What is appended is read in order, and no more once it was acknowledged."""
    spool.append([{"n": 1}, {"n": 2}])
    assert numbers(spool.read(1)) == [1]
    assert numbers(spool.read(10_000)) == [1, 2]
    spool.advance(len(spool.read(1)))
    spool.append([{"n": 3}])
    rest = spool.read(10_000)
    assert numbers(rest) == [2, 3]
    spool.advance(len(rest))
    assert (spool.unsent, spool.read(10_000)) == (0, b"")


def test_keys(spool: Spool, items: Items, tmp_path: Path) -> None:
    """Every item gets a key of its own, also those that another process appends later."""
    spool.append([{"n": 1}, {"n": 2}])
    spool.close()
    adopted = Spool.adopt(spool.folder)
    assert adopted is not None
    with adopted:
        adopted.append([{"n": 3}])
        assert len({item["key"] for item in items(adopted)}) == 3


def test_segments(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments are deleted as they are acknowledged, so the disk holds little more than what is unsent."""
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 100)
    for n in range(30):
        spool.append([{"n": n}])
    before = len(list(spool.folder.glob("*.ndjson")))
    seen: list[int] = []
    while data := spool.read(10):
        seen += numbers(data)
        spool.advance(len(data))
    assert seen == list(range(30))
    assert before > 5
    assert len(list(spool.folder.glob("*.ndjson"))) == 1


def test_lock(spool: Spool) -> None:
    """A spool can be adopted once its process has let it go, and then goes on where it was."""
    spool.append([{"n": 1}, {"n": 2}])
    spool.advance(len(spool.read(1)))
    assert Spool.adopt(spool.folder) is None
    spool.close()
    adopted = Spool.adopt(spool.folder)
    assert adopted is not None
    with adopted:
        assert adopted.about == ABOUT
        assert numbers(adopted.read(10_000)) == [2]
        assert adopted.unsent == len(adopted.read(10_000))


def test_removed(spool: Spool, tmp_path: Path) -> None:
    """A spool that is removed is found and adopted no more."""
    assert spools(tmp_path) == [spool.folder]
    spool.remove()
    assert spools(tmp_path) == []
    assert Spool.adopt(spool.folder) is None


def test_half_made(tmp_path: Path) -> None:
    """A folder whose process died while making it is no spool, and no folder at all is none either."""
    (tmp_path / ".half").mkdir()
    (tmp_path / ".half" / "about.json").write_text("{}")
    assert spools(tmp_path) == []
    assert spools(tmp_path / "missing") == []


def test_torn_line(spool: Spool) -> None:
    """A line that was torn by the end of the machine is left out; those before it stay."""
    spool.append([{"n": 1}])
    spool.close()
    with (spool.folder / "00000001.ndjson").open("ab") as file:
        file.write(b'{"n": 2')
    adopted = Spool.adopt(spool.folder)
    assert adopted is not None
    with adopted:
        assert numbers(adopted.read(10_000)) == [1]
        assert adopted.last_item() == {"key": f"{spool.folder.name}/1", "n": 1}


def test_full_disk(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk takes only a part, nothing is appended, and a later try appends it once."""
    spool.append([{"n": 1}])
    real = spool_module._write_all

    def fail(descriptor: int, data: bytes) -> None:
        real(descriptor, data[:5])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(spool_module, "_write_all", fail)
        with pytest.raises(OSError, match="No space"):
            spool.append([{"n": 2}])
    spool.append([{"n": 2}])
    assert numbers(spool.read(10_000)) == [1, 2]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 5)),
        st.tuples(st.just("send"), st.integers(1, 300)),
        st.tuples(st.just("lose answer"), st.integers(1, 300)),
        st.just(("die", 0)),
    ),
    max_size=40,
)


@given(STEPS)
def test_any_history(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]) -> None:
    """Through any appends, sends, lost answers and deaths, every item arrives once by its key, in order."""
    home = tmp_path_factory.mktemp("spools")
    arrived: dict[str, int] = {}

    def arrive(data: bytes) -> None:
        for line in data.splitlines():
            item = orjson.loads(line)
            arrived.setdefault(item["key"], item["n"])

    count = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool_module, "SEGMENT_BYTES", 200)
        spool = Spool.create(home, ABOUT)
        for step, size in [*steps, ("send", 10**6)]:
            match step:
                case "append":
                    spool.append([{"n": count + n} for n in range(size)])
                    count += size
                case "send":
                    data = spool.read(size)
                    arrive(data)
                    spool.advance(len(data))
                case "lose answer":
                    arrive(spool.read(size))
                case "die":
                    spool.close()
                    adopted = Spool.adopt(spool.folder)
                    assert adopted is not None
                    spool = adopted
        while data := spool.read(1000):
            arrive(data)
            spool.advance(len(data))
        assert spool.unsent == 0
        spool.remove()
    assert list(arrived.values()) == list(range(count))
