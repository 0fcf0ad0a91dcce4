"""Make what the machines of tests/system begin with, or find it made: their disk and the packages.

python -m tests.support.prepare    # `./dev test` calls it beside the tests before them
"""

from __future__ import annotations

from tests.support.deb import build, newer
from tests.support.image import image

if __name__ == "__main__":
    newer(build())
    image()
