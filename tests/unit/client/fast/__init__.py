"""Tests of tank_agent/client/fast."""
