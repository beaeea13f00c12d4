"""How a process stays known to the store, and repairs a store that lost writes.

membership.py  the two loops of a process: its heartbeat, and its recovery
heartbeat.py   tells the store every second that this process lives
recovery.py    gives back what the store may have forgotten, once in each epoch
replay.py      offers a journal's answers to the store, the newest first
takeover.py    finds the journals of dead processes, replays them, and removes them after their retention
disk_watch.py  notices that the disk cannot take another answer
"""
