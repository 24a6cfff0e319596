-- Has a message held, once.
-- KEYS: the topic; what remembers its id.
-- ARGV: for how many seconds ids are remembered; then fields and values.
-- 0: it is held. 1: it was before. 2: it is held, and its id is not remembered. -1: there is no topic.
local remembers = KEYS[2]
local before = redis.call('GET', remembers)
-- One that is no longer there is not held, whoever has deleted it.
if before and redis.call('XRANGE', KEYS[1], before, before)[1] then
  return 1
end
local id = redis.call('XADD', KEYS[1], 'NOMKSTREAM', '*', unpack(ARGV, 2))
if not id then
  return -1
end
-- After it, since it is held whether this is possible or not.
if redis.pcall('SET', remembers, id, 'EX', ARGV[1])['err'] then
  return 2
end
return 0
