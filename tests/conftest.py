"""What every test needs: signals as in a terminal.

A shell starts what it runs in the background with SIGINT and SIGQUIT ignored, nohup adds SIGHUP, and children
inherit that. The tests send these signals, whoever started them.
"""

from __future__ import annotations

import signal

for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)
