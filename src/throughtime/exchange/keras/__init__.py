"""Read Keras files, and run Keras layers on throughtime's engines."""
