"""What the tools in ``tools/benchmarks`` measure; nothing else imports it."""
