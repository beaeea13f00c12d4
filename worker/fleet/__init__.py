"""The use cases.

tokens.py     an access token, or a refresh, on demand
importing.py  import lines -> stored grants
report.py     the fleet at a glance
forecast.py   why a grant is due when it is
sweeping.py   what the scheduled tasks do
"""
