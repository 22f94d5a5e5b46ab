"""Would the suite notice? Proofs that take longer than a test run, each with a short slice in `make test`; `make proof` runs them."""
