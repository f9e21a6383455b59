// SPDX-License-Identifier: Apache-2.0
//! Bodies that are too large, too deep or no object at all: the server, not kubectl, says what is wrong with each, and
//! nothing is written.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout};
use std::time::Duration;

use knarr_tests::Cluster;
use serde_json::{Value, json};

use crate::bad_input::{assert_says, raw};

/// No answer takes longer, also on two loaded cores.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// How the server begins when it cannot even tell what a body says it is.
const NO_OBJECT: &str = "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: ";
/// How it begins when the body is not what it says it is.
const NO_CONFIG_MAP: &str = "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: ";
/// Levels that no real object has, and no stack should be asked to follow.
const DEPTH: usize = 20_000;

/// The API without TLS, as `kubectl proxy` offers it for as long as this lives: the way to send the server what kubectl
/// itself would refuse or change.
struct Proxy {
    kubectl: Child,
    /// Kept, so that kubectl can go on writing.
    output: BufReader<ChildStdout>,
    address: String,
}

impl Proxy {
    fn start(cluster: &Cluster) -> Self {
        let mut kubectl = cluster.kubectl.start(&["proxy", "--port=0"]);
        let output = BufReader::new(kubectl.stdout.take().expect("it was asked for"));
        let mut proxy = Self {
            kubectl,
            output,
            address: String::new(),
        };
        let mut line = String::new();
        proxy.output.read_line(&mut line).expect("it can be read");
        proxy.address = line
            .trim()
            .strip_prefix("Starting to serve on ")
            .unwrap_or_else(|| panic!("kubectl proxy does not say where it serves: {line:?}"))
            .to_owned();
        proxy
    }

