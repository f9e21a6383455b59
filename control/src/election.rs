// SPDX-License-Identifier: Apache-2.0
//! Elects one of several control processes by the Lease `kube-system/knarr-control`.
//!
//! The controllers' runner works while this process holds the Lease. `knarr_control_plan::election` says when it may
//! be taken. A process that is alone on its store holds no election and no Lease: see [`join`]. Called by `lib.rs`.

use std::time::Duration;

use knarr_api::k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use knarr_apiserver::{ApiError, Client};
use knarr_control_plan::election::{
    LEASE_DURATION, LeaseView, Observed, RENEW_DEADLINE, RETRY_PERIOD, Step, plan,
};
use knarr_controllers::Elector;
use knarr_controllers::leadership::{self, Leadership};
use knarr_store::Sharing;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::clock;

/// Where the Lease is.
pub const NAMESPACE: &str = "kube-system";
/// Its name.
pub const NAME: &str = "knarr-control";
/// How long workers may take to end after a renewal failed for too long: another process can take the Lease then.
const STOP_TIME_MAX: Duration = LEASE_DURATION
    .saturating_sub(RENEW_DEADLINE)
    .saturating_sub(RETRY_PERIOD);

/// Takes part in the election, where there is one. A store that only one process can have open has its leader already:
/// nothing is written and nothing is waited for.
#[must_use]
pub fn join(
    sharing: Sharing,
    client: &Client,
    shutdown: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Leadership {
    match sharing {
        Sharing::Exclusive => Leadership::always(),
        Sharing::Shared => {
            let (elector, leadership) = leadership::channel();
            let identity = uuid::Uuid::new_v4().to_string();
            tasks.spawn(run(client.clone(), identity, elector, shutdown.clone()));
            leadership
        }
    }
}

/// Takes, renews and loses the Lease until shutdown, then gives it up. Returns before that only where the workers did
/// not end in time, and the process has to end for them.
async fn run(client: Client, identity: String, mut elector: Elector, shutdown: CancellationToken) {
    loop {
        let held = tokio::select! {
            // What a dropped attempt may have written is seen by the next process as any Lease.
            () = shutdown.cancelled() => return,
            held = acquire(&client, &identity) => held,
        };
        tracing::info!(%identity, "this process runs the controllers");
        elector.lead();
        let held = tokio::select! {
            () = shutdown.cancelled() => Some(held.lease.clone()),
            () = hold(&client, held.clone()) => None,
        };
        if let Some(last) = held {
            elector.step_down().await;
            give_up(&client, last).await;
            return;
        }
        tracing::warn!(%identity, "the Lease could not be renewed, so the controllers stop");
        if timeout(STOP_TIME_MAX, elector.step_down()).await.is_err() {
            tracing::error!(
                "controllers did not stop in time, and another process may start its own"
            );
            return;
        }
    }
}

/// The Lease as this process has written it.
#[derive(Debug, Clone)]
struct Held {
    lease: Lease,
    /// When that write began: others count from a later moment.
    since: Instant,
}

/// Waits until this process holds the Lease.
async fn acquire(client: &Client, identity: &str) -> Held {
    let start = Instant::now();
    let mut observed = Observed::default();
    loop {
        let since = Instant::now();
        match try_acquire(client, identity, &mut observed, start).await {
            Ok(Some(lease)) => return Held { lease, since },
            Ok(None) => {}
            Err(error) if error.is_conflict() || error.is_already_exists() => {
                tracing::debug!(%error, "another process was faster");
            }
            Err(error) => tracing::warn!(%error, "the Lease could not be taken"),
        }
        sleep(RETRY_PERIOD).await;
    }
}

async fn try_acquire(
    client: &Client,
    identity: &str,
    observed: &mut Observed,
    start: Instant,
) -> Result<Option<Lease>, ApiError> {
    let found = match client.get::<Lease>(Some(NAMESPACE), NAME).await {
        Ok(lease) => Some(lease),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error),
    };
    let view = found.as_ref().map(view_of);
    match (plan(view.as_ref(), observed, start.elapsed()), found) {
        (Step::Take, Some(free)) => client.update(&taken(free, identity)).await.map(Some),
        (Step::Wait, Some(_)) => Ok(None),
        (_, _) => {
            let new = Lease {
                metadata: ObjectMeta {
                    namespace: Some(NAMESPACE.to_owned()),
                    name: Some(NAME.to_owned()),
                    ..ObjectMeta::default()
                },
                spec: None,
            };
            client.create(&taken(new, identity)).await.map(Some)
        }
    }
}

fn view_of(lease: &Lease) -> LeaseView {
    let holder = lease.spec.as_ref().and_then(|s| s.holder_identity.clone());
    LeaseView {
        holder: holder.unwrap_or_default(),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}

fn taken(mut lease: Lease, identity: &str) -> Lease {
    let now = MicroTime(clock::now());
    let before = lease.spec.take();
    // As client-go counts: the first holder is no transition.
    let transitions = before.map_or(0, |spec| spec.lease_transitions.unwrap_or(0) + 1);
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
        acquire_time: Some(now.clone()),
        renew_time: Some(now),
        lease_transitions: Some(transitions),
        ..LeaseSpec::default()
    });
    lease
}

/// Renews the Lease for as long as that works. Returns when it may be another's soon.
async fn hold(client: &Client, mut held: Held) {
    loop {
        sleep(RETRY_PERIOD).await;
        let since = Instant::now();
        // An attempt that fails at once does not wait for its deadline.
        if since >= held.since + RENEW_DEADLINE {
            return;
        }
        let mut next = held.lease.clone();
        if let Some(spec) = &mut next.spec {
            spec.renew_time = Some(MicroTime(clock::now()));
        }
        let deadline = held.since + RENEW_DEADLINE;
        match timeout_at(deadline, client.update(&next)).await {
            Ok(Ok(lease)) => held = Held { lease, since },
            Ok(Err(error)) if error.is_conflict() || error.is_not_found() => {
                // An answer that was lost has written a version that this process does not know.
                match timeout_at(deadline, own(client, &held.lease)).await {
                    Ok(Some(lease)) => held.lease = lease,
                    Ok(None) | Err(_) => return,
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "the Lease was not renewed"),
            Err(_) => return,
        }
    }
}

/// The Lease as it is now, if it still names this process.
async fn own(client: &Client, last: &Lease) -> Option<Lease> {
    let found = client.get::<Lease>(Some(NAMESPACE), NAME).await.ok()?;
    (view_of(&found).holder == view_of(last).holder).then_some(found)
}

/// Lets another process take the Lease at once.
async fn give_up(client: &Client, last: Lease) {
    let given_up = async {
        let mut lease = own(client, &last).await?;
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
        }
        client.update(&lease).await.ok()
    };
    if !matches!(timeout(RETRY_PERIOD, given_up).await, Ok(Some(_))) {
        tracing::warn!("the Lease could not be given up; another process waits for its end");
    }
}

#[cfg(test)]
mod tests;
