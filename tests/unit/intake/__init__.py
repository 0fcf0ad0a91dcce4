"""Tests of tank_agent/intake."""
