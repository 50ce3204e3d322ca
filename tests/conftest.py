"""Where ``CI`` is set, hypothesis tries 40 examples in the place of its 100, so that all ends in minutes.

Ctrl-C ends a run also where a shell started the tests in its background, which ignores it.
"""

import os
import signal

from hypothesis import settings

settings.register_profile("ci", max_examples=40)
if os.environ.get("CI"):
    settings.load_profile("ci")

signal.signal(signal.SIGINT, signal.default_int_handler)
