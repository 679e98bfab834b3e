-- Stands before every other script of a queue. Each runs as one step: nobody sees it half done.
--
-- KEYS, all in one hash slot, and ARGV[1] are the same for all of them:
--   stream    what is open: the entries nobody has acked
--   leases    entry id -> when its lease is over, in milliseconds of the server's clock
--   holders   entry id -> token of the receive that delivered it; the receipt's second half
--   returned  entry id -> when a released entry is to be delivered again
--   delayed   message  -> when it is to enter the stream
--   dead      stream of dead letters
--   expired   entry id -> message past the retention, until the book has it
--   cursor    where the search for deliveries without a lease goes on
local stream, leases, holders, returned = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local delayed, dead, expired, cursor = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local group = ARGV[1]

if redis.replicate_commands then
  redis.replicate_commands() -- what was done is replicated, not the script: before version 7 that had to be asked for
end

local CONSUMER = 'crossfoot' -- who holds what is in `holders`; so dead consumers never pile up
local AT_ONCE = 7000 -- names and values that one command is given; Lua has no room for more than 8,000

local function number(value)
  return string.format('%.0f', value)
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function born(id)
  return tonumber(string.match(id, '^%d+'))
end

-- The fields of an entry, or nil when somebody trimmed or deleted it.
local function fields_of(id)
  local got = redis.call('XRANGE', stream, id, id)
  return got[1] and got[1][2]
end

-- Whether the receipt is good: nobody was given the entry since, and it was not settled.
local function mine(id, token)
  return redis.call('HGET', holders, id) == token
end

-- Forgets lease and holder. It takes no memory, and once a script has written something a full server lets the rest of it
-- through: so this comes before what adds.
local function let_go(id)
  redis.call('HDEL', holders, id)
  redis.call('ZREM', leases, id)
  redis.call('ZREM', returned, id)
end

-- Takes an entry out of group and stream; false when it was in neither.
local function remove(id)
  return redis.call('XACK', stream, group, id) + redis.call('XDEL', stream, id) > 0
end

-- Ours among the groups of the stream, and the name of another one, if there is any.
local function groups()
  local ours, other
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local told = {}
    for at = 1, #info, 2 do
      told[info[at]] = info[at + 1]
    end
    if told['name'] == group then
      ours = told
    else
      other = told['name']
    end
  end
  return ours, other
end

-- What is acked is deleted, which another group would never know of: refuse before anything is done.
local function refusal()
  if redis.call('EXISTS', stream) == 0 then
    return redis.error_reply('NOSTREAM there is no such stream')
  end
  local _, other = groups()
  if other then
    return redis.error_reply('MANYGROUPS ' .. other)
  end
  local kind = redis.call('TYPE', dead)['ok']
  if kind ~= 'stream' and kind ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. dead .. ' is no stream')
  end
end

-- A list of strings as one: each as LENGTH:BYTES.
local function packed(list)
  local parts = {}
  for at, text in ipairs(list) do
    parts[at] = #text .. ':' .. text
  end
  return table.concat(parts)
end

local function unpacked(text)
  local list, at = {}, 1
  while at <= #text do
    local colon = string.find(text, ':', at, true)
    local length = tonumber(string.sub(text, at, colon - 1))
    list[#list + 1] = string.sub(text, colon + 1, colon + length)
    at = colon + length + 1
  end
  return list
end

local function told(fields, more)
  local all = {}
  for _, one in ipairs(fields) do
    all[#all + 1] = one
  end
  for _, one in ipairs(more) do
    all[#all + 1] = one
  end
  return all
end

-- The fields of an entry that has more than can be written: all of them as one, and its body.
local function condensed(fields)
  local few = { 'crossfoot-fields', packed(fields) }
  for at = 1, #fields, 2 do
    if fields[at] == 'body' then
      few[3], few[4] = 'body', fields[at + 1]
    end
  end
  return few
end

-- Into the dead letters and out of the queue.
local function bury(id, fields, attempt, reason)
  let_go(id)
  if #fields > AT_ONCE then
    fields = condensed(fields)
  end
  local all = told(fields, { 'crossfoot-reason', reason, 'crossfoot-attempt', number(attempt), 'crossfoot-id', id })
  redis.call('XADD', dead, '*', unpack(all))
  remove(id)
end

-- Past the retention: out of the queue, and kept until the book has it.
local function set_aside(id, fields, attempt)
  let_go(id)
  redis.call('HSET', expired, id, packed(told(fields, { 'crossfoot-attempt', number(attempt) })))
  remove(id)
end
