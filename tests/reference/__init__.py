"""Plain-Python oracles: simple, slow, and the definition of what the compiled core must do byte for byte."""
