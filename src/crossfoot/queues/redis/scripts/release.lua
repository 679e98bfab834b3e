-- Hands entries back, to be delivered again in `delay` ms from now. The receipt is void from here on.
--
-- ARGV: group, delay in ms, then entry id and token of each receipt.
-- Returns, for each: 'done'; 'void' when the receipt is; 'gone' when somebody trimmed or deleted the entry.
local failed = refusal()
if failed then
  return failed
end
local due, answers = number(now_ms() + tonumber(ARGV[2])), {}
for at = 3, #ARGV, 2 do
  local id, token = ARGV[at], ARGV[at + 1]
  local answer = 'void'
  if mine(id, token) then
    local there = fields_of(id)
    let_go(id)
    if there then
      redis.call('ZADD', returned, due, id)
      answer = 'done'
    else
      redis.call('XACK', stream, group, id)
      answer = 'gone'
    end
  end
  answers[#answers + 1] = answer
end
return answers
