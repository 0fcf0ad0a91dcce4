"""Runs containers: root file systems, OCI configurations, cgroups, crun under conmon.

Nothing here decides anything; `tank_agent.reconcile` does. Every step can be done again after a crash.
"""
