-- Does everything that the other scripts do, to KEYS[4], a key that nobody else uses; fails with the first
-- thing that the user may not do.
redis.replicate_commands()
local stream, state, mine = KEYS[1], KEYS[2], KEYS[4]
local calls = {
  {'TIME'}, {'XLEN', stream}, {'XREVRANGE', stream, '+', '+', 'COUNT', '1'}, {'HMGET', state, 'head'},
  {'XADD', mine, '*', 'a', 'b'}, {'XRANGE', mine, '+', '+', 'COUNT', '1'}, {'XTRIM', mine, 'MINID', '0'},
  {'DEL', mine}, {'HSET', mine, 'a', '1'}, {'HINCRBY', mine, 'a', '1'}, {'HGET', mine, 'a'}, {'HSCAN', mine, '0'},
  {'HDEL', mine, 'a'}, {'DEL', mine},
  {'SET', mine, 'a'}, {'GET', mine}, {'PEXPIRE', mine, '1'}
}
for _, call in ipairs(calls) do
  local answer = redis.pcall(unpack(call))
  if type(answer) == 'table' and answer.err and
    (string.find(answer.err, 'user executing') or string.find(answer.err, 'ACL failure')) then
    return redis.error_reply(answer.err .. ': ' .. call[1])
  end
end
