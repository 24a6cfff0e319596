-- Counts what is before a group.
-- KEYS: the topic. ARGV: the group; how many are counted one by one.
-- How many were not delivered; how many are not acknowledged.
local topic, group = KEYS[1], ARGV[1]
for _, one in ipairs(redis.call('XINFO', 'GROUPS', topic)) do
  local said = {}
  for at = 1, #one, 2 do
    said[one[at]] = one[at + 1]
  end
  if said['name'] == group then
    local waiting = said['lag']
    if not waiting then
      -- Before 7.0, and for a group that started in the middle, the server does not know. Counted,
      -- as far as that is quick; after that, the stream has at most as many.
      local most = tonumber(ARGV[2])
      waiting = #redis.call('XRANGE', topic, '(' .. said['last-delivered-id'], '+', 'COUNT', most)
      if waiting == most then
        waiting = redis.call('XLEN', topic)
      end
    end
    return { waiting, said['pending'] }
  end
end
return redis.error_reply('NOGROUP the group is no more')
