"""Tests of tank_agent/doctor."""
