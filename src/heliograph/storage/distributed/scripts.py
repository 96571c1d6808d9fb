"""The Lua scripts that run inside Redis, each one atomic there: the files in ``lua/``.

``KEYS[1]`` is the stream, ``KEYS[2]`` the state (a hash), ``KEYS[3]`` the newest ``seq`` of each channel
(a hash). The state's fields:

- ``generation``, ``lost``, ``server``: the number of the last preparation, the number of the last one that
  found events missing, and the run id of the prepared server (see ``redis_stream``);
- ``head``: the newest id, ``<ms>-<n>``; never less than the stream's newest;
- ``oldest``: the stream has every event from this id on; missing: it has all events there ever were;
- ``removed``: retention may have removed events up to this id from the store;
- ``losses``: the ranges of ids in which events may be lost, as ``<after>:<before>``, joined by commas;
- ``walk``: the token of the newest walk over the channels.

An entry of the stream has one field, ``event``, a JSON object of everything but the id.
"""

from __future__ import annotations

from importlib.resources import files


def _read(name: str) -> str:
    return files(__package__).joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


APPEND = _read("append")
READ = _read("read")
TRIM = _read("trim")
REMOVE = _read("remove")
RAISE = _read("raise")
SET_STATE = _read("set_state")
TRY = _read("try")
RENEW = _read("renew")
ADVANCE = _read("advance")
RELEASE = _read("release")
WALK = _read("walk")
FORGET = _read("forget")
