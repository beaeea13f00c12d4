"""The redo log of answers: on this machine's disk before their commit, and for a while after it.

With strict rotation a lost answer costs a person's consent, so each answer is written and synced here first.
When a process is killed, another takes its journal over and commits its answers. A store that lost its last
writes gets them back from here.

A deployment's journals are in one directory, with one directory for each process. That one holds a lock and
numbered segments.

format.py     how answers stand in a file: one commit as bytes, framed, found again where the file is damaged
directory.py  one process's directory and its lock; abandoned journals: taken over, read, removed in time
following.py  which refresh tokens the other journals show to be used up, whoever holds them
segments.py   one process's segments: room set aside, answers appended, synced, sealed, removed
journal.py    one process's journal: many writers, one sync
reading.py    every answer of every journal, as it stands
places.py     where journals and their files are
"""
