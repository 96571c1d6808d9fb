"""The Lua scripts that run inside Redis, each one atomic there.

``KEYS[1]`` is the stream, ``KEYS[2]`` the state (a hash), ``KEYS[3]`` the newest ``seq`` of each channel
(a hash). The state's fields:

- ``generation``, ``lost``, ``server``: which preparation this is, which one last found events missing,
  and the run of the server that was prepared (see ``redis``);
- ``head``: the newest id, ``<ms>-<n>``; at least the stream's own;
- ``oldest``: every event from this id on is in the stream; missing: all there ever were;
- ``removed``: retention may have removed events up to this id from the store.

An entry of the stream has one field, ``event``, a JSON object of everything but the id.
"""

from __future__ import annotations

APPEND = """
-- ARGV: prefix of idempotency keys, their milliseconds to live, most events in the stream, lease, token,
-- then for each request the number of its drafts, and for each draft its channel, a fingerprint of 24
-- characters with its key behind it (or nothing), and the event's JSON as it goes on after the seq.
-- Answers for each request its ids, joined by commas, or the index of the draft whose key is taken.
redis.replicate_commands()
local stream, state, heads = KEYS[1], KEYS[2], KEYS[3]
local known = redis.call('HMGET', state, 'generation', 'head')
if not known[1] then return redis.error_reply('UNPREPARED') end
if ARGV[4] ~= '' and redis.call('GET', ARGV[4]) ~= ARGV[5] then return redis.error_reply('DEPOSED') end
if redis.call('XLEN', stream) >= tonumber(ARGV[3]) then return redis.error_reply('FULL') end
local ms, n = string.match(known[2] or '0-0', '(%d+)-(%d+)')
ms, n = tonumber(ms), tonumber(n)
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if now > ms then ms, n = now, -1 end
local answers, at, id = {}, 6, nil
while at <= #ARGV do
  local first, last = at + 1, at + 3 * tonumber(ARGV[at])
  local taken, within = nil, {}
  for draft = first, last, 3 do
    local marked = ARGV[draft + 1]
    if marked ~= '' and not taken then
      local mark, key = string.sub(marked, 1, 24), string.sub(marked, 25)
      local before = redis.call('GET', ARGV[1] .. key)
      before = before and string.sub(before, 1, 24) or within[key]
      if before and before ~= mark then taken = (draft - first) / 3 end
      within[key] = mark
    end
  end
  if taken then
    answers[#answers + 1] = taken
  else
    local ids = {}
    for draft = first, last, 3 do
      local marked, kept = ARGV[draft + 1], nil
      if marked ~= '' then kept = redis.call('GET', ARGV[1] .. string.sub(marked, 25)) end
      if kept then
        ids[#ids + 1] = string.sub(kept, 25)
      else
        n = n + 1
        if n >= 1048576 then ms, n = ms + 1, 0 end
        local next = string.format('%.0f-%d', ms, n)
        local seq = redis.call('HINCRBY', heads, ARGV[draft], 1)
        local added = redis.pcall('XADD', stream, next, 'event', '{"seq":' .. seq .. ARGV[draft + 2])
        if type(added) == 'table' then -- an error, which undoes nothing by itself: there must be no hole
          redis.call('HINCRBY', heads, ARGV[draft], -1)
          if id then redis.call('HSET', state, 'head', id) end
          return added
        end
        id = next
        if marked ~= '' then
          redis.call('SET', ARGV[1] .. string.sub(marked, 25), string.sub(marked, 1, 24) .. id, 'PX', ARGV[2])
        end
        ids[#ids + 1] = id
      end
    end
    answers[#answers + 1] = table.concat(ids, ',')
  end
  at = last + 1
end
if id then redis.call('HSET', state, 'head', id) end
return answers
"""

