"""One thin file a subcommand of `mrt5`; the only place that knows gin."""
