"""What tests share: builders of facts, the service in this process, a clock that is set."""
