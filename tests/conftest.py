"""How property tests run: without deadlines of their own, and the same examples on every machine."""

from hypothesis import settings

settings.register_profile("everywhere", deadline=None, derandomize=True, print_blob=False)
settings.register_profile("search", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("everywhere")
