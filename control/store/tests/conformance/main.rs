// SPDX-License-Identifier: Apache-2.0
//! What `knarr_store::Store` promises, asked of every engine: the embedded one, and etcd's over a real etcd.
//!
//! The suite is plain functions over an [`engines::Engine`]; each is a test of each engine. A machine without etcd
//! fails the tests of that engine: `cargo xtask setup` installs it.

mod engines;
mod reads;
mod steps;
mod txns;
mod watches;

macro_rules! conformance {
    ($($file:ident: $($name:ident),+;)+) => {
        mod embedded {
            $($(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                crate::$file::$name(crate::engines::embedded().await).await;
            })+)+
        }

        mod etcd {
            $($(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                crate::$file::$name(crate::engines::etcd().await).await;
            })+)+
        }
    };
}

conformance! {
    reads:
        the_current_revision_is_that_of_what_another_process_wrote,
        a_list_at_an_older_revision_shows_what_was_then,
        a_limited_list_says_whether_there_is_more,
        a_list_is_whole_however_large_it_is,
        a_future_revision_is_refused,
        a_compacted_revision_is_refused_and_the_next_is_not;
    txns:
        every_change_has_the_revision_after_the_one_before,
        a_failed_comparison_changes_nothing_and_says_which_keys_differ,
        of_many_concurrent_swaps_of_one_revision_exactly_one_succeeds,
        a_transaction_that_changes_nothing_takes_no_revision,
        two_steps_about_one_key_are_refused,
        a_volatile_value_is_seen_compared_and_replaced_like_any_other,
        a_value_that_no_engine_takes_is_refused;
    watches:
        a_watch_replays_history_and_goes_on_without_a_gap,
        one_transaction_is_one_batch,
        a_watch_of_a_revision_to_come_starts_after_it,
        a_watch_after_the_compacted_revision_misses_no_deletion,
        history_that_is_gone_ends_a_watch,
        what_is_compacted_already_is_compacted_without_an_error,
        closing_ends_the_watches_and_refuses_every_call;
}

/// Only etcd goes on in another process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_outlives_a_restart_of_etcd() {
    watches::a_watch_outlives_a_restart_of_its_server(engines::etcd().await).await;
}
