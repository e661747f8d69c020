"""What training minimises, steers and reports: pure functions of arrays."""
