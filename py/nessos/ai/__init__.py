"""Models, and what works with them: the gateway, answers, agents, workflows."""
