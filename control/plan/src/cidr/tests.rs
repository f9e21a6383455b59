// SPDX-License-Identifier: Apache-2.0
//! Ranges are read, written and divided.

use super::*;

#[test]
fn ranges_are_read_and_written() {
    for (text, printed, size) in [
        ("10.96.0.0/12", "10.96.0.0/12", 1 << 20),
        ("10.97.3.4/12", "10.96.0.0/12", 1 << 20),
        ("192.168.1.1/32", "192.168.1.1/32", 1),
        ("fd00::/112", "fd00::/112", 1 << 16),
    ] {
        let cidr: Cidr = text.parse().unwrap();
        assert_eq!((cidr.to_string().as_str(), cidr.size()), (printed, size));
    }
    for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/", ""] {
        assert!(bad.parse::<Cidr>().is_err(), "{bad}");
    }
}

#[test]
fn subnets_are_numbered() {
    let cluster: Cidr = "10.244.0.0/16".parse().unwrap();
    let third = cluster.subnet(3, 24).unwrap();
    assert_eq!(third.to_string(), "10.244.3.0/24");
    assert_eq!(cluster.positions(&third, 24), 3..4);
    assert_eq!(
        cluster.positions(&"10.244.4.0/22".parse().unwrap(), 24),
        4..8
    );
    assert_eq!(
        cluster.positions(&"10.244.9.128/25".parse().unwrap(), 24),
        9..10
    );
    assert_eq!(cluster.subnet(256, 24), None);
    assert!(
        cluster
            .positions(&"10.245.0.0/24".parse().unwrap(), 24)
            .is_empty()
    );
    assert!(
        cluster
            .positions(&"fd00::/64".parse().unwrap(), 24)
            .is_empty()
    );
}
