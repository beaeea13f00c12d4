"""The redo log of answers: on this machine's disk before their commit, and a while after it.

With strict rotation an answer that is lost costs a person's consent. So each is written and synced here
first: a killed process's answers are committed by whoever adopts its journal, and a store that lost its last
writes is given them back.

A data directory holds one directory for each process, and in it a lock and numbered segments.

entry.py    one commit as bytes
frame.py    entries in a file: found again behind a torn or damaged place
disk.py     what is asked of the file system, and how a refusal is told
segment.py  one preallocated file, appended to until it is sealed
home.py     one journal's directory, and the lock that says whether its owner lives
chain.py    one process's segments: where the next answer goes
journal.py  one process's journal: many writers, one sync
volume.py   the journals of the dead: adopted, read, removed in time
"""
