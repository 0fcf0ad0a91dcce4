"""Tells others about this machine, once and at the right moment: notifications, and a commit's status."""
