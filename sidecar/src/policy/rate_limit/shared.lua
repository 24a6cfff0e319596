-- All limits of one request at once: either each of them counts it, or none does.
-- For each key ten arguments: kind, requests, per (microseconds) or window, burst, cost, shadow, full (the
-- microseconds in which a whole burst drains), lease, back (what was not used of the last lease), since (when
-- that was given). Answers three numbers for each: whether it passes; what is used; the lease, or until when;
-- and at last the time.

local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local DAY = 86400000000
-- For so long, in microseconds, what is not used of a lease can be given back.
local SLOT = 2000000

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

local function text(number)
  return string.format('%.0f', number)
end

-- The least that was used in this slot and in the one before; nothing, when that is not known. As much has
-- not drained of any lease that was given in them, so that giving it back lets nothing pass twice.
local function least(held, used, slot)
  local seen = tonumber(held[7] or '-1')
  if held[1] and (seen < 0 or seen > slot) then
    return 0, 0
  elseif seen == slot then
    return math.min(tonumber(held[5]), used), tonumber(held[6])
  elseif seen == slot - 1 then
    return used, tonumber(held[5])
  end
  return used, used
end

local function bucket(key, a, writes, i)
  local requests, per, burst = tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
  local cost, full, lease = tonumber(ARGV[a + 5]), ARGV[a + 7], tonumber(ARGV[a + 8])
  local back, since = tonumber(ARGV[a + 9]), tonumber(ARGV[a + 10])
  local held = redis.call('HMGET', key, 'u', 't', 'n', 'f', 'l', 'b', 's')
  local used, at, rate = tonumber(held[1] or '0'), tonumber(held[2] or '0'), tonumber(held[3] or ARGV[a + 2])
  local edited = rate ~= requests
  if edited then
    -- Another rate than before: what drains goes on to take as long.
    used = math.ceil(used / rate * requests)
  end
  local passed = math.max(now - at, 0)
  if passed >= used / requests then
    used = 0
  else
    used = used - passed * requests
  end
  if held[4] and held[4] ~= full then
    -- An edit: as large a part of the burst stays used.
    used = math.ceil(used * (tonumber(full) / tonumber(held[4])))
    edited = true
  end
  local slot = math.floor(now / SLOT)
  local low, before = least(held, used, slot)
  if edited then
    low, before = 0, 0
  end
  local returned = 0
  if back > 0 and since <= now and now - since < SLOT then
    returned = math.min(back * per, low, before)
    used, low, before = used - returned, low - returned, before - returned
  end
  local write = function(taken)
    return { taken, requests, full, low, before, slot, math.ceil(taken / requests / 1000) + 1 }
  end
  local holds, more = burst * per, 0
  local ok = used + cost * per <= holds
  if ok then
    if lease > 0 and used + (cost + lease) * per <= holds / 2 then
      more = lease
    end
    writes[i] = write(used + (cost + more) * per)
  end
  -- Kept whether it passes or not; a clock that went back would else be waited for.
  local kept = nil
  if held[1] and (edited or returned > 0 or at > now) then
    kept = write(used)
  end
  return ok, used, more, kept
end

local answer, writes, kept, passes = {}, {}, {}, true
for i = 1, #KEYS do
  local a = (i - 1) * 10
  local kind, cost, shadow = ARGV[a + 1], tonumber(ARGV[a + 5]), ARGV[a + 6] == '1'
  local ok, used, more = false, 0, 0
  if kind == 'quota' then
    local from, to = window(ARGV[a + 3])
    local held = redis.call('HMGET', KEYS[i], 'u', 't')
    if tonumber(held[2] or '-1') == from then
      used = tonumber(held[1] or '0')
    end
    ok = used + cost <= tonumber(ARGV[a + 2])
    more = to - now
    if ok then
      writes[i] = { used + cost, from, math.ceil(more / 1000) + 1 }
    end
  else
    ok, used, more, kept[i] = bucket(KEYS[i], a, writes, i)
  end
  passes = passes and (ok or shadow)
  answer[#answer + 1] = ok and 1 or 0
  answer[#answer + 1] = used
  answer[#answer + 1] = more
end
for i = 1, #KEYS do
  local write = passes and writes[i] or kept[i]
  if write then
    if #write == 3 then
      redis.call('HSET', KEYS[i], 'u', text(write[1]), 't', text(write[2]))
    else
      redis.call('HSET', KEYS[i], 'u', text(write[1]), 't', text(now), 'n', text(write[2]), 'f', write[3],
        'l', text(write[4]), 'b', text(write[5]), 's', text(write[6]))
    end
    redis.call('PEXPIRE', KEYS[i], text(write[#write]))
  end
end
answer[#answer + 1] = now
return answer
