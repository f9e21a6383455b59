// SPDX-License-Identifier: Apache-2.0
//! Removes what has been kept long enough: Events (when that is, `knarr_control_plan::expiry` says) and join tokens that
//! have ended (`tokens`).
//!
//! Each such object has one timer; a cluster without any has none.

use std::time::Duration;

use knarr_api::k8s_openapi::Resource;
use knarr_api::k8s_openapi::api::core::v1::Event;
use knarr_api::k8s_openapi::jiff::Timestamp;
use knarr_apiserver::{ApiError, DeleteParams, Object};
use knarr_control_plan::expiry;
use serde::de::DeserializeOwned;

use super::Context;
use crate::informer::{self, Informer};
use crate::queue::{Outcome, Queue};
use crate::{clock, tokens};

/// What ends within this time of each other is looked at together.
const SLACK: Duration = Duration::from_secs(1);
/// Deletions under way at once.
const WORKERS: usize = 4;

struct View {
    uid: Box<str>,
    version: u64,
    ends: Timestamp,
}

/// Runs the loop of Events until shutdown.
pub(super) async fn events(context: Context) {
    let ends = |event: &Event| Some(expiry::event_ends(event, clock::now()));
    run(context, |_| true, ends).await;
}

/// Runs the loop of join tokens until shutdown.
pub(super) async fn tokens(context: Context) {
    let candidate = |object: &Object| *object.meta.namespace == *tokens::NAMESPACE;
    run(context, candidate, tokens::kept_until).await;
}

fn left(view: &View) -> Option<Duration> {
    expiry::left(view.ends, clock::now())
}

/// Only what is a `candidate` is read; `ends` gives nothing for an object that stays.
async fn run<K>(context: Context, candidate: fn(&Object) -> bool, ends: fn(&K) -> Option<Timestamp>)
where
    K: Resource + DeserializeOwned + 'static,
{
    let cache = match context.client.cache_of::<K>() {
        Ok(cache) => cache,
        Err(error) => {
            tracing::error!(kind = K::KIND, %error, "what ends is not removed");
            return;
        }
    };
    let view = move |object: &Object| {
        if !candidate(object) {
            return None;
        }
        let meta = &object.meta;
        Some(View {
            uid: meta.uid.clone(),
            version: meta.resource_version,
            ends: ends(&object.parse::<K>().ok()?)?,
        })
    };
    let queue = Queue::new();
    let waiting = queue.clone();
    let objects = informer::start(cache, context.shutdown.clone(), view, move |changed| {
        if let Some(view) = changed.new {
            let delay = left(view).unwrap_or_default();
            waiting.add_after(changed.name.clone(), delay + SLACK);
        }
    });
    objects.synced().await;
    let shutdown = context.shutdown.clone();
    let client = context.client.clone();
    queue
        .work(WORKERS, shutdown, move |name| {
            let (objects, client) = (objects.clone(), client.clone());
            async move { expire::<K>(&objects, &client, &name).await }
        })
        .await;
}

async fn expire<K: Resource>(
    objects: &Informer<View>,
    client: &knarr_apiserver::Client,
    name: &knarr_api::names::NamespacedName,
) -> Outcome {
    let Some(view) = objects.view(name) else {
        return Outcome::Done;
    };
    if let Some(left) = left(&view) {
        return Outcome::After(left + SLACK);
    }
    let params = DeleteParams {
        uid: Some(view.uid.to_string()),
        // Whoever has just given it more time is not overtaken.
        resource_version: Some(view.version.to_string()),
        ..DeleteParams::default()
    };
    let deleted = client
        .delete::<K>(name.namespace(), &name.name, &params)
        .await;
    match deleted {
        Err(error) if !is_gone(&error) => {
            tracing::debug!(kind = K::KIND, %name, %error, "what has ended was not removed");
            Outcome::Retry
        }
        _ => Outcome::Done,
    }
}

/// Gone or changed; a change brings the object back into the queue.
fn is_gone(error: &ApiError) -> bool {
    error.is_not_found() || error.is_conflict()
}
