"""The alternatives for training and inference, run as their authors document them."""
