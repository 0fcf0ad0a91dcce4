"""Tests of tank_agent/convert."""
