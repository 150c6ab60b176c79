-- renew.lua - tickets last longer. ARGV: ms, ticket...
end_expired()
local ms = tonumber(ARGV[1])
for i = 2, #ARGV do
  redis.call('ZADD', tickets, int(now + ms), ARGV[i])
end
keep(ms)
return #ARGV - 1
