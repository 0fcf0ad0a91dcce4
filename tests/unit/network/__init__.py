"""Tests of tank_agent/network."""
