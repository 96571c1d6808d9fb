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
return {state, table.concat(ids, '\n'), table.concat(events, '\n')}
