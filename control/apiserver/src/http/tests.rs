// SPDX-License-Identifier: Apache-2.0
//! Paths and content negotiation.

use http::{HeaderMap, HeaderValue};

use super::negotiate::{Accept, Form, Format};
use super::path::Target;

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
