"""Runs compared: what differs, by how much, at what cost, and how sure that is."""
