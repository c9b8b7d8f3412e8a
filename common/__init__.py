"""What every room needs: files, models on the hub, hashes and the error that becomes one line on stderr.
May import no other room."""
