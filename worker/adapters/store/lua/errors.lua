-- What a script's error is: its own, or the store's. Comes before the text of each script (scripts.py).
--
-- A script fails by itself at a record that it cannot read, or at a mistake in it: to run it again will not help. Such an
-- error, and no other, is answered with the code EVERGRANT. Everything else means that the store cannot do it now (OOM,
-- READONLY, NOREPLICAS, a permission that was taken away, a code that nobody has heard of yet), and is answered as the
-- server says it. So an error that is not known here delays an answer, and never sets one aside.
--
-- What a command says within a script differs between servers. Redis 6.2 puts the place before it and a hyphen before
-- its code ('@user_script: 12: -OOM command not allowed'), later ones and Valkey only the code. Lua's own errors begin
-- with 'user_script:' everywhere.

-- What a command says of data that is of another kind than the script's. It found them, so it can run.
local ABOUT_DATA = {'^WRONGTYPE ', '^ERR hash value is not '}

-- What the script says of itself; nil where the store cannot run it now.
local function own_error(problem)
  problem = tostring(problem)
  if problem:find('^user_script:') then return problem end
  for _, about_data in ipairs(ABOUT_DATA) do
    if problem:find(about_data) then return problem end
  end
end

-- Run a script; its error as the reply, which begins with a code.
local function answered(script)
  local has_ended, reply = pcall(script)
  if has_ended then return reply end
  local own = own_error(reply)
  if own then return {err = 'EVERGRANT ' .. own} end
  local said = tostring(reply):gsub('^@user_script: ?%d+: ', ''):gsub('^%-', ''):gsub('%s+$', '')
  return {err = said:find('^%u+ ') and said or 'ERR ' .. said}
end
