"""Tests of tank_agent/control."""
