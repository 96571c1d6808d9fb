-- ARGV: prefix of idempotency keys, their milliseconds to live, most events in the stream, lease, token,
-- then for each request the number of its drafts, and for each draft its channel, a fingerprint of 24
-- characters with its key behind it (or nothing), and the event's JSON as it goes on after the seq. Behind the
-- number of drafts may stand "@" and the number that the channel of the first one must stand at.
-- Answers the generation, the head before, and for each request its ids, joined by commas, or the index of the
-- draft whose key is taken, or -1 if the channel stands elsewhere. The id of an event that is new has its seq
-- behind a colon.
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
local answers, at, id = {known[1], known[2] or '0-0'}, 6, nil
while at <= #ARGV do
  local count, follows = tonumber(ARGV[at]), nil
  local taken, within = nil, {}
  if not count then
    count, follows = string.match(ARGV[at], '(%d+)@(%d+)')
    if (redis.call('HGET', heads, ARGV[at + 1]) or '0') ~= follows then taken = -1 end
  end
  local first, last = at + 1, at + 3 * count
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
        ids[#ids + 1] = id .. ':' .. seq
      end
    end
    answers[#answers + 1] = table.concat(ids, ',')
  end
  at = last + 1
end
if id then redis.call('HSET', state, 'head', id) end
return answers
