-- Moves entries to the dead letters: there, out of the group and out of the stream in one step.
--
-- ARGV: group, reason, then entry id, token, attempt and packed fields of each delivery. An entry that somebody trimmed
-- while it was held is buried as it was delivered.
-- Returns, for each: 'done', or 'void' when the receipt is.
local failed = refusal()
if failed then
  return failed
end
local answers = {}
for at = 3, #ARGV, 4 do
  local id, token, attempt, delivered = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local answer = 'void'
  if mine(id, token) then
    bury(id, fields_of(id) or unpacked(delivered), tonumber(attempt), ARGV[2])
    answer = 'done'
  end
  answers[#answers + 1] = answer
end
return answers
