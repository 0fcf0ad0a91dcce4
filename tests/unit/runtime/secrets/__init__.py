"""Tests of tank_agent/runtime/secrets."""
