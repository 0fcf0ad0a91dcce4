"""Tests of tank_agent/runtime/security."""
