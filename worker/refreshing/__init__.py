"""What a refresh needs beside the order of its effects.

drain.py        claims what one client has due, and keeps requests in flight
in_flight.py    how many attempts may be in flight, wait for a slot, or be stored at once
attribution.py  whose failure it was: the grant's, the client's or the endpoint's
answers.py      an answer, from when it is read until the store has it
patience.py     repeats a call to the store while it is away
"""
