// SPDX-License-Identifier: Apache-2.0
//! Tests of looking users up.

use super::*;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:44::/:/bin/false\nbroken\n";
const GROUP: &str = "root:x:0:\nwww:x:44:\nextra:x:50:web,other\nalso:x:51:web\n";

#[test]
fn users_are_found_by_name_and_number() {
    let get = |user: &str| identity(user, PASSWD, GROUP);
    let id = |uid, gid, groups: &[u32]| Identity {
        uid,
        gid,
        groups: groups.to_vec(),
        home: if uid == 0 { "/root" } else { "/" }.to_owned(),
    };
    assert_eq!(get("").unwrap(), id(0, 0, &[]));
    assert_eq!(get("web").unwrap(), id(33, 44, &[50, 51]));
    assert_eq!(get("33").unwrap(), id(33, 44, &[50, 51]));
    assert_eq!(get("web:extra").unwrap(), id(33, 50, &[50, 51]));
    assert_eq!(get("1000").unwrap(), id(1000, 0, &[]));
    assert_eq!(get("1000:2000").unwrap(), id(1000, 2000, &[]));
    assert!(
        get("nobody")
            .unwrap_err()
            .contains("unable to find user nobody")
    );
    assert!(
        get("web:none")
            .unwrap_err()
            .contains("unable to find group none")
    );
}

#[test]
fn a_number_is_an_id_and_never_a_name() {
    const PASSWD: &str = "1000:x:0:0:trap:/trap:/bin/sh\nsome:x:1000:7:user:/home/some:/bin/sh\n\
                          -5:x:0:0::/:/bin/sh\n4294967296:x:0:0::/:/bin/sh\n0x10:x:16:16::/hex:/bin/sh\n";
    const GROUP: &str = "2000:x:0:\nextra:x:50:some\ntrap:x:0:1000\n4294967295:x:0:\n";
    let get = |user: &str| identity(user, PASSWD, GROUP).map(|i| (i.uid, i.gid, i.groups, i.home));
    let some = |gid| Ok((1000, gid, vec![50], "/home/some".to_owned()));
    assert_eq!(get("1000"), some(7));
    assert_eq!(get("01000"), some(7));
    assert_eq!(get("1000:2000"), some(2000));
    assert_eq!(get("some:2000"), some(2000));
    assert_eq!(get("3000:extra"), Ok((3000, 50, vec![], "/".to_owned())));
    assert_eq!(get("0x10"), Ok((16, 16, vec![], "/hex".to_owned())));
    for wrong in ["-5", "4294967296", "2147483648", "99999999999999999999"] {
        let message = get(wrong).unwrap_err();
        assert!(message.contains("is no user ID"), "{wrong}: {message}");
    }
    let message = get("1000:4294967295").unwrap_err();
    assert!(message.contains("is no group ID"), "{message}");
}

#[test]
fn a_home_is_never_empty() {
    let home = |passwd: &str| identity("7", passwd, "").unwrap().home;
    assert_eq!(home("a:x:7:7:gecos:/home/a:/bin/sh"), "/home/a");
    for none in [
        "",
        "a:x:7:7",
        "a:x:7:7:gecos",
        "a:x:7:7:gecos::/bin/sh",
        "a:x:7:7::/a\0b:",
    ] {
        assert_eq!(home(none), "/", "{none:?}");
    }
}
