"""What a user would train with otherwise, each as its authors document it."""
