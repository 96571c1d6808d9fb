-- Writes ARGV[2] into KEYS[2] if the lease KEYS[1] is still held with the token ARGV[1].
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
return 1
