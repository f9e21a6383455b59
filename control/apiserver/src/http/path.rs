// SPDX-License-Identifier: Apache-2.0
//! What a URL asks for: the resource and name in its path, the parameters in its query.

use std::sync::Arc;

use axum::extract::Query as AxumQuery;
use http::Uri;
use percent_encoding::percent_decode_str;

use crate::kinds::NAMESPACES;
use crate::registry::{Kind, Registry};

/// What a path names.
#[derive(Debug)]
pub(crate) enum Target {
    /// `/`
    Root,
    /// `/livez`, `/readyz/ping` and the like.
    Health(String),
    Version,
    Metrics,
    /// `/api`
    Api,
    /// `/apis`
    Apis,
    /// `/apis/GROUP`
    Group(String),
    /// `/api/v1`, `/apis/GROUP/VERSION`
    GroupVersion(String, String),
    OpenApiV2,
    OpenApiV3,
    OpenApiV3Of(String, String),
    Resource(ResourcePath),
    /// The list of CustomResourceDefinitions, which are not served yet; see `discovery::no_definitions`.
    Definitions,
    /// Nothing, below a group and version that are served.
    NoResource,
    /// Nothing at all.
    Unknown,
}

/// A resource, one object of it, or a part of that.
#[derive(Debug)]
pub(crate) struct ResourcePath {
    pub(crate) kind: Arc<Kind>,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
    pub(crate) form: PathForm,
}

/// The two ways in which a path may name a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PathForm {
    /// `/api/v1/pods`
    Plain,
    /// `/api/v1/watch/pods`: a watch whatever its query says. Deprecated since Kubernetes 1.11, and still served there.
    Watch,
}

impl ResourcePath {
    /// Whether `?watch=true` means anything: of a collection or an object, not of a part of one and not of Bindings,
    /// which nobody keeps.
    pub(crate) fn can_be_watched(&self) -> bool {
        self.subresource.is_none() && self.kind.is_kept()
    }

    /// Whether a GET of this path with this query is a watch.
    pub(crate) fn is_watched(&self, query: &Query) -> bool {
        self.form == PathForm::Watch || self.can_be_watched() && query.is_true("watch")
    }
}

impl Target {
    pub(crate) fn parse(registry: &Registry, path: &str) -> Self {
        let Some(parts) = path
            .split('/')
            .skip(1)
            .map(percent_decoded)
            .collect::<Option<Vec<String>>>()
        else {
            return Self::Unknown;
        };
        // A single slash at the end says nothing more.
        let mut parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        if parts.len() > 1 && parts.last() == Some(&"") {
            parts.pop();
        }
        match parts.as_slice() {
            [] | [""] => Self::Root,
            ["livez" | "readyz" | "healthz", ..] => Self::Health(path.to_owned()),
            ["version"] => Self::Version,
            ["metrics"] => Self::Metrics,
            ["api"] => Self::Api,
            ["apis"] => Self::Apis,
            ["openapi", "v2"] => Self::OpenApiV2,
            ["openapi", "v3"] => Self::OpenApiV3,
            ["openapi", "v3", "api", version] => {
                Self::OpenApiV3Of(String::new(), (*version).to_owned())
            }
            ["openapi", "v3", "apis", group, version] => {
                Self::OpenApiV3Of((*group).to_owned(), (*version).to_owned())
            }
            [
                "apis",
                "apiextensions.k8s.io",
                "v1",
                "customresourcedefinitions",
            ] => Self::Definitions,
            ["api", version] => known_version(registry, "", version),
            ["apis", group] if !versions_of(registry, group).is_empty() => {
                Self::Group((*group).to_owned())
            }
            ["apis", group, version] => known_version(registry, group, version),
            ["api", version, rest @ ..] => resource(registry, "", version, rest),
            ["apis", group, version, rest @ ..] => resource(registry, group, version, rest),
            _ => Self::Unknown,
        }
    }
}

