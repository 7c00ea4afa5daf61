"""What is measured: one file per workload, ordinary Python that knows no runtime."""
