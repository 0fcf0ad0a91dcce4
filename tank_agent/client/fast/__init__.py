"""All that a cold `tank exec` imports: it takes less time than Python's own start.

`start` writes JSON by itself and asks by `http`, which speaks HTTP/1.1 on `_socket`; `session` carries the
bytes. Before the agent was asked, nothing here imports socket, typing, json, argparse or msgspec.
"""
