"""The HTTP door: write endpoints of InfluxDB 1, 2 and 3, remote write, and OTLP."""
