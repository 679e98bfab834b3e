-- Counts, as of one moment.
--
-- ARGV: group.
-- Returns: ready, in flight, delayed, dead.
local failed = refusal()
if failed then
  return failed
end
local now = '(' .. number(now_ms())
local held = redis.call('ZCOUNT', leases, now, '+inf')
local waiting = redis.call('ZCOUNT', returned, now, '+inf')
local to_come = redis.call('ZCOUNT', delayed, now, '+inf')
local ready = redis.call('XLEN', stream) - held - waiting + redis.call('ZCARD', delayed) - to_come
return { math.max(0, ready), held, waiting + to_come, redis.call('XLEN', dead) }
