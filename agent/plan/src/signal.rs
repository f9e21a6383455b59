// SPDX-License-Identifier: Apache-2.0
//! Which signal stops a container.
//!
//! Not here: names and numbers (`knarr_base::stop_signal`), sending (`knarr-runtime`). Called by the agent's `apply` before
//! a stop.

use knarr_base::stop_signal::{SIGTERM, parse};

/// What a container is stopped with: the pod's own wish, otherwise the image's, otherwise SIGTERM. A wish
/// that means nothing must not keep a container from ending, and is returned as well, for an event.
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
    fn a_stop_signal_that_means_nothing_becomes_sigterm_and_is_told() {
        assert_eq!(stop_signal(None, None), (15, None));
        assert_eq!(stop_signal(None, Some("SIGQUIT")), (3, None));
        assert_eq!(stop_signal(Some("SIGRTMIN+1"), Some("SIGQUIT")), (35, None));
        assert_eq!(stop_signal(Some("SIGNO"), None), (15, Some("SIGNO")));
        assert_eq!(stop_signal(None, Some("bad")), (15, Some("bad")));
        assert_eq!(stop_signal(None, Some("")), (15, None));
    }
}
