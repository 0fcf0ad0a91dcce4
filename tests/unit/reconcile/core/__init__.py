"""Tests of tank_agent/reconcile/core."""
