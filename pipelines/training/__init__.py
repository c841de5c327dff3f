"""Training on Ray Train: `config` what is asked, `driver` on the head, `worker` on every machine."""
