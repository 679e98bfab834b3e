"""What the benchmarks are made of: the job, every way to do it, and the meter."""
