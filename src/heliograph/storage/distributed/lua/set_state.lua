-- ARGV: fields and values of the state; kept unless a later generation is there.
local fields = {}
for at = 1, #ARGV, 2 do fields[ARGV[at]] = ARGV[at + 1] end
local known = tonumber(redis.call('HGET', KEYS[2], 'generation') or 0)
if known < tonumber(fields.generation) then redis.call('HSET', KEYS[2], unpack(ARGV)) end
