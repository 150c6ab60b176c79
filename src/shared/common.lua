-- common.lua - put in front of each script about buckets: what memory.c does, in Redis.
--
-- KEYS[1]: hash of a group. A rate has the fields name.l (level) and name.t (when that was), a
-- counter name.e (end of its window), name.u (used) and name.h (held); t:ID says what the ticket ID
-- holds: "name amount window_end;" for each counter. KEYS[2]: sorted set of the group's tickets by
-- their ends. Times are milliseconds of Redis' clock. Lua's numbers are exact up to 2^53.
local group, tickets = KEYS[1], KEYS[2]
local MAX = 4503599627370496 -- SHARED_AMOUNT_MAX
local GRACE = 3600000 -- kept longer than needed: a clock may step

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function int(n)
  return string.format('%.0f', n)
end

local function clamp(n)
  return math.max(0, math.min(n, MAX))
end

-- Both keys, so that the tickets do not vanish before what they hold.
local function keep(ms)
  ms = math.max(ms, 0) + GRACE
  for i, key in ipairs(KEYS) do
    if redis.call('PTTL', key) < ms then
      redis.call('PEXPIRE', key, int(ms + (i - 1) * GRACE))
    end
  end
end

local function end_ticket(id)
  local held = redis.call('HGET', group, 't:' .. id)
  if held then
    for name, amount, ends in string.gmatch(held, '(%S+) (%S+) (%S+);') do
      local c = redis.call('HMGET', group, name .. '.e', name .. '.h')
      if c[1] == ends then
        redis.call('HSET', group, name .. '.h', int(clamp(tonumber(c[2] or 0) - tonumber(amount))))
      end
    end
    redis.call('HDEL', group, 't:' .. id)
  end
  redis.call('ZREM', tickets, id)
end

local function end_expired()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', tickets, '-inf', int(now), 'LIMIT', 0, 1000)) do
    end_ticket(id)
  end
end

-- Which window now is in: its end, and the end up to which a counter that is ahead may be.
local function window_at(w0, w1, w2)
  if now < w0 then return w0, w1 end
  if now < w1 then return w1, w2 end
  return w2, w2
end

-- used, held and end of a counter's window, which begins anew when it has to.
local function roll(name, w0, w1, w2)
  local ends, next_end = window_at(w0, w1, w2)
  local c = redis.call('HMGET', group, name .. '.e', name .. '.u', name .. '.h')
  local have = tonumber(c[1] or 0)
  if have < ends or have > next_end then
    return 0, 0, ends
  end
  return tonumber(c[2] or 0), tonumber(c[3] or 0), have
end
