-- For how many ms the entry has been ready that is delivered next; -1 when none is.
--
-- ARGV: group.
local failed = refusal()
if failed then
  return failed
end
local now, since = now_ms(), nil
local function consider(time)
  if time and time <= now then
    since = since and math.min(since, time) or time
  end
end
for _, key in ipairs({ leases, returned, delayed }) do
  consider(tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]))
end
local ours = groups()
local new = ours and redis.call('XRANGE', stream, '(' .. ours['last-delivered-id'], '+', 'COUNT', 1)[1]
if new then
  consider(math.min(now, born(new[1])))
end
return since and now - since or -1
