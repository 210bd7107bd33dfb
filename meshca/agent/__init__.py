"""The node agent: CA client, SVID cache and renewal planner, SDS relay."""
