-- seed.lua - counters are raised to what is known elsewhere. ARGV: per counter name, at least,
-- window x 3.
local ttl = 0
for a = 1, #ARGV, 5 do
  local name, at_least, asked = ARGV[a], tonumber(ARGV[a + 1]), tonumber(ARGV[a + 3])
  local used, held, ends = roll(name, tonumber(ARGV[a + 2]), asked, tonumber(ARGV[a + 4]))
  if ends == asked then
    redis.call('HSET', group, name .. '.e', int(ends), name .. '.u', int(math.max(used, at_least)),
               name .. '.h', int(held))
    ttl = math.max(ttl, ends - now)
  end
end
keep(ttl)
return 1
