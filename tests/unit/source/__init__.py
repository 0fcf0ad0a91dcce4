"""Tests of tank_agent/source."""
