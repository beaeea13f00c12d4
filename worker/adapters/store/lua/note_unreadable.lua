-- Note that a process could not read a grant's record, so that operators hear of it.

note_unreadable(id)
return 1
