-- lease.lua - KEYS[1]: hash with o (the holder) and w (somebody wants it). ARGV: operation (a, r, f
-- for release, w), owner, ms, the channel for wishes, the name.
-- Reply: mine, wanted, holder.
local key, op, owner, ms = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local holder = redis.call('HGET', key, 'o')
if not holder and op == 'a' then
  redis.call('HSET', key, 'o', owner)
  holder = owner
end
if holder == owner and op == 'f' then
  redis.call('DEL', key)
  holder = false
elseif holder == owner and op ~= 'w' then
  redis.call('PEXPIRE', key, ms)
elseif holder and holder ~= owner and op == 'w' then
  redis.call('HSET', key, 'w', '1')
  redis.call('PUBLISH', ARGV[4], ARGV[5] .. ' ' .. holder .. ' ' .. ARGV[6])
end
local wanted = holder and redis.call('HGET', key, 'w')
return {holder == owner and 1 or 0, wanted and 1 or 0, holder or ''}
