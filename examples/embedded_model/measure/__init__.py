"""What is measured on the embedded models, and its tables."""
