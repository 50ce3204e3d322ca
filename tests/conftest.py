"""Where ``CI`` is set, hypothesis tries 40 examples in the place of its 100, so that all ends in minutes."""

import os

from hypothesis import settings

settings.register_profile("ci", max_examples=40)
if os.environ.get("CI"):
    settings.load_profile("ci")
