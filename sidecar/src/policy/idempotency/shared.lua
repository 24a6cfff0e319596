-- One key of idempotency. KEYS[1] is its name; ARGV[1] says what is done, ARGV[2] who does it.
--   claim fingerprint timeout window (both in milliseconds)
--     {0}: it was nobody's and is the caller's now; {1}: another request's; {2, answer}: answered;
--     {3}: that of a call under way; {4}: that of a call whose answer is not kept
--   answered answer | unknown | release
--     {1}: done; {0}: it is not the caller's
-- Fields: f fingerprint, s state (c under way, a answered, u unknown), o owner, e when a call under way
-- must have ended, a answer. A call whose owner has gone is unknown from then on.

local held = redis.call('HMGET', KEYS[1], 'f', 's', 'o', 'e')
local done = ARGV[1]

if done == 'claim' then
  local t = redis.call('TIME')
  local now = t[1] * 1000 + math.floor(t[2] / 1000)
  if not held[2] then
    local ends = string.format('%.0f', now + tonumber(ARGV[4]))
    redis.call('HSET', KEYS[1], 'f', ARGV[3], 's', 'c', 'o', ARGV[2], 'e', ends)
    redis.call('PEXPIRE', KEYS[1], ARGV[5])
    return { 0 }
  end
  if held[1] ~= ARGV[3] then
    return { 1 }
  end
  if held[2] == 'a' then
    return { 2, redis.call('HGET', KEYS[1], 'a') }
  end
  if held[2] == 'c' and tonumber(held[4]) > now then
    return { 3 }
  end
  return { 4 }
end

if held[3] ~= ARGV[2] then
  return { 0 }
end
if done == 'release' then
  redis.call('DEL', KEYS[1])
elseif done == 'answered' then
  redis.call('HSET', KEYS[1], 's', 'a', 'a', ARGV[3])
  redis.call('HDEL', KEYS[1], 'o', 'e')
else
  redis.call('HSET', KEYS[1], 's', 'u')
  redis.call('HDEL', KEYS[1], 'o', 'e')
end
return { 1 }