fn known_version(registry: &Registry, group: &str, version: &str) -> Target {
    if versions_of(registry, group).contains(&version) {
        Target::GroupVersion(group.to_owned(), version.to_owned())
    } else {
        Target::Unknown
    }
}

/// The versions that a group is served in.
pub(crate) fn versions_of<'a>(registry: &'a Registry, group: &str) -> Vec<&'a str> {
    let kinds = registry
        .all()
        .filter(|k| k.group == group)
        .map(|k| &*k.version);
    let mut all: Vec<&str> = kinds.collect();
    all.dedup();
    all
}

fn resource(registry: &Registry, group: &str, version: &str, rest: &[&str]) -> Target {
    match named_resource(registry, group, version, rest) {
        Some(target) => target,
        None if versions_of(registry, group).contains(&version) => Target::NoResource,
        None => Target::Unknown,
    }
}

fn named_resource(
    registry: &Registry,
    group: &str,
    version: &str,
    rest: &[&str],
) -> Option<Target> {
    let owned = |text: &&str| (**text).to_owned();
    let (form, rest) = match rest {
        ["watch", rest @ ..] => (PathForm::Watch, rest),
        _ => (PathForm::Plain, rest),
    };
    let (namespace, rest) = match rest {
        // `namespaces/NAME`, `namespaces/NAME/status` and `/finalize` are about the namespace itself.
        [NAMESPACES, _] | [NAMESPACES, _, "status" | "finalize"] if group.is_empty() => {
            (None, rest)
        }
        [NAMESPACES, namespace, rest @ ..] if !rest.is_empty() => (Some(owned(namespace)), rest),
        _ => (None, rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (*plural, None, None),
        [plural, name] => (*plural, Some(owned(name)), None),
        [plural, name, sub] => (*plural, Some(owned(name)), Some(owned(sub))),
        _ => return None,
    };
    if name.as_deref() == Some("") || namespace.as_deref() == Some("") {
        return None;
    }
    let kind = registry.by_resource(group, version, plural)?;
    if !kind.is_kept() && name.is_some() {
        return None;
    }
    // An object of a namespace needs one, an object of the cluster has none.
    if kind.namespaced() != namespace.is_some() && (name.is_some() || namespace.is_some()) {
        return None;
    }
    if let Some(sub) = &subresource
        && kind.subresource(sub).is_none()
    {
        return None;
    }
    let path = ResourcePath {
        kind: Arc::clone(kind),
        namespace,
        name,
        subresource,
        form,
    };
    if form == PathForm::Watch && !path.can_be_watched() {
        return None;
    }
    Some(Target::Resource(path))
}

/// A text with `%XX` written out; `None` where that is not UTF-8 or the sign stands alone.
pub(super) fn percent_decoded(text: &str) -> Option<String> {
    // The decoder leaves a sign without two digits as it is; here it is an error.
    let mut signs = text.split('%').skip(1).map(str::as_bytes);
    let is_whole = |after: &[u8]| {
        let digits = after.get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !signs.all(is_whole) {
        return None;
    }
    let decoded = percent_decode_str(text).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

/// The parameters of a query.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(uri: &Uri) -> Self {
        AxumQuery::<Vec<(String, String)>>::try_from_uri(uri)
            .map(|q| Self(q.0))
            .unwrap_or_default()
    }

    /// The first value of a parameter; an empty one counts as absent.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    /// Whether a parameter is given at all.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// All values of a parameter.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// A parameter that is a boolean: given without a value it is true, and only `0` and `false` are false, as in
    /// `Convert_Slice_string_To_bool` of apimachinery (v1.37).
    pub(crate) fn is_true(&self, name: &str) -> bool {
        let given = self.0.iter().find(|(key, _)| key == name);
        given.is_some_and(|(_, value)| value != "0" && !value.eq_ignore_ascii_case("false"))
    }
}
