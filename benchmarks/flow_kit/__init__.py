"""What the benchmark of the incident is made of: the services, the variants, the meter."""
