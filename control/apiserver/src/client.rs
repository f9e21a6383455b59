// SPDX-License-Identifier: Apache-2.0
//! The API for the rest of the process: typed calls, no HTTP, no second cache.
//!
//! Controllers, the scheduler and the node feed use it. Every write takes the same way as one that comes over the
//! network; only authorization is left out.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource};
use knarr_api::fields::FieldSelector;
use knarr_api::labels::Selector;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::admission::Part;
use crate::cache::Cache;
use crate::core::{Core, KindChange, KindError, Served};
use crate::kinds::CustomKind;
use crate::registry::{GroupVersionResource, Kind, KindId};
use crate::verbs::{DeleteOptions, WriteOptions, Written};
use crate::{ApiError, Object, Patch, Propagation, schema};

/// The in-process client. Clones are cheap.
#[derive(Debug, Clone)]
pub struct Client {
    core: Arc<Core>,
}

/// Which objects to list.
#[derive(Debug, Clone)]
pub struct ListParams {
    /// By labels.
    pub labels: Selector,
    /// By fields that the kind supports.
    pub fields: FieldSelector,
}

impl Default for ListParams {
    fn default() -> Self {
        Self {
            labels: Selector::EVERYTHING,
            fields: FieldSelector::default(),
        }
    }
}

/// How to delete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteParams {
    /// Only the object with this uid; another one is a conflict.
    pub uid: Option<String>,
    /// Only this version; another one is a conflict.
    pub resource_version: Option<String>,
    /// Seconds that a pod may take to end; `Some(0)` removes the object at once.
    pub grace_period_seconds: Option<i64>,
    /// What happens to its dependents; `None` is the kind's default.
    pub propagation: Option<Propagation>,
}

impl From<&DeleteParams> for DeleteOptions {
    fn from(params: &DeleteParams) -> Self {
        Self {
            uid: params.uid.clone(),
            resource_version: params.resource_version.clone(),
            grace_period_seconds: params.grace_period_seconds,
            propagation: params.propagation,
        }
    }
}

impl Client {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// The object as of now, including every acknowledged write. `namespace` is `None` for kinds of the cluster.
    pub async fn get<K>(&self, namespace: Option<&str>, name: &str) -> Result<K, ApiError>
    where
        K: Resource + DeserializeOwned,
    {
        let kind = &self.kind_named::<K>()?;
        let object = self
            .core
            .get(kind, namespace.unwrap_or_default(), name, None)
            .await?;
        self.parse(kind, &object)
    }

    /// Objects of one namespace, or of all with `None`.
    pub async fn list<K>(
        &self,
        namespace: Option<&str>,
        params: &ListParams,
    ) -> Result<Vec<K>, ApiError>
    where
        K: Resource + DeserializeOwned,
    {
        let kind = &self.kind_named::<K>()?;
        self.core.fresh().await?;
        let snapshot = self.core.cache(kind)?.0.list(namespace);
        snapshot
            .objects
            .iter()
            .filter(|o| crate::page::matches(kind, o, &params.labels, &params.fields))
            .map(|o| self.parse(kind, o))
            .collect()
    }

    /// Whether something of whatever kind is stored that cannot be read. What is absent may then be there all the
    /// same, and nothing may be deleted because of it. Who knows which kinds matter asks [`Client::has_unreadable_of`].
    #[must_use]
    pub fn has_unreadable(&self) -> bool {
        self.core.has_unreadable()
    }

    /// Whether an object of this kind is stored that cannot be read.
    pub fn has_unreadable_of<K: Resource>(&self) -> Result<bool, ApiError> {
        Ok(self.core.has_unreadable_of(&*self.kind_named::<K>()?))
    }

    /// Creates an object; `metadata.generateName` is honoured.
    pub async fn create<K>(&self, object: &K) -> Result<K, ApiError>
    where
        K: Resource + Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned,
    {
        let kind = &self.kind_named::<K>()?;
        let namespace = object.metadata().namespace.clone().unwrap_or_default();
        let written = self
            .core
            .create(kind, &namespace, tree(object)?, &WriteOptions::in_process())
            .await?;
        typed(&written)
    }

