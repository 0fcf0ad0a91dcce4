"""Tests of tank_agent/runtime/mounts."""
