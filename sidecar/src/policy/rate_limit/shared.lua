-- All limits of one request at once: either each of them counts it, or none does.
-- For each key seven arguments: kind, requests, per (microseconds) or window, burst, cost, lease, shadow.
-- Answers three numbers for each: whether it passes; what is used; the lease, or until when.

local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local DAY = 86400000000

-- Beginning and end of the month, by the days since 1970 (the civil calendar, UTC).
local function month()
  local z = math.floor(now / DAY) + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local first = math.floor((153 * mp + 2) / 5)
  local day = doy - first
  -- The months from March on have these days; February ends the year.
  local days = math.floor((153 * (mp + 1) + 2) / 5) - first
  if mp == 11 then
    local year = yoe + era * 400 + 1
    local leap = year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0)
    days = leap and 29 or 28
  end
  local from = (z - 719468 - day) * DAY
  return from, from + days * DAY
end

local function window(name)
  if name == 'month' then
    return month()
  end
  local length = name == 'day' and DAY or 3600000000
  local from = now - now % length
  return from, from + length
end

local answer, writes, passes = {}, {}, true
for i = 1, #KEYS do
  local a = (i - 1) * 7
  local kind, cost, shadow = ARGV[a + 1], tonumber(ARGV[a + 5]), ARGV[a + 7] == '1'
  local requests = tonumber(ARGV[a + 2])
  local ok, used, more = false, 0, 0
  if kind == 'quota' then
    local from, to = window(ARGV[a + 3])
    local held = redis.call('HMGET', KEYS[i], 'u', 't')
    if tonumber(held[2] or '-1') == from then
      used = tonumber(held[1] or '0')
    end
    ok = used + cost <= requests
    more = to - now
    if ok then
      writes[i] = { used + cost, from, requests, math.ceil(more / 1000) + 1 }
    end
  else
    local per, burst, lease = tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4]), tonumber(ARGV[a + 6])
    local held = redis.call('HMGET', KEYS[i], 'u', 't', 'n')
    used = tonumber(held[1] or '0')
    local at, rate = tonumber(held[2] or '0'), tonumber(held[3] or ARGV[a + 2])
    if rate ~= requests then
      -- Another rate than before: what drains goes on to take as long.
      used = math.ceil(used / rate * requests)
    end
    local since = math.max(now - at, 0)
    if since >= used / requests then
      used = 0
    else
      used = used - since * requests
    end
    local holds = burst * per
    ok = used + cost * per <= holds
    if ok then
      if lease > 0 and used + (cost + lease) * per <= holds / 2 then
        more = lease
      end
      local taken = used + (cost + more) * per
      writes[i] = { taken, now, requests, math.ceil(taken / requests / 1000) + 1 }
    end
  end
  passes = passes and (ok or shadow)
  answer[#answer + 1] = ok and 1 or 0
  answer[#answer + 1] = used
  answer[#answer + 1] = more
end
if passes then
  for i, write in pairs(writes) do
    redis.call('HSET', KEYS[i], 'u', string.format('%.0f', write[1]), 't', string.format('%.0f', write[2]), 'n', string.format('%.0f', write[3]))
    redis.call('PEXPIRE', KEYS[i], string.format('%.0f', write[4]))
  end
end
return answer
