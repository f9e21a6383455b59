// SPDX-License-Identifier: Apache-2.0
//! Which source ports flows to backends on other nodes get: none that the node's own connections or
//! NodePorts use, so a reply is never taken for another's. Used by `load` at start.

/// Above what servers listen on, below Linux' default ephemeral ports: 20,000 flows at a time from this
/// node to one backend.
const USUAL: (u16, u16) = (10_000, 29_999);
/// Below are ports that only root may listen on.
const LOWEST: u16 = 1_024;

/// Linux' default of `ip_local_port_range`, should it not be readable.
const LOCAL_DEFAULT: (u16, u16) = (32_768, 60_999);

/// Ports of the node's own connections, from the network namespace of the calling thread.
pub(crate) fn local_ports() -> (u16, u16) {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    text.ok()
        .as_deref()
        .and_then(parse)
        .unwrap_or(LOCAL_DEFAULT)
}

fn parse(text: &str) -> Option<(u16, u16)> {
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Some((first, last)),
        _ => None,
    }
}

/// The ports to use. Those in use already stay if they can, because replies to flows under way come to
/// them; else the usual ones; else the widest range that is free.
pub(crate) fn choose(known: (u16, u16), local: (u16, u16), node_ports: (u16, u16)) -> (u16, u16) {
    let free =
        |range: &(u16, u16)| range.0 > 0 && !overlap(*range, local) && !overlap(*range, node_ports);
    if let Some(range) = [known, USUAL].into_iter().find(free) {
        return range;
    }
    let mut edges = [local, node_ports];
    edges.sort_unstable();
    let mut widest = (0, USUAL);
    let mut from = u32::from(LOWEST);
    for (first, last) in edges.into_iter().chain([(u16::MAX, u16::MAX)]) {
        let first = u32::from(first);
        if first > from && first - from > widest.0 {
            widest = (first - from, (from as u16, (first - 1) as u16));
        }
        from = from.max(u32::from(last) + 1);
    }
    if widest.0 == 0 {
        tracing::warn!(
            ?local,
            ?node_ports,
            "no source port is free of the node's own: lower net.ipv4.ip_local_port_range"
        );
    }
    widest.1
}

fn overlap(a: (u16, u16), b: (u16, u16)) -> bool {
    a.0 <= b.1 && b.0 <= a.1
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE_PORTS: (u16, u16) = (30_000, 32_767);

    #[test]
    fn the_usual_ports_are_taken_where_nothing_is_special() {
        assert_eq!(choose((0, 0), LOCAL_DEFAULT, NODE_PORTS), USUAL);
    }

    #[test]
    fn ports_in_use_stay() {
        assert_eq!(
            choose((2_000, 9_000), LOCAL_DEFAULT, NODE_PORTS),
            (2_000, 9_000)
        );
    }

    #[test]
    fn the_nodes_own_ports_and_node_ports_are_avoided() {
        let widest = choose((0, 0), (15_000, 60_999), NODE_PORTS);
        assert_eq!(widest, (1_024, 14_999));
        let moved = choose(USUAL, LOCAL_DEFAULT, (20_000, 22_767));
        assert_eq!(moved, (1_024, 19_999));
        assert_eq!(
            choose((0, 0), (1_024, 65_000), NODE_PORTS),
            (65_001, 65_534)
        );
    }

    #[test]
    fn with_no_free_port_the_usual_ones_are_taken_all_the_same() {
        assert_eq!(choose((0, 0), (1_024, 65_535), NODE_PORTS), USUAL);
    }

    #[test]
    fn the_kernels_two_numbers_are_read() {
        assert_eq!(parse("32768\t60999\n"), Some((32_768, 60_999)));
        assert_eq!(parse("x"), None);
    }
}
