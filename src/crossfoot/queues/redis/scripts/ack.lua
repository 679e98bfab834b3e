-- Takes entries out of the queue for good.
--
-- ARGV: group, then entry id and token of each receipt.
-- Returns, for each: 'done'; 'void' when the receipt is; 'gone' when somebody else had removed the entry altogether.
local failed = refusal()
if failed then
  return failed
end
local answers = {}
for at = 2, #ARGV, 2 do
  local id, token = ARGV[at], ARGV[at + 1]
  local answer = 'void'
  if mine(id, token) then
    let_go(id)
    answer = remove(id) and 'done' or 'gone'
  end
  answers[#answers + 1] = answer
end
return answers
