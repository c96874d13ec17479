"""One run: data, network, norm, optimizer, schedule, loss, loop, record."""
