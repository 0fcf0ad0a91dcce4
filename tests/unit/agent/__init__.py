"""Tests of tank_agent/agent."""
