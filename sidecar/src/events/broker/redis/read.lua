-- Reads a topic, in no group.
-- KEYS: the topic.
-- ARGV: the id of the entry to read behind, or $: then only where the topic ends is told; how many at most; how many bytes
-- are enough; how many bytes an entry may have.
-- What was found (id, fields or how many bytes they have); the id that is read behind. -1 when nothing is there.
local topic, behind = KEYS[1], ARGV[1]
local most, enough, longest = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local kind = redis.call('TYPE', topic)['ok']
if kind == 'none' then
  return -1
elseif kind ~= 'stream' then
  return redis.error_reply('WRONGTYPE the key of this topic is no stream')
end
if behind == '$' then
  local last = redis.call('XREVRANGE', topic, '+', '-', 'COUNT', 1)[1]
  return { {}, last and last[1] or '0-0' }
end
local found, bytes = {}, 0
-- One at a time, since nobody knows how long they are.
while #found < most and bytes < enough do
  local entry = redis.call('XRANGE', topic, '(' .. behind, '+', 'COUNT', 1)[1]
  if not entry then
    break
  end
  local fields, length = entry[2], 0
  for _, part in ipairs(fields) do
    length = length + #part
  end
  if length > longest then
    fields = length
  else
    bytes = bytes + length
  end
  behind = entry[1]
  found[#found + 1] = { behind, fields }
end
return { found, behind }
