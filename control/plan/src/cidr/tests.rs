// SPDX-License-Identifier: Apache-2.0
//! Ranges are read, written and divided.

use super::*;

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn ranges_are_read_and_written() {
    for (text, size) in [
        ("10.96.0.0/12", 1 << 20),
        ("192.168.1.1/32", 1),
        ("0.0.0.0/0", 1 << 32),
        ("fd00::/112", 1 << 16),
        ("fd00::/64", 1 << 64),
        ("fd00::1/128", 1),
        ("::/0", u128::MAX),
    ] {
        assert_eq!(
            (cidr(text).to_string().as_str(), cidr(text).size()),
            (text, size)
        );
    }
    for bad in [
        "10.0.0.0",
        "10.0.0.0/33",
        "fd00::/129",
        "x/8",
        "10.0.0.0/",
        "10.0.0.0/+8",
        "10.0.0.0/-1",
        "10.0.0.0/256",
        "",
    ] {
        let wrong = ParseCidrError::Malformed(bad.to_owned());
        assert_eq!(bad.parse::<Cidr>(), Err(wrong));
    }
}

#[test]
fn bits_behind_the_prefix_are_refused_with_the_range_that_was_meant() {
    for (text, meant) in [
        ("10.97.3.4/12", "10.96.0.0/12"),
        ("10.0.0.1/0", "0.0.0.0/0"),
        ("10.0.0.1/31", "10.0.0.0/31"),
        ("fd00::1/64", "fd00::/64"),
        ("fd00::1/0", "::/0"),
    ] {
        let error = text.parse::<Cidr>().unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{text} has bits set behind its prefix: did you mean {meant}?")
        );
        assert_eq!(Cidr::parse_lenient(text), Ok(cidr(meant)));
    }
    assert!(Cidr::parse_lenient("10.0.0.0/33").is_err());
}

#[test]
fn addresses_are_found_in_their_range_only() {
    let range = cidr("10.96.0.0/12");
    for (address, offset) in [
        ("10.96.0.0", Some(0)),
        ("10.96.1.0", Some(256)),
        ("10.111.255.255", Some((1 << 20) - 1)),
        ("10.112.0.0", None),
        ("10.95.255.255", None),
        // The same bits in the other family.
        ("::a60:100", None),
    ] {
        assert_eq!(range.offset_of(ip(address)), offset, "{address}");
        if let Some(offset) = offset {
            assert_eq!(range.at(offset), Some(ip(address)));
        }
    }
    assert_eq!(range.at(range.size()), None);
    assert_eq!(
        cidr("0.0.0.0/0").at((1 << 32) - 1),
        Some(ip("255.255.255.255"))
    );
    assert_eq!(cidr("fd00::/64").at(1 << 63), Some(ip("fd00::8000:0:0:0")));
    assert_eq!(cidr("::/0").offset_of(ip("fd00::")), Some(0xfd00 << 112));
}

#[test]
fn ranges_overlap_when_one_holds_the_other() {
    for (a, b, overlap) in [
        ("10.244.0.0/16", "10.244.64.0/18", true),
        ("10.244.0.0/16", "10.244.0.0/16", true),
        ("10.244.0.0/16", "10.245.0.0/16", false),
        ("0.0.0.0/0", "10.96.0.0/12", true),
        ("fd00::/48", "fd00:0:0:1::/64", true),
        ("fd00::/64", "fd00:0:0:1::/64", false),
        ("::/0", "0.0.0.0/0", false),
    ] {
        assert_eq!(cidr(a).overlaps(&cidr(b)), overlap, "{a} {b}");
        assert_eq!(cidr(b).overlaps(&cidr(a)), overlap, "{b} {a}");
    }
}

#[test]
fn subnets_are_numbered() {
    let cluster = cidr("10.244.0.0/16");
    let third = cluster.subnet(3, 24).unwrap();
    assert_eq!(third.to_string(), "10.244.3.0/24");
    assert_eq!(cluster.subnet(256, 24), None);
    assert_eq!(cluster.subnet(0, 15), None);
    assert_eq!(cluster.subnet(0, 33), None);
    assert_eq!(
        cidr("fd00::/48").subnet(2, 64),
        Some(cidr("fd00:0:0:2::/64"))
    );
    assert_eq!(cidr("::/0").subnet(0, 0), Some(cidr("::/0")));
    assert_eq!(cidr("::/0").subnet(1, 0), None);
}

#[test]
fn a_range_covers_positions_wholly_or_in_part() {
    let cluster = cidr("10.244.0.0/16");
    for (other, positions) in [
        ("10.244.3.0/24", 3..4),
        ("10.244.4.0/22", 4..8),
        ("10.244.9.128/25", 9..10),
        ("10.245.0.0/24", 0..0),
        ("10.243.0.0/16", 0..0),
        ("10.0.0.0/8", 0..256),
        ("0.0.0.0/0", 0..256),
        ("fd00::/64", 0..0),
        ("::/0", 0..0),
    ] {
        assert_eq!(cluster.positions(&cidr(other), 24), positions, "{other}");
    }
    assert_eq!(cidr("fd00::/48").positions(&cidr("::/0"), 64), 0..1 << 16);
}
