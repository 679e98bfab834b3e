-- Keeps one message until its delay is over; sent as text, so it stands alone.
--
-- KEYS: the stream, the delayed. ARGV: delay in ms, the packed message.
-- Returns nothing when there is no such stream.
if redis.replicate_commands then
  redis.replicate_commands() -- see `common.lua`
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  return false
end
local time = redis.call('TIME')
local due = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[1])
redis.call('ZADD', KEYS[2], string.format('%.0f', due), ARGV[2])
return 'delayed'
