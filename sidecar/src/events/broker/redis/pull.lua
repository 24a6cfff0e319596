-- Hands out what a group has, each with a lease.
-- KEYS: the topic; the group's leases: entries that were handed out, by when they may be again, in
-- milliseconds of this server's time.
-- ARGV: the group; the member; how many at most; the lease in milliseconds; 1 if what comes again
-- goes first; from where on it is looked for what lacks a lease, or nothing; how many bytes are
-- enough; how many bytes an entry may have.
-- What was found (id, which delivery, fields or how many bytes they have); what is no longer held;
-- 1 if there is more; in how many milliseconds the next lease ends, or -1; the last that the group
-- was delivered, if nothing was found; from where on to look the next time; 1 if nothing was found
-- and nobody of the group has anything, so that nothing can be given back before something new comes.
local topic, leases, group, member = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local most, lease = tonumber(ARGV[3]), tonumber(ARGV[4])
local enough, longest = tonumber(ARGV[7]), tonumber(ARGV[8])
local PAGE = 200
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found, gone, bytes, more = {}, {}, 0, 0

local function full()
  return #found >= most or bytes >= enough
end

local function hand_out(id, attempt, fields)
  local length = 0
  for _, part in ipairs(fields) do
    length = length + #part
  end
  if length > longest then
    fields = length
  else
    bytes = bytes + length
  end
  redis.call('ZADD', leases, now + lease, id)
  found[#found + 1] = { id, attempt, fields }
end

local function again()
  local ids = redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, PAGE)
  for _, id in ipairs(ids) do
    if full() then
      return
    end
    local pending = redis.call('XPENDING', topic, group, id, id, 1)[1]
    local entry = pending and redis.call('XCLAIM', topic, group, member, 0, id)[1]
    if entry and entry[2] then
      hand_out(id, pending[4] + 1, entry[2])
    else
      redis.call('ZREM', leases, id)
      if pending then
        redis.call('XACK', topic, group, id)
        gone[#gone + 1] = id
      end
    end
  end
  if #ids == PAGE then
    more = 1
  end
end

local ended = false
local function for_the_first_time()
  -- One at a time, since nobody knows how long they are.
  while not full() do
    local read = redis.call('XREADGROUP', 'GROUP', group, member, 'COUNT', 1, 'STREAMS', topic, '>')
    local entry = read and read[1][2][1]
    if not entry then
      ended = true
      return
    end
    hand_out(entry[1], 1, entry[2] or {})
  end
end

if ARGV[5] == '1' then
  again()
  for_the_first_time()
else
  for_the_first_time()
  again()
end

-- What others have read as members of the group, and what is left when somebody has deleted the
-- leases: it has one from when it was delivered.
local from = ARGV[6]
if from ~= '' then
  local page = redis.call('XPENDING', topic, group, from, '+', PAGE)
  for _, pending in ipairs(page) do
    if not redis.call('ZSCORE', leases, pending[1]) then
      redis.call('ZADD', leases, now - pending[3] + lease, pending[1])
    end
  end
  from = #page == PAGE and '(' .. page[PAGE][1] or '-'
end

local next, last, rests = -1, '', 0
local first = redis.call('ZRANGE', leases, 0, 0, 'WITHSCORES')
if first[2] then
  next = math.max(0, tonumber(first[2]) - now)
  -- They go if the group does; looked for as above, they are back.
  redis.call('EXPIRE', leases, 86400)
end
if #found == 0 and ended then
  for _, one in ipairs(redis.call('XINFO', 'GROUPS', topic)) do
    local said = {}
    for at = 1, #one, 2 do
      said[one[at]] = one[at + 1]
    end
    if said['name'] == group then
      last = said['last-delivered-id']
      rests = said['pending'] == 0 and 1 or 0
    end
  end
end
return { found, gone, more, next, last, from, rests }
