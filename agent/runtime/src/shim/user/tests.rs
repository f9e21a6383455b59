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
