// SPDX-License-Identifier: Apache-2.0
//! Paths and content negotiation.

use http::{HeaderMap, HeaderValue, Method, Uri};

use super::negotiate::{Accept, Form};
use super::path::{Query, Target};
use crate::codec::Format;
use crate::kinds;

/// Resource, namespace, name and subresource.
type Named = (String, Option<String>, Option<String>, Option<String>);

fn parse(path: &str) -> Target {
    Target::parse(&kinds::registry(), path)
}

fn resource(path: &str) -> Option<Named> {
    match parse(path) {
        Target::Resource(p) => Some((
            p.kind.plural.to_string(),
            p.namespace,
            p.name,
            p.subresource,
        )),
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
        "/api/v1/watch",
        "/api/v1/watch/bindings",
        "/api/v1/watch/namespaces/a/pods/b/log",
        "/apis/authorization.k8s.io/v1/watch/selfsubjectaccessreviews",
        "/apis/apiextensions.k8s.io/v1",
    ] {
        assert!(
            matches!(parse(path), Target::Unknown | Target::NoResource),
            "{path}: {:?}",
            parse(path)
        );
    }
}

fn choose(accept: &str) -> Result<(Format, Form), u16> {
    let mut headers = HeaderMap::new();
    headers.insert(
        "accept",
        HeaderValue::from_bytes(accept.as_bytes()).expect("a header"),
    );
    Accept::parse(&headers, &Query::default())
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
        Ok((Format::Protobuf, Form::Plain))
    );
    assert_eq!(choose("application/yaml"), Ok((Format::Yaml, Form::Plain)));
    assert_eq!(choose("*/*"), Ok((Format::Json, Form::Plain)));
    assert_eq!(
        choose("application/vnd.kubernetes.protobuf;q=0.5,application/json"),
        Ok((Format::Json, Form::Plain))
    );
    // A table is no message.
    let table = "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io";
    assert_eq!(choose(table), Err(406));
    assert_eq!(choose("application/json;as=Foo;v=v1;g=x"), Err(406));
    let yaml_first = "application/json;q=0.2, application/yaml;q=0.9";
    assert_eq!(choose(yaml_first), Ok((Format::Yaml, Form::Plain)));
    assert_eq!(
        choose("application/json;pretty=1"),
        Ok((Format::PrettyJson, Form::Plain))
    );
    assert_eq!(choose("application/j\u{f6}son"), Err(406));
}

#[test]
fn a_parameter_without_a_value_is_true_and_only_zero_and_false_are_false() {
    let is_true = |text: &str| {
        let uri: Uri = format!("/?{text}").parse().expect("a URI");
        Query::parse(&uri).is_true("watch")
    };
    for text in [
        "watch",
        "watch=",
        "watch=1",
        "watch=true",
        "watch=yes",
        "watch=2",
    ] {
        assert!(is_true(text), "{text}");
    }
    for text in ["", "watch=0", "watch=false", "watch=False", "watched=1"] {
        assert!(!is_true(text), "{text}");
    }
}

#[test]
fn only_collections_and_named_objects_are_watched() {
    let verb = |method: Method, path: &str| {
        let uri: Uri = path.parse().expect("a path");
        super::verb(&method, &parse(uri.path()), &Query::parse(&uri))
    };
    for path in [
        "/api/v1/pods?watch=true",
        "/api/v1/namespaces/a/pods?watch=1",
        "/api/v1/namespaces/a/pods/b?watch=true",
        "/api/v1/namespaces/a?watch=true",
        "/api/v1/watch/pods",
        "/api/v1/watch/pods?watch=false",
        "/api/v1/watch/nodes/n",
        "/api/v1/watch/namespaces/a",
        "/api/v1/watch/namespaces/a/pods",
        "/api/v1/watch/namespaces/a/pods/b",
        "/apis/apps/v1/watch/deployments",
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
        ("/openapi/v2?watch=true", "get"),
        ("/metrics?watch=true", "get"),
        ("/nowhere?watch=true", "get"),
    ] {
        assert_eq!(verb(Method::GET, path), named, "{path}");
    }
    assert_eq!(verb(Method::POST, "/api/v1/pods?watch=true"), "create");
}
