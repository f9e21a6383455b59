// SPDX-License-Identifier: Apache-2.0
//! Tests of reading the machine's cgroup hierarchies.

use super::*;

const CONTROLLERS: &str = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t9\t1\ncpuacct\t2\t1\t1\nmemory\t4\t1\t1\n";

#[test]
fn a_hybrid_machine_has_v1_hierarchies_beside_v2() {
    let mountinfo = "\
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
22 27 0:21 / /proc rw,relatime - proc proc rw
";
    assert_eq!(
        parse(mountinfo, CONTROLLERS),
        [
            Hierarchy {
                mount: "/sys/fs/cgroup/cpu".into(),
                version: Version::V1("cpu".into())
            },
            Hierarchy {
                mount: "/sys/fs/cgroup/systemd".into(),
                version: Version::V1("none,name=systemd".into())
            },
            Hierarchy {
                mount: "/sys/fs/cgroup/unified".into(),
                version: Version::V2
            },
        ]
    );
}

#[test]
fn a_bind_mount_of_a_part_of_a_hierarchy_is_no_hierarchy() {
    let mountinfo = "41 31 0:38 /some/part /mnt rw - cgroup2 cgroup2 rw\n";
    assert_eq!(parse(mountinfo, CONTROLLERS), []);
}

#[test]
fn a_hierarchy_that_is_mounted_twice_counts_once() {
    let mountinfo = "\
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
42 31 0:38 / /mnt/again rw - cgroup2 cgroup2 rw
43 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
";
    let found = parse(mountinfo, CONTROLLERS);
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].mount, PathBuf::from("/sys/fs/cgroup/unified"));
    assert_eq!(found[1].version, Version::V1("cpu,cpuacct".into()));
}
