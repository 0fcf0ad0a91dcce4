"""Tests of tank_agent/cli/verbs."""
