-- Delete a grant, readable or not.
--
-- Returns done, gone, other_status (it has not, or no more, the status that was asked for), or unknown_format (a newer
-- release wrote its record).

local r = try(load, id)
if r == nil and only_if then return 'other_status' end
if r == nil then
  if is_of_newer_format(id) then return 'unknown_format' end
  drop_unreadable(id)
  audit_change('delete', by, audit_kept, id)
  return 'done'
end
if not r then return 'gone' end
if only_if and r[STATUS] ~= only_if then return 'other_status' end

drop(id, r)
audit_change('delete', by, audit_kept, id, r)
return 'done'
