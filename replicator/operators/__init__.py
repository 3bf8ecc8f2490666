"""What operators see of an outbox and do to it, while the service runs and when it does not."""
