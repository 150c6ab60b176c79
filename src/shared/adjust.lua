-- adjust.lua - ends a ticket and adds what was used. ARGV: ticket ('' = none), then per use kind
-- (r, c), name, add, window end, period.
if ARGV[1] ~= '' then end_ticket(ARGV[1]) end
local ttl = 0
for a = 2, #ARGV, 5 do
  local kind, name, add, ends = ARGV[a], ARGV[a + 1], tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  if kind == 'r' then
    local level = redis.call('HGET', group, name .. '.l')
    if level then
      redis.call('HSET', group, name .. '.l',
                 int(math.max(0, tonumber(level) + add * tonumber(ARGV[a + 4]))))
    end
  else
    local c = redis.call('HMGET', group, name .. '.e', name .. '.u')
    local have, used = tonumber(c[1] or 0), tonumber(c[2] or 0)
    if have < ends and now < ends and add > 0 then
      have, used = ends, 0
      redis.call('HSET', group, name .. '.e', int(ends), name .. '.h', '0')
    end
    if have == ends then
      redis.call('HSET', group, name .. '.u', int(clamp(used + add)))
      ttl = math.max(ttl, ends - now)
    end
  end
end
keep(ttl)
return 1
