"""`python -m tank_agent` is the `tank` command."""

from __future__ import annotations

import sys

from tank_agent.cli.main import main

sys.exit(main())
