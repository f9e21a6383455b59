// SPDX-License-Identifier: Apache-2.0
//! The signals of Linux that end containers, by name or number, as pods and images write them: `SIGTERM`, `TERM`, `15`,
//! `SIGRTMIN+3`.
//!
//! Not here: sending (`knarr-runtime`), and the signals that end our own programs (`signals`). The API server asks which
//! names a pod may use, the node which number one has.

/// The signal of a stop, where the container names no other.
pub const SIGTERM: i32 = 15;
/// The first real-time signal that a program may use: the C library keeps 32 and 33 to itself. Images and
/// container runtimes count from here.
const RTMIN: i32 = 34;
/// The last signal of Linux.
const RTMAX: i32 = 64;

/// Linux' numbers (signal(7), x86 and ARM); aliases included.
const NAMES: [(&str, i32); 35] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", SIGTERM),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("UNUSED", 31),
];

/// A name that the C library has and `core/v1` does not list (Kubernetes v1.37).
const NOT_OF_PODS: &str = "UNUSED";
/// How far `core/v1` counts from the first real-time signal.
const FROM_RTMIN: i32 = 15;
/// The same, back from the last one.
const FROM_RTMAX: i32 = 14;

/// The names that a pod may ask for in `lifecycle.stopSignal`.
pub fn names_of_pods() -> Vec<String> {
    let named = NAMES.iter().map(|(name, _)| *name);
    let named = named.filter(|name| *name != NOT_OF_PODS);
    let first = std::iter::once("RTMIN".to_owned());
    let first = first.chain((1..=FROM_RTMIN).map(|n| format!("RTMIN+{n}")));
    let last = std::iter::once("RTMAX".to_owned());
    let last = last.chain((1..=FROM_RTMAX).map(|n| format!("RTMAX-{n}")));
    let all = named.map(str::to_owned).chain(first).chain(last);
    all.map(|name| format!("SIG{name}")).collect()
}

/// The number of a signal; none where there is no such signal.
pub fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        RTMIN.checked_add(offset(rest, '+')?)
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        RTMAX.checked_sub(offset(rest, '-')?)
    } else {
        return NAMES.iter().find(|(n, _)| *n == name).map(|(_, n)| *n);
    };
    number.filter(|n| (RTMIN..=RTMAX).contains(n))
}

/// `+3` with `+` as the sign is 3; nothing is 0.
fn offset(text: &str, sign: char) -> Option<i32> {
    if text.is_empty() {
        return Some(0);
    }
    let digits = text.strip_prefix(sign)?;
    // Digits only: the parser alone would take a second sign.
    let all_digits = digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| all_digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_real_time_signals_are_read() {
        for (text, number) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("15", Some(15)),
            ("SIGRTMIN", Some(34)),
            ("SIGRTMIN+1", Some(35)),
            ("RTMIN+3", Some(37)),
            ("SIGRTMIN+30", Some(64)),
            ("SIGRTMIN+31", None),
            ("SIGRTMIN-1", None),
            ("SIGRTMIN++1", None),
            ("SIGRTMIN+", None),
            ("SIGRTMAX", Some(64)),
            ("SIGRTMAX-14", Some(50)),
            ("SIGRTMAX-31", None),
            ("SIGRTMAX+1", None),
            ("SIGRTMAX-99999999999", None),
            ("37", Some(37)),
            ("0", None),
            ("65", None),
            ("-9", None),
            ("SIGNONSENSE", None),
            ("SIG", None),
            ("", None),
        ] {
            assert_eq!(parse(text), number, "{text:?}");
        }
    }

    #[test]
    fn every_name_of_pods_is_a_signal() {
        let names = names_of_pods();
        assert_eq!(names.len(), 65);
        for name in names {
            assert!(parse(&name).is_some(), "{name}");
        }
    }
}
