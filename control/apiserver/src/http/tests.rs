// SPDX-License-Identifier: Apache-2.0
//! Paths and content negotiation.

use http::{HeaderMap, HeaderValue, Method, Uri};

use super::negotiate::{Accept, Form, Format};
use super::path::{Query, Target};

/// Resource, namespace, name and subresource.
type Named = (String, Option<String>, Option<String>, Option<String>);

fn resource(path: &str) -> Option<Named> {
    match Target::parse(path) {
        Target::Resource(p) => Some((p.kind.plural.to_owned(), p.namespace, p.name, p.subresource)),
        _ => None,
    }
}

#[test]
fn a_path_names_resource_namespace_object_and_part() {
    let some = |text: &str| Some(text.to_owned());
    for (path, expected) in [
        ("/api/v1/pods", ("pods", None, None, None)),
        ("/api/v1/namespaces/a/pods", ("pods", some("a"), None, None)),
        (
            "/api/v1/namespaces/a/pods/b/log",
            ("pods", some("a"), some("b"), some("log")),
        ),
        (
            "/api/v1/namespaces/a",
            ("namespaces", None, some("a"), None),
        ),
        (
            "/api/v1/namespaces/a/finalize",
            ("namespaces", None, some("a"), some("finalize")),
        ),
        (
            "/apis/apps/v1/namespaces/a/deployments/b/scale",
            ("deployments", some("a"), some("b"), some("scale")),
        ),
        ("/api/v1/nodes/n%2D1/", ("nodes", None, some("n-1"), None)),
    ] {
        let (kind, namespace, name, sub) = expected;
        assert_eq!(
            resource(path),
            Some((kind.to_owned(), namespace, name, sub)),
            "{path}"
        );
    }
}

#[test]
fn what_is_not_served_is_unknown() {
    for path in [
        "/api/v2/pods",
        "/api/v1/pods/b",
        "/api/v1/namespaces/a/nodes",
        "/api/v1/namespaces/a/pods/b/foo",
        "/api/v1/namespaces/a/pods/b/log/c",
        "/apis/apps/v1beta1/deployments",
        "/apis/foo",
        "/foo",
        "/api/v1/namespaces//pods",
        "/api/v1/namespaces/%ff/pods",
    ] {
        assert!(
            matches!(Target::parse(path), Target::Unknown),
            "{path}: {:?}",
            Target::parse(path)
        );
    }
}

fn choose(accept: &str) -> Result<(Format, Form), u16> {
    let mut headers = HeaderMap::new();
    headers.insert("accept", HeaderValue::from_str(accept).expect("a header"));
    Accept::parse(&headers)
        .choose(|form| matches!(form, Form::Table(_)))
        .map_err(|e| e.code())
}

#[test]
fn the_first_form_that_can_be_answered_wins() {
    assert_eq!(
        choose("application/json;as=Table;v=v1;g=meta.k8s.io,application/json"),
        Ok((Format::Json, Form::Table("v1")))
    );
    assert_eq!(
        choose("application/vnd.kubernetes.protobuf,application/json"),
        Ok((Format::Json, Form::Plain))
    );
    assert_eq!(choose("application/yaml"), Ok((Format::Yaml, Form::Plain)));
    assert_eq!(choose("*/*"), Ok((Format::Json, Form::Plain)));
    assert_eq!(choose("application/vnd.kubernetes.protobuf"), Err(406));
    assert_eq!(choose("application/json;as=Foo;v=v1;g=x"), Err(406));
}

#[test]
fn only_collections_and_named_objects_are_watched() {
    let verb = |method: Method, path: &str| {
        let uri: Uri = path.parse().expect("a path");
        super::verb(&method, &Target::parse(uri.path()), &Query::parse(&uri))
    };
    for path in [
        "/api/v1/pods?watch=true",
        "/api/v1/namespaces/a/pods?watch=1",
        "/api/v1/namespaces/a/pods/b?watch=true",
        "/api/v1/namespaces/a?watch=true",
    ] {
        assert_eq!(verb(Method::GET, path), "watch", "{path}");
        assert_eq!(verb(Method::HEAD, path), "watch", "{path}");
    }
    for (path, named) in [
        ("/api/v1/pods?watch=false", "list"),
        ("/api/v1/namespaces/a/pods/b/status?watch=true", "get"),
        ("/api/v1/namespaces/a/pods/b/log?watch=true", "log"),
        ("/api/v1/namespaces/a/bindings?watch=true", "list"),
        (
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews?watch=true",
            "list",
        ),
        (
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions?watch=true",
            "list",
        ),
        ("/openapi/v2?watch=true", "get"),
        ("/metrics?watch=true", "get"),
        ("/nowhere?watch=true", "get"),
    ] {
        assert_eq!(verb(Method::GET, path), named, "{path}");
    }
    assert_eq!(verb(Method::POST, "/api/v1/pods?watch=true"), "create");
}
