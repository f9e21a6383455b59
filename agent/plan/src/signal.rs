// SPDX-License-Identifier: Apache-2.0
//! Stop signals by name or number, as pods and images write them: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`.
//!
//! Not here: sending (`knarr-runtime`). Called by the agent's `apply` before a stop.

/// The signal of a stop where nobody asks for another.
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

/// What a container is stopped with: the pod's own wish, otherwise the image's, otherwise SIGTERM. A wish
/// that means nothing must not keep a container from ending, and is returned as well, to be told.
pub fn stop_signal<'a>(pod: Option<&'a str>, image: Option<&'a str>) -> (i32, Option<&'a str>) {
    let wish = pod.or(image).filter(|text| !text.is_empty());
    match wish.map(|text| (text, parse(text))) {
        None => (SIGTERM, None),
        Some((_, Some(number))) => (number, None),
        Some((text, None)) => (SIGTERM, Some(text)),
    }
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
    fn a_stop_signal_that_means_nothing_becomes_sigterm_and_is_told() {
        assert_eq!(stop_signal(None, None), (15, None));
        assert_eq!(stop_signal(None, Some("SIGQUIT")), (3, None));
        assert_eq!(stop_signal(Some("SIGRTMIN+1"), Some("SIGQUIT")), (35, None));
        assert_eq!(stop_signal(Some("SIGNO"), None), (15, Some("SIGNO")));
        assert_eq!(stop_signal(None, Some("bad")), (15, Some("bad")));
        assert_eq!(stop_signal(None, Some("")), (15, None));
    }
}
