"""What every test needs: signals as in a terminal, and random input that may take its time.

A shell starts what it runs in the background with SIGINT and SIGQUIT ignored, nohup adds SIGHUP, and children
inherit that. The tests send these signals, whoever started them.
"""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

# By default an example that takes 200 ms fails, and so does input that is slow to make: on a busy machine
# any of them is now and then.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)
