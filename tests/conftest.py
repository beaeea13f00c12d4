"""What every test stands on."""

import signal

# A shell starts its background jobs with SIGINT ignored, and children inherit that: Ctrl-C would mean nothing
# to the commands that are under test.
signal.signal(signal.SIGINT, signal.default_int_handler)
