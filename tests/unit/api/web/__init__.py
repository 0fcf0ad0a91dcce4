"""Tests of tank_agent/api."""
