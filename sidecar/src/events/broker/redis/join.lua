-- Joins a group, and clears away members that have left it.
-- KEYS: the topic; the group's leases.
-- ARGV: the group; 1 if topic and group may be created; after what it starts; for how many
-- milliseconds a member must have been silent; how many are looked at; what names of members begin with.
-- 0: it is joined. -1: there is no topic. -2: there is no group.
local topic, leases, group = KEYS[1], KEYS[2], ARGV[1]
local kind = redis.call('TYPE', topic)['ok']
if kind ~= 'stream' and kind ~= 'none' then
  return redis.error_reply('WRONGTYPE the key of this topic is no stream')
end
local there = kind == 'stream' and redis.pcall('XPENDING', topic, group)
if there and there['err'] and not string.find(there['err'], 'NOGROUP', 1, true) then
  return there
end
if not there or there['err'] then
  if ARGV[2] ~= '1' then
    return kind == 'none' and -1 or -2
  end
  redis.call('XGROUP', 'CREATE', topic, group, ARGV[3], 'MKSTREAM')
  -- Of a group that had the same name.
  redis.call('DEL', leases)
  return 0
end
-- To be allowed to join is not to be allowed this. One with anything pending is left, as that would go with it.
local members = redis.pcall('XINFO', 'CONSUMERS', topic, group)
if members['err'] then
  return 0
end
for number = 1, math.min(#members, tonumber(ARGV[5])) do
  local member = {}
  for at = 1, #members[number], 2 do
    member[members[number][at]] = members[number][at + 1]
  end
  local ours = string.sub(member['name'], 1, #ARGV[6]) == ARGV[6]
  if ours and member['pending'] == 0 and member['idle'] > tonumber(ARGV[4]) then
    redis.pcall('XGROUP', 'DELCONSUMER', topic, group, member['name'])
  end
end
return 0