READ = """
-- ARGV: XRANGE or XREVRANGE, its two bounds, most events, and the bytes after which no more are taken.
-- Answers the state, the ids and the events, which are a consistent picture of one moment; the latter two
-- joined by newlines, which no JSON of ours has, since a client reads two long texts far faster than many.
local state = redis.call('HMGET', KEYS[2], 'generation', 'lost', 'head', 'oldest', 'removed')
if not state[1] then return redis.error_reply('UNPREPARED') end
local ids, events, from, left, bytes = {}, {}, ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
while left > 0 and bytes > 0 do
  local some = redis.call(ARGV[1], KEYS[1], from, ARGV[3], 'COUNT', math.min(left, 100))
  for _, entry in ipairs(some) do
    ids[#ids + 1] = entry[1]
    events[#events + 1] = entry[2][2]
    bytes = bytes - #entry[2][2]
  end
  if #some < math.min(left, 100) then break end
  left = left - #some
  from = '(' .. some[#some][1]
end
return {state, table.concat(ids, '\\n'), table.concat(events, '\\n')}
"""

TRIM = """
-- ARGV: the first id that must stay, how many events stay in any case, how many to remove at most.
-- Answers how many were removed.
redis.replicate_commands()
local spare = math.min(redis.call('XLEN', KEYS[1]) - tonumber(ARGV[2]), tonumber(ARGV[3]))
if spare <= 0 then return 0 end
local removed = redis.call('XTRIM', KEYS[1], 'MINID', '~', ARGV[1], 'LIMIT', spare)
if removed > 0 then
  redis.call('HSET', KEYS[2], 'oldest', redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1][1])
end
return removed
"""

REMOVE = """
-- ARGV: the newest id that retention removes, the first one that may stay.
redis.call('HSET', KEYS[2], 'removed', ARGV[1])
if redis.call('XTRIM', KEYS[1], 'MINID', ARGV[2]) > 0 then
  local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
  redis.call('HSET', KEYS[2], 'oldest', first and first[1] or ARGV[2])
end
"""

RAISE = """
-- Raises the newest seq of channels to at least what ARGV says: channel, seq, channel, seq, …
for at = 1, #ARGV, 2 do
  if tonumber(redis.call('HGET', KEYS[3], ARGV[at]) or 0) < tonumber(ARGV[at + 1]) then
    redis.call('HSET', KEYS[3], ARGV[at], ARGV[at + 1])
  end
end
"""

SET_STATE = """
-- ARGV: fields and values of the state; kept unless a later generation is there.
local fields = {}
for at = 1, #ARGV, 2 do fields[ARGV[at]] = ARGV[at + 1] end
local known = tonumber(redis.call('HGET', KEYS[2], 'generation') or 0)
if known < tonumber(fields.generation) then redis.call('HSET', KEYS[2], unpack(ARGV)) end
"""

TRY = """
-- Does everything that the other scripts do, to KEYS[4], a key that nobody else uses; fails with the first
-- thing that the user may not do.
redis.replicate_commands()
local stream, state, mine = KEYS[1], KEYS[2], KEYS[4]
local calls = {
  {'TIME'}, {'XLEN', stream}, {'XREVRANGE', stream, '+', '+', 'COUNT', '1'}, {'HMGET', state, 'head'},
  {'XADD', mine, '*', 'a', 'b'}, {'XRANGE', mine, '+', '+', 'COUNT', '1'}, {'XTRIM', mine, 'MINID', '0'},
  {'DEL', mine}, {'HSET', mine, 'a', '1'}, {'HINCRBY', mine, 'a', '1'}, {'HGET', mine, 'a'}, {'DEL', mine},
  {'SET', mine, 'a'}, {'GET', mine}, {'PEXPIRE', mine, '1'}
}
for _, call in ipairs(calls) do
  local answer = redis.pcall(unpack(call))
  if type(answer) == 'table' and answer.err and
    (string.find(answer.err, 'user executing') or string.find(answer.err, 'ACL failure')) then
    return redis.error_reply(answer.err .. ': ' .. call[1])
  end
end
"""

RENEW = """
-- Keeps the lease KEYS[1] for ARGV[2] milliseconds more if it is still held with the token ARGV[1].
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

ADVANCE = """
-- Writes ARGV[2] into KEYS[2] if the lease KEYS[1] is still held with the token ARGV[1].
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
return 1
"""

RELEASE = """
-- Gives up the lease KEYS[1] if it is still held with the token ARGV[1].
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""
