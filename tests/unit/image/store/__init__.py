"""Tests of tank_agent/image/store."""
