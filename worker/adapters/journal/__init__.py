"""The redo log of answers: on this machine's disk before their commit, and a while after it.

With strict rotation a lost answer costs a person's consent. So each answer is written and synced here first.
The answers of a killed process are committed by whoever takes its journal over, and a store that lost
its last writes is given them back.

A data directory holds one directory for each process, and in it a lock and numbered segments.

entry.py    one commit as bytes
frame.py    entries in a file: found again behind a torn or damaged place
disk.py     what is asked of the file system, and how a refusal is told
segment.py  one preallocated file, appended to until it is sealed
home.py     one journal's directory, and the lock that says whether its owner lives
chain.py    one process's segments: where the next answer goes
journal.py  one process's journal: many writers, one sync
directory.py   the journals of the dead: taken_over, read, removed in time
"""
