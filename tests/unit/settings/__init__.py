"""Tests of tank_agent/settings."""
