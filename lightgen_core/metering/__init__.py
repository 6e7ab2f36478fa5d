"""What processes and devices spend: records, samples of the driver."""
