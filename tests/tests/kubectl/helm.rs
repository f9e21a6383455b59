// SPDX-License-Identifier: Apache-2.0
//! The real helm with a chart of its own: install, list, upgrade and uninstall as a user does them, and the
//! message for people who do not know that objects are put together on the client.

use std::fs;
use std::process::Command;

use knarr_tests::lab::up_dir;
use knarr_tests::{Cluster, Outcome, manifests};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Applied on the client, as this server wants it.
const ON_THE_CLIENT: &str = "--server-side=false";

/// A ConfigMap and a Deployment whose names are the release's.
const TEMPLATE: &str = "\
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Release.Name }}
data:
  greeting: {{ .Values.greeting | quote }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .Release.Name }}
spec:
  replicas: {{ .Values.replicas }}
  selector:
    matchLabels:
      app: {{ .Release.Name }}
  template:
    metadata:
      labels:
        app: {{ .Release.Name }}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: echo
          image: {{ .Values.image | quote }}
";

/// helm with a chart, both in one directory that goes with the test.
struct Helm {
    dir: TempDir,
    namespace: String,
}

impl Helm {
    fn new(cluster: &Cluster) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let chart = dir.path().join("chart");
        fs::create_dir_all(chart.join("templates")).expect("made");
        let values = json!({"greeting": "hello", "replicas": 1, "image": manifests::ECHO});
        for (file, text) in [
            (
                "Chart.yaml",
                "apiVersion: v2\nname: greeter\nversion: 1.2.3\n".to_owned(),
            ),
            ("values.yaml", values.to_string()),
            ("templates/all.yaml", TEMPLATE.to_owned()),
        ] {
            fs::write(chart.join(file), text).expect("written");
        }
        Self {
            dir,
            namespace: cluster.namespace.clone(),
        }
    }

    /// Runs it, whatever comes of it. The chart is called `chart`.
    fn run(&self, args: &[&str]) -> Outcome {
        let up = up_dir();
        let mut command = Command::new(up.join("bin/helm"));
        command
            .arg("--kubeconfig")
            .arg(up.join("kubeconfig"))
            .args(["--namespace", &self.namespace])
            .args(args)
            .current_dir(self.dir.path())
            .env_clear();
        // helm keeps caches, settings and plugins, and its Kubernetes client a cache in the home directory; of the
        // developer's own none may count or be changed.
        for place in [
            "HOME",
            "TMPDIR",
            "HELM_CACHE_HOME",
            "HELM_CONFIG_HOME",
            "HELM_DATA_HOME",
        ] {
            command.env(place, self.dir.path());
        }
        Outcome::of(&mut command, "")
    }

    fn ok(&self, args: &[&str]) -> String {
        let outcome = self.run(args);
        assert!(
            outcome.success,
            "helm {} failed:\n{}{}",
            args.join(" "),
            outcome.stdout,
            outcome.stderr
        );
        outcome.stdout
    }

    /// Installs the chart again with another value.
    fn upgrade(&self, value: &str) {
        self.ok(&["upgrade", ON_THE_CLIENT, "greeter", "chart", "--set", value]);
    }

    /// Name, revision, status and chart of every release.
    fn releases(&self) -> Vec<[String; 4]> {
        let said = self.ok(&["list", "--output", "json"]);
        let releases: Vec<Value> = serde_json::from_str(&said).expect("JSON");
        let words = |release: &Value| {
            ["name", "revision", "status", "chart"]
                .map(|key| release[key].as_str().unwrap_or_default().to_owned())
        };
        releases.iter().map(words).collect()
    }
}

fn release(revision: &str, status: &str) -> [String; 4] {
    ["greeter", revision, status, "greeter-1.2.3"].map(str::to_owned)
}

#[test]
fn a_chart_is_installed_listed_upgraded_and_uninstalled() {
    let cluster = Cluster::namespace("helm");
    let kubectl = &cluster.kubectl;
    let helm = Helm::new(&cluster);
    let greeting = || kubectl.json(&["get", "configmap", "greeter"])["data"]["greeting"].clone();

    helm.ok(&["install", ON_THE_CLIENT, "greeter", "chart"]);
    assert_eq!(helm.releases(), [release("1", "deployed")]);
    assert_eq!(greeting(), "hello");
    kubectl.rolled_out("greeter");
    let made = kubectl.json(&["get", "deployment", "greeter"]);
    assert_eq!(
        made["metadata"]["labels"]["app.kubernetes.io/managed-by"],
        "Helm"
    );

    helm.upgrade("greeting=good day");
    assert_eq!(helm.releases(), [release("2", "deployed")]);
    assert_eq!(greeting(), "good day");
    // What the new values leave as it was is left alone.
    let kept = kubectl.json(&["get", "deployment", "greeter"]);
    assert_eq!(kept["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(
        kept["metadata"]["generation"],
        made["metadata"]["generation"]
    );

    helm.ok(&["uninstall", "greeter"]);
    assert!(helm.releases().is_empty());
    for object in ["configmap/greeter", "deployment/greeter"] {
        let gone = kubectl.refused(&["get", object], "");
        assert!(gone.contains("(NotFound)"), "{gone}");
    }
    // helm keeps its releases in Secrets.
    assert!(kubectl.items(&["get", "secrets"]).is_empty());
}

#[test]
fn an_install_that_leaves_applying_to_the_server_is_told_the_flag_and_makes_nothing() {
    let cluster = Cluster::namespace("helm-server-side");
    let helm = Helm::new(&cluster);
    let refused = helm.run(&["install", "greeter", "chart"]);
    assert_eq!(refused.code, Some(1), "{}", refused.stdout);
    let said = refused.stderr.trim_end();
    assert_eq!(
        said.lines().last().unwrap_or_default(),
        "server-side apply not available on the server: server-side apply (application/apply-patch+yaml) is not \
         supported by this server yet; apply on the client: `kubectl apply` without --server-side, `helm` with \
         --server-side=false - accepted media types include: application/json-patch+json, \
         application/merge-patch+json, application/strategic-merge-patch+json"
    );
    assert_eq!(helm.releases(), [release("1", "failed")]);
    let kubectl = &cluster.kubectl;
    for object in ["configmap/greeter", "deployment/greeter"] {
        let missing = kubectl.refused(&["get", object], "");
        assert!(missing.contains("(NotFound)"), "{missing}");
    }
    // Doing what it says goes on from there.
    helm.upgrade("replicas=0");
    assert_eq!(helm.releases(), [release("2", "deployed")]);
    kubectl.ok(&["get", "configmap/greeter", "deployment/greeter"]);
}
