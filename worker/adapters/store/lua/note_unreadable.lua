-- Note that a process could not read a grant's record, so that operators hear of it.
--
-- ARGV: id.
-- Twice is once.

note_unreadable(ARGV[1])
return 1