    /// Replaces an object, except its status. With a `resourceVersion`, only if it has not changed since.
    pub async fn update<K>(&self, object: &K) -> Result<K, ApiError>
    where
        K: Resource + Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned,
    {
        self.replace(object, Part::Main).await
    }

    /// Replaces the status of an object and nothing else.
    pub async fn update_status<K>(&self, object: &K) -> Result<K, ApiError>
    where
        K: Resource + Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned,
    {
        self.replace(object, Part::Status).await
    }

    async fn replace<K>(&self, object: &K, part: Part) -> Result<K, ApiError>
    where
        K: Resource + Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned,
    {
        let kind = &self.kind_named::<K>()?;
        let namespace = object.metadata().namespace.clone().unwrap_or_default();
        let name = object.metadata().name.clone().unwrap_or_default();
        let written = self
            .core
            .replace(
                kind,
                &namespace,
                &name,
                part,
                tree(object)?,
                &WriteOptions::in_process(),
            )
            .await?;
        typed(&written)
    }

    /// Changes an object, or with `Some("status")` its status. Retried while others change it, unless the
    /// patch itself names a `resourceVersion`.
    pub async fn patch<K>(
        &self,
        namespace: Option<&str>,
        name: &str,
        patch: &Patch,
        subresource: Option<&str>,
    ) -> Result<K, ApiError>
    where
        K: Resource + DeserializeOwned,
    {
        let kind = &self.kind_named::<K>()?;
        let part = match subresource {
            None => Part::Main,
            Some("status") => Part::Status,
            Some(other) => {
                return Err(ApiError::bad_request(format!(
                    "the in-process client cannot patch subresource {other:?}"
                )));
            }
        };
        let written = self
            .core
            .patch(
                kind,
                namespace.unwrap_or_default(),
                name,
                part,
                patch,
                &WriteOptions::in_process(),
            )
            .await?;
        typed(&written)
    }

    /// Changes an object that exists in memory only: a new `resourceVersion` and an event, and nothing on the disk.
    /// The change is lost when the process ends, and part of the next durable write of the object before that. For
    /// what is true only as long as it is said again: heartbeats. Neither admission nor validation sees it.
    pub async fn write_in_memory<K: Resource>(
        &self,
        namespace: Option<&str>,
        name: &str,
        change: impl Fn(&mut Value) + Send + Sync,
    ) -> Result<(), ApiError> {
        let kind = &self.kind_named::<K>()?;
        let namespace = namespace.unwrap_or_default();
        self.core
            .write_in_memory(kind, namespace, name, &change)
            .await
    }

    /// Deletes an object, or starts its deletion where grace or finalizers say so. Not finding it is an error.
    pub async fn delete<K>(
        &self,
        namespace: Option<&str>,
        name: &str,
        params: &DeleteParams,
    ) -> Result<(), ApiError>
    where
        K: Resource,
    {
        let kind = &self.kind_named::<K>()?;
        self.remove(kind, namespace.unwrap_or_default(), name, params)
            .await
    }

    async fn remove(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        params: &DeleteParams,
    ) -> Result<(), ApiError> {
        let deletion = DeleteOptions::from(params);
        let options = WriteOptions::in_process();
        self.core
            .delete(kind, namespace, name, Part::Main, &deletion, &options)
            .await
            .map(|_| ())
    }

    /// Deletes an object of any kind, named by its resource; for namespace deletion and garbage collection.
    pub async fn delete_resource(
        &self,
        resource: &GroupVersionResource,
        namespace: Option<&str>,
        name: &str,
        params: &DeleteParams,
    ) -> Result<(), ApiError> {
        let kind = &self.kind_at(resource)?;
        self.remove(kind, namespace.unwrap_or_default(), name, params)
            .await
    }

