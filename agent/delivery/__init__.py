"""From the rings to the destination: what is sent when, and again, and what becomes of it."""
