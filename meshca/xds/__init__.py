"""The sans-io xDS stream: snapshots, subscriptions, SotW and delta in one class. Pure."""
