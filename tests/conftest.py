"""Settings for all tests."""

from hypothesis import settings

# The first run of a program derives and checks it, which no deadline per example can allow for.
settings.register_profile("throughtime", deadline=None)
settings.load_profile("throughtime")
