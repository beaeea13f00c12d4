"""How a process stays known to the store, and repairs a store that lost writes.

membership.py  the two loops of a process: its heartbeat, and its recovery
heartbeat.py   tells the store every second that this process lives
recovery.py    gives back what the store may have forgotten, once in each epoch
takeover.py    finds the journals of dead processes, replays them and removes them in time
disk_watch.py  notices that the disk cannot take another answer, and says why nothing is claimed
"""
