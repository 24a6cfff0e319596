-- Sees to an entry that was handed out.
-- KEYS: the topic; the group's leases.
-- ARGV: the group; the entry; and to have it kept or handed out again, if it is still with this
-- member: the member, which delivery it was, in how many milliseconds it may be handed out.
-- 1: it is done. 0: it is somebody else's. 2: the topic no longer holds it.
local topic, leases, group, id = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local member, attempt, after = ARGV[3], ARGV[4], ARGV[5]
if not member then
  redis.call('XACK', topic, group, id)
  redis.call('ZREM', leases, id)
  return 1
end
local pending = redis.call('XPENDING', topic, group, id, id, 1)[1]
if not pending or pending[2] ~= member or pending[4] ~= tonumber(attempt) then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- Its idle time begins anew, and it does not count as a delivery.
if not redis.call('XCLAIM', topic, group, member, 0, id, 'JUSTID')[1] then
  redis.call('XACK', topic, group, id)
  redis.call('ZREM', leases, id)
  return 2
end
redis.call('ZADD', leases, now + tonumber(after), id)
redis.call('EXPIRE', leases, 86400)
return 1