    /// Creates an object of any kind, named by its resource; for what has no type of its own.
    pub async fn create_resource(
        &self,
        resource: &GroupVersionResource,
        namespace: Option<&str>,
        object: Value,
    ) -> Result<Value, ApiError> {
        let kind = &self.kind_at(resource)?;
        let namespace = namespace.unwrap_or_default();
        let object = schema::decode_value(&kind.schema, object)?.value;
        let written = self
            .core
            .create(kind, namespace, object, &WriteOptions::in_process())
            .await?;
        typed(&written)
    }

    /// Patches an object of any kind, named by its resource; for finalizers and owner references.
    pub async fn patch_resource(
        &self,
        resource: &GroupVersionResource,
        namespace: Option<&str>,
        name: &str,
        patch: &Patch,
    ) -> Result<(), ApiError> {
        let kind = &self.kind_at(resource)?;
        self.core
            .patch(
                kind,
                namespace.unwrap_or_default(),
                name,
                Part::Main,
                patch,
                &WriteOptions::in_process(),
            )
            .await?;
        Ok(())
    }

    /// Binds a pending pod to a node, as `POST pods/NAME/binding`. A conflict when it is bound already, and when
    /// another pod than the one with `uid` has the name now.
    pub async fn bind(
        &self,
        namespace: &str,
        pod: &str,
        uid: &str,
        node: &str,
    ) -> Result<(), ApiError> {
        let binding = json!({
            "metadata": {"namespace": namespace, "name": pod, "uid": uid},
            "target": {"name": node},
        });
        let kind = &self.kind_named::<Pod>()?;
        self.core
            .bind(kind, namespace, pod, &binding, &WriteOptions::in_process())
            .await
            .map(|_| ())
    }

    /// Takes the `kubernetes` finalizer off a terminating namespace whose content is gone, which removes it.
    pub async fn finalize_namespace(&self, name: &str) -> Result<(), ApiError> {
        let kind = &self.kind_named::<Namespace>()?;
        let kept = json!({"spec": {}});
        let options = WriteOptions::in_process();
        let finalized = self.core.finalize(kind, name, &kept, &options).await;
        finalized.map(|_| ())
    }

    /// The cache of a resource. 404 for one that is not served.
    pub fn cache(&self, resource: &GroupVersionResource) -> Result<Cache, ApiError> {
        self.core.cache(&*self.kind_at(resource)?)
    }

    /// The cache of a typed kind. 404 for one that is not served.
    pub fn cache_of<K: Resource>(&self) -> Result<Cache, ApiError> {
        let kind = &self.kind_named::<K>()?;
        self.core.cache(kind)
    }

    /// Serves a kind that is not built in, or another form of one that is served already. When it returns, every request
    /// that follows knows it.
    pub async fn serve_kind(&self, kind: CustomKind) -> Result<(), KindError> {
        let change = KindChange::Serve(Box::new(kind.into()));
        self.core.change_kinds(change).await
    }

    /// Ends serving a kind that is not built in: its watches end, and its stored objects stay where they are.
    pub async fn withdraw_kind(&self, resource: &GroupVersionResource) -> Result<(), KindError> {
        let change = KindChange::Withdraw(resource.clone());
        self.core.change_kinds(change).await
    }

    /// The resources that are stored now, with their caches; for what follows all of them.
    #[must_use]
    pub fn stored_resources(&self) -> StoredResources {
        let served = self.core.served();
        let resource = |kind: &Arc<Kind>| {
            Some(StoredResource {
                id: kind.id,
                resource: GroupVersionResource::new(&*kind.group, &*kind.version, &*kind.plural),
                kind: kind.kind.to_string(),
                namespaced: Namespaced(kind.namespaced()),
                cache: served.own_cache(kind)?,
            })
        };
        StoredResources {
            generation: served.generation,
            resources: served.registry.stored().filter_map(resource).collect(),
        }
    }

