"""Tests of tank_agent/runtime/health."""
