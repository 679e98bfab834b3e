-- Leases entries for `lease` ms from now, to those who hold them already.
--
-- ARGV: group, lease in ms, then entry id and token of each receipt.
-- Returns, for each: 'done', or 'void' when the receipt is.
local failed = refusal()
if failed then
  return failed
end
local over, answers = number(now_ms() + tonumber(ARGV[2])), {}
for at = 3, #ARGV, 2 do
  local id, token = ARGV[at], ARGV[at + 1]
  local answer = 'void'
  if mine(id, token) then
    redis.call('ZREM', leases, id) -- first, see `let_go`
    redis.call('ZADD', leases, over, id)
    answer = 'done'
  end
  answers[#answers + 1] = answer
end
return answers
