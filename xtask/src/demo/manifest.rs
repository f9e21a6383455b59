// SPDX-License-Identifier: Apache-2.0
//! The objects of the demo, as a user would write them.

/// Everything that is applied.
pub fn all() -> String {
    format!(
        "{NAMESPACE}---\n{DEPLOYMENT}---\n{}---\n{}",
        service("web", ""),
        service("web-sticky", STICKY)
    )
}

const NAMESPACE: &str = "\
apiVersion: v1
kind: Namespace
metadata:
  name: demo
";

const DEPLOYMENT: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  namespace: demo
spec:
  replicas: 3
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      # All on one node, so that the NodePort can be called on a node without any.
      nodeSelector: {kubernetes.io/hostname: node-1}
      terminationGracePeriodSeconds: 5
      containers:
        - name: echo
          image: localhost/knarr-echo:dev
          imagePullPolicy: IfNotPresent
          ports:
            - {name: http, containerPort: 8080}
          resources:
            requests: {cpu: 10m, memory: 16Mi}
            limits: {memory: 64Mi}
";

// On one line, because a line end that is escaped takes the indentation with it.
const STICKY: &str = "  sessionAffinity: ClientIP
  sessionAffinityConfig:
    clientIP: {timeoutSeconds: 600}
";

fn service(name: &str, affinity: &str) -> String {
    format!(
        "\
apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: demo
spec:
  type: NodePort
  selector: {{app: web}}
{affinity}  ports:
    - {{name: http, port: 80, targetPort: http, protocol: TCP}}
"
    )
}

/// A pod that makes calls on one node and ends; what it prints is read from its log.
pub fn caller(pod: &str, node: &str, address: &str, calls: usize) -> String {
    // One call each fiftieth of a second.
    format!(
        "\
apiVersion: v1
kind: Pod
metadata:
  name: {pod}
  namespace: demo
spec:
  restartPolicy: Never
  nodeSelector: {{kubernetes.io/hostname: {node}}}
  containers:
    - name: call
      image: localhost/knarr-echo:dev
      args: [client, load, '{address}', --rate, '50', --count, '{calls}']
"
    )
}
