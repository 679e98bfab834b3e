-- Sets aside what is past the retention and held by nobody, one page of the stream.
--
-- ARGV: group, retention in ms, the id to start from.
-- Returns the id to go on from, or '' after the last page.
local failed = refusal()
if failed then
  return failed
end
local PAGE = 100
local now = now_ms()
local horizon = now - tonumber(ARGV[2])
local page = horizon > 0 and redis.call('XRANGE', stream, ARGV[3], number(horizon), 'COUNT', PAGE) or {}
for _, entry in ipairs(page) do
  local id = entry[1]
  local lease = redis.call('ZSCORE', leases, id)
  if not lease or tonumber(lease) <= now then
    local pending = redis.call('XPENDING', stream, group, id, id, 1)[1]
    set_aside(id, entry[2], pending and pending[4] or 0)
  end
end
return #page == PAGE and '(' .. page[#page][1] or ''
