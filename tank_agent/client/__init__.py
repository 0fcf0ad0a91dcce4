"""The typed client of the agent's API: what `tank` uses, and what `from tank_agent import Client` gives."""
