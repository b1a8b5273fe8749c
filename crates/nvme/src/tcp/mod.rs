//! NVMe/TCP: PDUs, digests and the connections of both sides.
