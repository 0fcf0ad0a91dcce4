"""Tests of tank_agent/spec."""
