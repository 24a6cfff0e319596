-- Deletes an entry of a topic.
-- KEYS: the topic. ARGV: the entry.
return redis.call('XDEL', KEYS[1], ARGV[1])
