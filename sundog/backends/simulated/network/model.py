"""What a network is like, as data: latencies, bandwidths, thresholds. Loads without SimPy, so that profiles can hold one."""

from __future__ import annotations

import msgspec

from sundog.core.units import KIB, MICROSECOND, MILLISECOND, Nanos


class NetworkModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a network is like. The defaults are a data centre's: 10 Gb/s a node each way, 50 us between any two.

    Raises ValueError for what makes no sense.
    """

    #: From one node to another, one way.
    latency: Nanos = 50 * MICROSECOND
    #: Every message is up to this much later, evenly drawn.
    jitter: Nanos = 0
    #: Bytes a second of every node's uplink, and of its downlink.
    bandwidth: int = 1_250_000_000
    #: Between two processes of one node.
    local_latency: Nanos = 15 * MICROSECOND
    #: Messages up to this size never become flows: a few packets on the wire.
    packet_bytes_max: int = 4 * KIB
    #: Messages of this size or more always do.
    flow_bytes_min: int = 64 * KIB
    #: After a cut, until the connection stands again.
    reconnect_after: Nanos = 1 * MILLISECOND
    #: (source, target, latency) of pairs that differ, one way.
    latencies: tuple[tuple[int, int, Nanos], ...] = ()
    #: (node, up, down) of nodes that differ, in bytes a second.
    bandwidths: tuple[tuple[int, int, int], ...] = ()

    def __post_init__(self) -> None:
        for name in ("latency", "jitter", "local_latency", "reconnect_after", "packet_bytes_max"):
            if getattr(self, name) < 0:
                raise ValueError(f"network: {name}={getattr(self, name)} is negative")
        if self.bandwidth < 1 or any(up < 1 or down < 1 for _, up, down in self.bandwidths):
            raise ValueError("network: a bandwidth must be at least 1 byte a second")
        if any(latency < 0 for _, _, latency in self.latencies):
            raise ValueError("network: a latency is negative")
        if self.flow_bytes_min <= self.packet_bytes_max:
            raise ValueError(
                f"network: flow_bytes_min={self.flow_bytes_min} must be more than packet_bytes_max={self.packet_bytes_max}"
            )
