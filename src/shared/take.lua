-- take.lua - all buckets or none. ARGV: look (1 or 0), ticket ('' = none), its ms, then per bucket
-- kind (r, c, t), name, limit, period, spend, hold, window x 3.
-- Reply: admitted, refused, retry ms, now, then per bucket remaining, reset ms, used, held, window
-- end.
local look, ticket, ticket_ms = ARGV[1] == '1', ARGV[2], tonumber(ARGV[3])
local count = (#ARGV - 3) / 9
local buckets = {}
local admitted, refused, retry = 1, 0, 0

end_expired()
local live = redis.call('ZCARD', tickets)

local function drained(b)
  local level, full, elapsed = b.level, b.limit * b.period, now - b.at
  if level > full then level = full end
  if elapsed <= 0 then return level end
  if elapsed >= b.period or elapsed * b.limit >= level then return 0 end
  return level - elapsed * b.limit
end

local function div_up(a, n)
  if a <= 0 then return 0 end
  return math.floor((a - 1) / n) + 1
end

-- nil: it fits. Milliseconds until it could; -1: nobody knows.
local function wait_for(b)
  if b.limit < 0 then return nil end
  if b.kind == 't' then
    if live < b.limit then return nil end
    return -1
  end
  if b.kind == 'c' then
    if b.used < b.limit and b.used + b.held + b.spend + b.hold <= b.limit then return nil end
    return math.max(1, b.ends - now)
  end
  if b.limit == 0 then return b.period end
  local over = drained(b) + b.period - b.limit * b.period
  if over <= 0 then return nil end
  return div_up(over, b.limit)
end

for i = 1, count do
  local a = 3 + (i - 1) * 9
  local b = {kind = ARGV[a + 1], name = ARGV[a + 2], limit = tonumber(ARGV[a + 3]),
             period = tonumber(ARGV[a + 4]), spend = tonumber(ARGV[a + 5]),
             hold = tonumber(ARGV[a + 6])}
  if b.kind == 'c' then
    b.used, b.held, b.ends =
      roll(b.name, tonumber(ARGV[a + 7]), tonumber(ARGV[a + 8]), tonumber(ARGV[a + 9]))
  elseif b.kind == 'r' then
    local r = redis.call('HMGET', group, b.name .. '.l', b.name .. '.t')
    b.level, b.at = tonumber(r[1] or 0), tonumber(r[2] or 0)
  end
  buckets[i] = b
  local wait = wait_for(b)
  if wait and admitted == 1 and not look then
    admitted, refused, retry = 0, i - 1, math.max(0, wait)
  end
end

if admitted == 1 and not look then
  local fields, held, ttl = {}, '', 0
  local function set(name, value)
    fields[#fields + 1] = name
    fields[#fields + 1] = int(value)
  end
  if ticket ~= '' and redis.call('ZSCORE', tickets, ticket) then -- taken before
    end_ticket(ticket)
    for _, b in ipairs(buckets) do
      if b.kind == 'c' then b.held = tonumber(redis.call('HGET', group, b.name .. '.h') or 0) end
    end
  end
  for _, b in ipairs(buckets) do
    if b.kind == 'r' then
      b.level = b.limit > 0 and drained(b) + b.period or 0
      b.at = now
      set(b.name .. '.l', b.level)
      set(b.name .. '.t', b.at)
      ttl = math.max(ttl, b.period)
    elseif b.kind == 'c' then
      b.used, b.held = clamp(b.used + b.spend), clamp(b.held + b.hold)
      set(b.name .. '.e', b.ends)
      set(b.name .. '.u', b.used)
      set(b.name .. '.h', b.held)
      if b.hold > 0 then
        held = held .. b.name .. ' ' .. int(b.hold) .. ' ' .. int(b.ends) .. ';'
      end
      ttl = math.max(ttl, b.ends - now)
    end
  end
  if ticket ~= '' then
    redis.call('ZADD', tickets, int(now + ticket_ms), ticket)
    live = redis.call('ZCARD', tickets)
    ttl = math.max(ttl, ticket_ms)
    if held ~= '' then
      fields[#fields + 1] = 't:' .. ticket
      fields[#fields + 1] = held
    end
  end
  if #fields > 0 then redis.call('HSET', group, unpack(fields)) end
  keep(ttl)
end

local reply = {admitted, refused, retry, now}
local function tell(remaining, reset, used, held, ends)
  for _, v in ipairs({remaining, reset, used, held, ends}) do reply[#reply + 1] = v end
end
for _, b in ipairs(buckets) do
  if b.kind == 't' then
    tell(b.limit < 0 and -1 or clamp(b.limit - live), 0, live, 0, 0)
  elseif b.kind == 'c' then
    tell(b.limit < 0 and -1 or clamp(b.limit - b.used - b.held), clamp(b.ends - now), b.used,
         b.held, b.ends)
  elseif b.limit < 0 then
    tell(-1, 0, 0, 0, 0)
  else
    local level = b.limit > 0 and drained(b) or 0
    tell(b.limit - div_up(level, b.period), b.limit > 0 and div_up(level, b.limit) or 0, 0, 0, 0)
  end
end
return reply
