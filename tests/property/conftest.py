"""No deadline for one example: how fast a loaded machine is, is not what these tests are about."""

from hypothesis import settings

settings.register_profile("evergrant", deadline=None)
settings.load_profile("evergrant")
