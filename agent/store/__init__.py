"""What an output keeps on disk: its spool, what was refused for good, and the limits of both."""
