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
