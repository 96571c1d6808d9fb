-- ARGV: the newest id that retention removes, the first one that may stay.
redis.call('HSET', KEYS[2], 'removed', ARGV[1])
if redis.call('XTRIM', KEYS[1], 'MINID', ARGV[2]) > 0 then
  local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
  redis.call('HSET', KEYS[2], 'oldest', first and first[1] or ARGV[2])
end