    /// [`StoredResources::generation`] as of now.
    #[must_use]
    pub fn resources_generation(&self) -> u64 {
        self.core.served().generation
    }

    /// Every resource that is stored, with `true` where objects live in a namespace; what namespace
    /// deletion goes through.
    #[must_use]
    pub fn resources(&self) -> Vec<(GroupVersionResource, Namespaced)> {
        let registry = self.core.registry();
        registry
            .stored()
            .map(|kind| {
                (
                    GroupVersionResource::new(&*kind.group, &*kind.version, &*kind.plural),
                    Namespaced(kind.namespaced()),
                )
            })
            .collect()
    }

    /// The kind of a stored resource's objects, such as `Pod`.
    #[must_use]
    pub fn kind_of(&self, resource: &GroupVersionResource) -> Option<String> {
        let kind = self.kind_at(resource).ok()?;
        Some(kind.kind.to_string())
    }

    /// Waits for changes of [`Client::resources`], from this call on.
    #[must_use]
    pub fn resource_changes(&self) -> ResourceChanges {
        ResourceChanges(self.core.served_changes())
    }

    fn kind_named<K: Resource>(&self) -> Result<Arc<Kind>, ApiError> {
        self.core.registry().kind(K::GROUP, K::VERSION, K::KIND)
    }

    fn kind_at(&self, resource: &GroupVersionResource) -> Result<Arc<Kind>, ApiError> {
        let GroupVersionResource {
            group,
            version,
            resource,
        } = resource;
        self.core.registry().resource(group, version, resource)
    }

    /// Waits until the caches show every write that was acknowledged before this call.
    pub async fn sync(&self) -> Result<u64, ApiError> {
        self.core.fresh().await
    }

    /// The namespaces that every cluster has; existing ones are left alone.
    pub(crate) async fn ensure_namespaces(&self) -> Result<(), ApiError> {
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            if self.cache_of::<Namespace>()?.get("", name).is_some() {
                continue;
            }
            let metadata = ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            };
            let namespace = Namespace {
                metadata,
                ..Namespace::default()
            };
            match self.create(&namespace).await {
                Err(error) if !error.is_already_exists() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn parse<K: DeserializeOwned>(&self, kind: &Kind, object: &Object) -> Result<K, ApiError> {
        if kind.is_view() {
            let view = kind.strategy.as_view(object.value());
            return serde_json::from_value(view).map_err(ApiError::internal);
        }
        object.parse().map_err(ApiError::internal)
    }
}

/// What is stored, as of one moment.
#[derive(Debug, Clone)]
pub struct StoredResources {
    /// A number of this moment: it grows with each change of what is served.
    pub generation: u64,
    /// Every resource that is stored.
    pub resources: Vec<StoredResource>,
}

/// A resource that is stored.
#[derive(Debug, Clone)]
pub struct StoredResource {
    /// Another one for each time that the resource is served again.
    pub id: KindId,
    /// Group, version and plural name.
    pub resource: GroupVersionResource,
    /// The kind of its objects, such as `Pod`.
    pub kind: String,
    /// Whether its objects live in namespaces.
    pub namespaced: Namespaced,
    /// Its objects.
    pub cache: Cache,
}

/// A wait for changes of what is served.
#[derive(Debug)]
pub struct ResourceChanges(watch::Receiver<Arc<Served>>);

impl ResourceChanges {
    /// Returns after a change. Dropping the future loses nothing.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // The server is gone, so nothing changes any more.
            std::future::pending::<()>().await;
        }
    }
}

/// Whether a resource's objects live in namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespaced(pub bool);

fn tree<K: Serialize>(object: &K) -> Result<Value, ApiError> {
    serde_json::to_value(object).map_err(ApiError::internal)
}

fn typed<K: DeserializeOwned>(written: &Written) -> Result<K, ApiError> {
    serde_json::from_slice(&written.bytes).map_err(ApiError::internal)
}
