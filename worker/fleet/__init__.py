"""The use cases.

tokens.py     an access token, or a refresh, on demand
revoking.py   a grant is ended at its provider, then forgotten
interrupts.py work that an interrupt must not break off
selecting.py  an operation on many grants at once
importing.py  import lines -> stored grants
kept_replies.py  replies that could not be read: shown, adopted, given up, and what becomes of their grants
report.py     the fleet at a glance
idleness.py   why nothing is tried
examining.py  the token endpoints, asked whether they are what the settings say
forecast.py   why a grant is due when it is
sweeping.py   what the scheduled tasks do
"""
