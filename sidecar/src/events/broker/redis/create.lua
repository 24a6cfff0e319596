-- Creates a topic with nothing in it, if it is not there.
-- KEYS: the topic.
local kind = redis.call('TYPE', KEYS[1])['ok']
if kind == 'none' then
  -- A group brings an empty stream with it, which stays when the group goes.
  redis.call('XGROUP', 'CREATE', KEYS[1], 'meshwright', '$', 'MKSTREAM')
  redis.call('XGROUP', 'DESTROY', KEYS[1], 'meshwright')
elseif kind ~= 'stream' then
  return redis.error_reply('WRONGTYPE the key of this topic is no stream')
end
return 0
