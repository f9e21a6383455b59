// SPDX-License-Identifier: Apache-2.0
//! Deletes objects that are kept for a time only: Events and the Secrets of join tokens.
//!
//! `knarr_control_plan::expiry` and `knarr_control_plan::join_tokens` say how long. Each such object has one timer, so a
//! cluster without any has none.

use std::marker::PhantomData;
use std::time::Duration;

use async_trait::async_trait;
use knarr_api::k8s_openapi::Resource;
use knarr_api::k8s_openapi::api::core::v1::{Event, Secret};
use knarr_api::k8s_openapi::jiff::Timestamp;
use knarr_api::names::NamespacedName;
use knarr_apiserver::{ApiError, Client, DeleteParams, Object};
use knarr_control_plan::{expiry, join_tokens};
use serde::de::DeserializeOwned;

use crate::clock;
use crate::controller::{Controller, Reconcile, Registration};
use crate::informer::{Informer, View};
use crate::queue::Outcome;
use crate::shared::Shared;

/// Objects that expire within this time of each other are deleted together.
const SLACK: Duration = Duration::from_secs(1);
/// Deletions under way at once.
const WORKERS: usize = 4;

/// A kind of which objects expire.
trait Expires: Resource + DeserializeOwned + Send + Sync + 'static {
    /// False for objects that need not be parsed, because they never expire.
    fn may_expire(object: &Object) -> bool;
    /// When this one expires; `None` for one that stays.
    fn expires_at(&self) -> Option<Timestamp>;
}

impl Expires for Event {
    fn may_expire(_: &Object) -> bool {
        true
    }

    fn expires_at(&self) -> Option<Timestamp> {
        Some(expiry::event_ends(self, clock::now()))
    }
}

impl Expires for Secret {
    fn may_expire(object: &Object) -> bool {
        *object.meta.namespace == *join_tokens::NAMESPACE
    }

    fn expires_at(&self) -> Option<Timestamp> {
        join_tokens::kept_until(self)
    }
}

/// What is kept of an object that expires.
struct Expiring<K> {
    uid: Box<str>,
    version: u64,
    at: Timestamp,
    kind: PhantomData<fn() -> K>,
}

impl<K> Expiring<K> {
    fn left(&self) -> Option<Duration> {
        expiry::left(self.at, clock::now())
    }
}

impl<K: Expires> View for Expiring<K> {
    type Kind = K;

    fn of(object: &Object) -> Option<Self> {
        if !K::may_expire(object) {
            return None;
        }
        let meta = &object.meta;
        Some(Self {
            uid: meta.uid.clone(),
            version: meta.resource_version,
            at: object.parse::<K>().ok()?.expires_at()?,
            kind: PhantomData,
        })
    }
}

struct Expiry<K> {
    client: Client,
    objects: Informer<Expiring<K>>,
}

/// Registers the controller of Events.
pub(crate) fn register_events(shared: &Shared) -> Result<Registration, ApiError> {
    register::<Event>(shared, "event-ttl-controller")
}

/// Registers the controller of join tokens.
pub(crate) fn register_tokens(shared: &Shared) -> Result<Registration, ApiError> {
    register::<Secret>(shared, "token-cleaner")
}

fn register<K: Expires>(shared: &Shared, name: &'static str) -> Result<Registration, ApiError> {
    let objects = shared.informers().of::<Expiring<K>>()?;
    Ok(Controller::new(shared, name, WORKERS)
        .watches(&objects, |queue, change| {
            if let Some(view) = change.new {
                let delay = view.left().unwrap_or_default();
                queue.add_after(change.name.clone(), delay + SLACK);
            }
        })
        .reconcile(Expiry {
            client: shared.client(),
            objects,
        }))
}

#[async_trait]
impl<K: Expires> Reconcile for Expiry<K> {
    type Key = NamespacedName;

    async fn reconcile(&self, name: &NamespacedName) -> Result<Outcome, ApiError> {
        let Some(view) = self.objects.view(name) else {
            return Ok(Outcome::Done);
        };
        if let Some(left) = view.left() {
            return Ok(Outcome::After(left + SLACK));
        }
        let params = DeleteParams {
            uid: Some(view.uid.to_string()),
            // An object that has just been given more time stays.
            resource_version: Some(view.version.to_string()),
            ..DeleteParams::default()
        };
        let deleted = self
            .client
            .delete::<K>(name.namespace(), &name.name, &params)
            .await;
        match deleted {
            // Gone or changed; a change brings the object back into the queue.
            Err(error) if !error.is_not_found() && !error.is_conflict() => {
                tracing::debug!(kind = K::KIND, %name, %error, "an expired object was not deleted");
                Ok(Outcome::Retry)
            }
            _ => Ok(Outcome::Done),
        }
    }
}
