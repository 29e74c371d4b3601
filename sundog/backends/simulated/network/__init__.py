"""What lies between simulated nodes: connections, shared bandwidth, and frames below them."""
