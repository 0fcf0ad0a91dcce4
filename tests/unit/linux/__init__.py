"""Tests of tank_agent/linux."""
