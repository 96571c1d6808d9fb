-- ARGV: a token, the cursor of HSCAN, the most channels to look at in one go.
-- Makes the walk over the channels the token's, and answers the generation, the id of the stream's newest
-- event, the next cursor, and some channels, each with its newest seq.
redis.replicate_commands()
local generation = redis.call('HGET', KEYS[2], 'generation')
if not generation then return redis.error_reply('UNPREPARED') end
redis.call('HSET', KEYS[2], 'walk', ARGV[1])
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local found = redis.call('HSCAN', KEYS[3], ARGV[2], 'COUNT', ARGV[3])
return {generation, newest and newest[1] or '0-0', found[1], found[2]}
