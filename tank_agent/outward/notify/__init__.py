"""Notifications: what happens on this machine, told once to those in `[notify]` (docs/notifications.md).

rules.py      the table: which event of the journal concerns which notification
memory.py     what is remembered over restarts: topics that were told, and what waits to be sent
decide.py     pure: from events and the state of the machine to notes, on transitions only
pace.py       pure: from notes to messages: pauses, digests, and the queue
facts.py      the state of the machine that decisions need
channels.py   the receivers: what a message looks like, and how one is sent
webhook.py    one receiver by requests
apprise.py    the receivers of urls_file, each by a child process
notifier.py   the thread that ties these together
unable.py     the same for an agent that can't start, and has no journal
"""
