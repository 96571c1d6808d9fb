-- Raises the newest seq of channels to at least what ARGV says: channel, seq, channel, seq, …
for at = 1, #ARGV, 2 do
  if tonumber(redis.call('HGET', KEYS[3], ARGV[at]) or 0) < tonumber(ARGV[at + 1]) then
    redis.call('HSET', KEYS[3], ARGV[at], ARGV[at + 1])
  end
end
