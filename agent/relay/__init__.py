"""From one agent to another through a broker: messages, and what is seen of who sent them."""
