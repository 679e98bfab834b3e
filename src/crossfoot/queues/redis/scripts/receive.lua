-- Leases up to `limit` entries: released ones whose time has come, then those whose lease is over, then new ones.
--
-- ARGV: group, limit, lease in ms, token of this receive, retention in ms (0: none), most deliveries of one entry (0: any),
-- the bytes after which no more is added.
-- Returns: deliveries as {id, attempt, fields}; ids of delivered entries that somebody trimmed or deleted; how many entries
-- were looked at and not delivered, because they are gone, set aside or buried; ms until something held or delayed is due
-- (-1: nothing is); the last id the group was given, after which a new entry is.
local limit, lease, token = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local retention, most, room = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local MOVED, PAGE, STEP = 100, 100, 10 -- bounds of one call; the next one goes on
local now = now_ms()
local given, gone, instead = {}, {}, 0

local failed = refusal()
if failed then
  return failed
end
local ours = groups()
if not ours then
  return redis.error_reply('NOGROUP the stream has no group ' .. group)
end

local function later(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  local last_ms, last_seq = string.match(ours['last-delivered-id'], '^(%d+)-(%d+)$')
  ms, seq, last_ms, last_seq = tonumber(ms), tonumber(seq), tonumber(last_ms), tonumber(last_seq)
  return ms > last_ms or (ms == last_ms and seq > last_seq)
end

local function give(id, attempt, fields)
  if retention > 0 and now - born(id) >= retention then
    set_aside(id, fields, attempt - 1)
    instead = instead + 1
  elseif most > 0 and attempt > most then
    bury(id, fields, attempt - 1, 'delivered ' .. number(most) .. ' times, the most that the queue allows')
    instead = instead + 1
  else
    redis.call('ZREM', returned, id)
    redis.call('HSET', holders, id, token)
    redis.call('ZADD', leases, number(now + lease), id)
    given[#given + 1] = { id, attempt, fields }
    for _, field in ipairs(fields) do
      room = room - #field
    end
  end
end

local function give_again(id)
  local fields = fields_of(id)
  if not fields then
    let_go(id)
    redis.call('XACK', stream, group, id)
    gone[#gone + 1] = id
    instead = instead + 1
  elseif #redis.call('XCLAIM', stream, group, CONSUMER, 0, id) > 0 then
    give(id, redis.call('XPENDING', stream, group, id, id, 1)[1][4], fields)
  elseif later(id) then -- the group was made anew, and has not come to it yet
    let_go(id)
    instead = instead + 1
  else -- acked by somebody else, and still in the stream: rather twice than never
    redis.call('XCLAIM', stream, group, CONSUMER, 0, id, 'FORCE')
    give(id, redis.call('XPENDING', stream, group, id, id, 1)[1][4], fields)
  end
end

local function give_due(due)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', number(now), 'LIMIT', 0, limit - #given)) do
    if room <= 0 then
      return
    end
    give_again(id)
  end
end

-- Messages whose delay is over enter the stream. A server that is full takes none; it must hand out what it has all the same.
for _, message in ipairs(redis.call('ZRANGEBYSCORE', delayed, '-inf', number(now), 'LIMIT', 0, MOVED)) do
  local list = unpacked(message)
  local entered = redis.pcall('XADD', stream, '*', unpack(list, 2)) -- the first makes it unlike any other
  if type(entered) == 'table' and entered['err'] then
    break
  end
  redis.call('ZREM', delayed, message)
end

-- Deliveries by other means than this script have no lease; once they are idle for as long as one, they count as released.
if ours['pending'] > redis.call('ZCARD', leases) + redis.call('ZCARD', returned) then
  local page = redis.call('XPENDING', stream, group, redis.call('GET', cursor) or '-', '+', PAGE)
  for _, one in ipairs(page) do
    local id, idle = one[1], one[3]
    if idle >= lease and not redis.call('ZSCORE', leases, id) and not redis.call('ZSCORE', returned, id) then
      redis.call('ZREM', returned, id)
      redis.call('ZADD', returned, number(now), id)
    end
  end
  redis.call('DEL', cursor)
  if #page == PAGE then
    redis.call('SET', cursor, '(' .. page[#page][1])
  end
end

give_due(returned)
give_due(leases)

local steps = 0
while #given < limit and room > 0 and steps < limit do
  local count = math.min(STEP, limit - #given)
  local got = redis.call('XREADGROUP', 'GROUP', group, CONSUMER, 'COUNT', count, 'STREAMS', stream, '>')
  if not got then
    break
  end
  for _, entry in ipairs(got[1][2]) do
    give(entry[1], 1, entry[2])
  end
  steps = steps + 1
end

local due = -1
for _, key in ipairs({ leases, returned, delayed }) do
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  if first[2] then
    local left = math.max(0, tonumber(first[2]) - now)
    due = due < 0 and left or math.min(due, left)
  end
end
return { given, gone, instead, due, groups()['last-delivered-id'] }
