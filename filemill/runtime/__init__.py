"""What a running process needs: signals, a liveness file, the state and the control socket of the embedded stack."""