    /// Status code and body of the answer. HTTP/1.0, so that it comes in one piece and ends with the connection.
    fn post(&self, path: &str, content_type: &str, body: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(&self.address).expect("the proxy serves");
        stream
            .set_read_timeout(Some(ANSWER_LIMIT))
            .expect("a limit above zero");
        let length = body.len();
        write!(
            stream,
            "POST {path} HTTP/1.0\r\nHost: {}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n{body}",
            self.address
        )
        .expect("the proxy reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("no HTTP: {answer:?}"));
        let code = head
            .split_whitespace()
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or_else(|| panic!("no status: {head:?}"));
        let body = serde_json::from_str(body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {answer}"));
        (code, body)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // One that has ended by itself has failed a request already.
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

fn config_maps(cluster: &Cluster) -> String {
    format!("/api/v1/namespaces/{}/configmaps", cluster.namespace)
}

/// Nothing but what the cluster puts into every namespace.
fn assert_nothing_written(cluster: &Cluster) {
    let found: Vec<Value> = cluster
        .kubectl
        .items(&["get", "configmaps"])
        .into_iter()
        .filter(|item| item["metadata"]["name"] != "kube-root-ca.crt")
        .collect();
    assert!(found.is_empty(), "something was written: {found:?}");
}

#[test]
fn a_body_over_three_mebibytes_is_too_large() {
    let cluster = Cluster::namespace("large-body");
    let large = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "large"}, "data": {"a": "x".repeat(3 << 20)}});
    assert_says(
        &raw(&cluster, &config_maps(&cluster), &large.to_string()),
        &["Error from server (RequestEntityTooLarge): Request entity too large: limit is 3145728"],
    );
    assert_nothing_written(&cluster);
    // It still works.
    cluster.kubectl.ok(&["create", "configmap", "fine"]);
}

#[test]
fn json_that_is_no_object_of_the_kind_is_a_bad_request_that_says_why() {
    let cluster = Cluster::namespace("bad-json");
    let path = config_maps(&cluster);
    // Deep where any JSON is kept, so that it has to be followed.
    let deep = format!(
        r#"{{"metadata":{{"name":"deep","managedFields":[{{"fieldsV1":{}1{}}}]}}}}"#,
        r#"{"a":"#.repeat(DEPTH),
        "}".repeat(DEPTH)
    );
    let unfinished = format!("{}1", r#"{"a":"#.repeat(DEPTH));
    for (body, begins, why) in [
        ("{", NO_OBJECT, "EOF while parsing an object"),
        ("", NO_OBJECT, "EOF while parsing a value"),
        (
            "null",
            NO_OBJECT,
            "invalid type: null, expected a JSON object",
        ),
        ("\u{0}\u{1}", NO_OBJECT, "expected value"),
        (&unfinished, NO_OBJECT, "EOF while parsing an object"),
        (
            "[]",
            NO_CONFIG_MAP,
            "json: cannot unmarshal array into Go value of type v1.ConfigMap",
        ),
        (
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":7}}"#,
            NO_CONFIG_MAP,
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.name of type string",
        ),
        (
            r#"{"metadata":{"name":"\ud800"}}"#,
            NO_CONFIG_MAP,
            "unexpected end of hex escape",
        ),
        (&deep, NO_CONFIG_MAP, "exceeded max depth of 100"),
    ] {
        let said = raw(&cluster, &path, body);
        let wanted = format!("Error from server (BadRequest): {begins}{why}");
        assert!(
            said.contains(&wanted),
            "`{}` was sent and `{wanted}` is not in:\n{said}",
            body.get(..60).unwrap_or(body)
        );
    }
    // Half of a surrogate pair in a field that the kind does not have is passed over with the field.
    assert_says(
        &raw(&cluster, &path, r#"{"a":"\ud800"}"#),
        &[
            "The ConfigMap \"\" is invalid",
            "metadata.name: Required value: name or generateName is required",
        ],
    );
    assert_nothing_written(&cluster);
    cluster.kubectl.ok(&["create", "configmap", "fine"]);
}

#[test]
fn broken_yaml_is_a_bad_request_that_says_where() {
    let cluster = Cluster::namespace("bad-yaml");
    let path = config_maps(&cluster);
    let proxy = Proxy::start(&cluster);
    let yaml = "application/yaml";
    for (body, place) in [
        ("apiVersion: v1\nkind: ConfigMap\n\tmetadata: {", "line 3"),
        ("metadata: [a, b", "line 1"),
        ("metadata: {name: a}\ndata: *nowhere\n", "line 2"),
    ] {
        let (code, status) = proxy.post(&path, yaml, body);
        assert_eq!(
            (code, status["reason"].as_str(), status["code"].as_u64()),
            (400, Some("BadRequest"), Some(400)),
            "{body:?}: {status}"
        );
        let message = status["message"].as_str().unwrap_or_default();
        assert!(
            message.starts_with(
                "the object provided is unrecognized: error converting YAML to JSON: yaml: "
            ) && message.contains(place),
            "{body:?}: {message}"
        );
    }
    assert_nothing_written(&cluster);
    // The same way takes YAML that is whole.
    let (code, made) = proxy.post(&path, yaml, "metadata: {name: fine}\ndata: {a: b}\n");
    assert_eq!(
        (code, made["data"]["a"].as_str()),
        (201, Some("b")),
        "{made}"
    );
}

#[test]
fn a_patch_that_is_none_or_does_not_fit_is_refused_with_the_operation() {
    let cluster = Cluster::namespace("bad-patch");
    for (operations, wanted) in [
        (
            r#"[{"op":"jump"}]"#,
            "Error from server (BadRequest): error decoding patch: unknown variant `jump`",
        ),
        (
            r#"[{"op":"remove","path":"/metadata/nothing"}]"#,
            "The request is invalid: the server rejected our request due to an error in our request: operation '/0' failed at path '/metadata/nothing'",
        ),
    ] {
        let said = cluster.kubectl.refused(
            &[
                "patch",
                "namespace",
                &cluster.namespace,
                "--type=json",
                "--patch",
                operations,
            ],
            "",
        );
        assert_says(&said, &[wanted]);
    }
}
