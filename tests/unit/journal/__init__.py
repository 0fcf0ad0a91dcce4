"""Tests of tank_agent/journal."""
