-- ARGV: a token, a generation, then channel, seq, channel, seq, …
-- Forgets the channels that still stand at that seq, if the walk is still the token's and no other run of
-- Redis was prepared since; answers how many it forgot.
local known = redis.call('HMGET', KEYS[2], 'walk', 'generation')
if known[1] ~= ARGV[1] or known[2] ~= ARGV[2] then return 0 end
local forgotten = 0
for at = 3, #ARGV, 2 do
  if redis.call('HGET', KEYS[3], ARGV[at]) == ARGV[at + 1] then
    forgotten = forgotten + redis.call('HDEL', KEYS[3], ARGV[at])
  end
end
return forgotten
