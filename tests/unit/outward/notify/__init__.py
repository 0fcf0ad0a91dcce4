"""Tests of tank_agent/outward/notify."""
