// SPDX-License-Identifier: Apache-2.0
//! Names of sysctls and the kernel namespaces that they belong to (`k8s.io/component-helpers/node/util/sysctl`,
//! Kubernetes v1.37). The API server and the node have to judge a name alike.
//!
//! Not here: which sysctls a node allows, and writing them.

/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 253;
/// The form of a name, as Kubernetes' messages show it.
pub const NAME_RULE: &str =
    r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
/// Beginnings of the names that belong to a namespace. Some end in the middle of a word.
const PREFIXES: [(&str, Namespace); 4] = [
    ("kernel.shm", Namespace::Ipc),
    ("kernel.msg", Namespace::Ipc),
    ("fs.mqueue.", Namespace::Ipc),
    ("net.", Namespace::Net),
];
const SEMAPHORES: &str = "kernel.sem";

/// A kernel namespace that has sysctls of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// System V IPC and message queues.
    Ipc,
    /// The network.
    Net,
}

impl Namespace {
    /// The namespace of a sysctl, or of all that begin like this. `None`: it is the whole machine's.
    pub fn of(name: &str) -> Option<Namespace> {
        let name = dotted(name);
        if name == SEMAPHORES {
            return Some(Namespace::Ipc);
        }
        let found = PREFIXES.iter().find(|(prefix, _)| name.starts_with(prefix));
        found.map(|(_, namespace)| *namespace)
    }

    /// As Kubernetes' messages name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Namespace::Ipc => "ipc",
            Namespace::Net => "net",
        }
    }
}

/// A name with dots between its parts. One that uses slashes there may have dots inside a part: `net/ipv4/conf/eth0.1`
/// is `net.ipv4.conf.eth0/1` (sysctl.d(5)).
pub fn dotted(name: &str) -> String {
    let first = name.find(['.', '/']).and_then(|at| name.get(at..=at));
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    match first {
        Some("/") => name.chars().map(swap).collect(),
        _ => name.to_owned(),
    }
}

/// Whether this can be a sysctl's name.
pub fn is_name(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX && name.split(['.', '/']).all(is_part)
}

/// Whether this is a name, or the beginning of one with `*` at its end.
pub fn is_pattern(pattern: &str) -> bool {
    let Some(start) = pattern.strip_suffix('*') else {
        return is_name(pattern);
    };
    let (parents, last) = match start.rsplit_once(['.', '/']) {
        Some((parents, last)) => (Some(parents), last),
        None => (None, start),
    };
    let begins = last.is_empty() || last.starts_with(is_alphanumeric) && last.chars().all(is_inner);
    pattern.len() <= NAME_BYTES_MAX && parents.is_none_or(is_name) && begins
}

fn is_part(part: &str) -> bool {
    part.starts_with(is_alphanumeric)
        && part.ends_with(is_alphanumeric)
        && part.chars().all(is_inner)
}

fn is_alphanumeric(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn is_inner(c: char) -> bool {
    is_alphanumeric(c) || c == '-' || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sysctl_belongs_to_the_namespace_that_the_kernel_keeps_it_in() {
        for (name, namespace) in [
            ("kernel.sem", Some(Namespace::Ipc)),
            ("kernel.semaphore", None),
            ("kernel.shm_rmid_forced", Some(Namespace::Ipc)),
            ("kernel/msgmax", Some(Namespace::Ipc)),
            ("fs.mqueue.msg_max", Some(Namespace::Ipc)),
            ("net.ipv4.tcp_syncookies", Some(Namespace::Net)),
            ("net/ipv4/conf/eth0.1/rp_filter", Some(Namespace::Net)),
            ("net", None),
            ("kernel.hostname", None),
            ("vm.swappiness", None),
        ] {
            assert_eq!(Namespace::of(name), namespace, "{name}");
        }
    }

    #[test]
    fn slashes_and_dots_change_places_where_slashes_come_first() {
        assert_eq!(dotted("net.ipv4.conf.eth0/1.x"), "net.ipv4.conf.eth0/1.x");
        assert_eq!(dotted("net/ipv4/conf/eth0.1/x"), "net.ipv4.conf.eth0/1.x");
    }

    #[test]
    fn names_and_patterns_have_kubernetes_form() {
        for good in ["a", "a.b", "net/ipv4/x-y_z.1", &"a".repeat(NAME_BYTES_MAX)] {
            assert!(is_name(good) && is_pattern(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "a.",
            "..a",
            "a..b",
            "A.b",
            "a-",
            "_a",
            "a b",
            "a.*",
            &"a".repeat(NAME_BYTES_MAX + 1),
        ] {
            assert!(!is_name(bad), "{bad}");
        }
        for good in ["*", "net.*", "kernel.shm*", "net.ipv4.tcp_*"] {
            assert!(is_pattern(good), "{good}");
        }
        for bad in ["*.a", "a**", "a..*", "-*"] {
            assert!(!is_pattern(bad), "{bad}");
        }
    }
}
