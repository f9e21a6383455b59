// SPDX-License-Identifier: Apache-2.0
//! Removes Events whose time has ended; when that is, `knarr_control_plan::event_expiry` says.
//!
//! Each Event has one timer; a cluster without Events has none.

use std::time::Duration;

use knarr_api::k8s_openapi::api::core::v1::Event;
use knarr_api::k8s_openapi::jiff::Timestamp;
use knarr_apiserver::{ApiError, DeleteParams, Object};
use knarr_control_plan::event_expiry;

use super::Context;
use crate::clock;
use crate::informer::{self, Informer};
use crate::queue::{Outcome, Queue};

/// Events whose hour ends within this time of each other are looked at together.
const SLACK: Duration = Duration::from_secs(1);
/// Deletions under way at once.
const WORKERS: usize = 4;

struct View {
    uid: Box<str>,
    ends: Timestamp,
}

fn view(object: &Object) -> Option<View> {
    let event: Event = object.parse().ok()?;
    Some(View {
        uid: object.meta.uid.clone(),
        ends: event_expiry::ends(&event, clock::now()),
    })
}

fn left(view: &View) -> Option<Duration> {
    event_expiry::left(view.ends, clock::now())
}

/// Runs the loop until shutdown.
pub(super) async fn run(context: Context) {
    let cache = match context.client.cache_of::<Event>() {
        Ok(cache) => cache,
        Err(error) => {
            tracing::error!(%error, "Events are not served");
            return;
        }
    };
    let queue = Queue::new();
    let waiting = queue.clone();
    let events = informer::start(cache, context.shutdown.clone(), view, move |changed| {
        if let Some(view) = changed.new {
            let delay = left(view).unwrap_or_default();
            waiting.add_after(changed.name.clone(), delay + SLACK);
        }
    });
    events.synced().await;
    let shutdown = context.shutdown.clone();
    let client = context.client.clone();
    queue
        .work(WORKERS, shutdown, move |name| {
            let (events, client) = (events.clone(), client.clone());
            async move { expire(&events, &client, &name).await }
        })
        .await;
}

async fn expire(
    events: &Informer<View>,
    client: &knarr_apiserver::Client,
    name: &knarr_api::names::NamespacedName,
) -> Outcome {
    let Some(view) = events.view(name) else {
        return Outcome::Done;
    };
    if let Some(left) = left(&view) {
        return Outcome::After(left + SLACK);
    }
    let params = DeleteParams {
        uid: Some(view.uid.to_string()),
        ..DeleteParams::default()
    };
    let deleted = client
        .delete::<Event>(name.namespace(), &name.name, &params)
        .await;
    match deleted {
        Err(error) if !is_gone(&error) => {
            tracing::debug!(event = %name, %error, "an event was not removed");
            Outcome::Retry
        }
        _ => Outcome::Done,
    }
}

fn is_gone(error: &ApiError) -> bool {
    error.is_not_found() || error.is_conflict()
}
