//! Objects that have names in cluster DNS.

/// A Service whose name begins with a digit, one that is headless with two endpoints, of which one has a hostname, and
/// one that leads to the first. None is of the examples, and no pod has these addresses.
pub const NAMES: &str = "
apiVersion: v1
kind: Service
metadata: {name: 7up}
spec: {clusterIP: 10.96.0.77, ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, ports: [{name: sql, port: 1}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: sql, port: 3306}]
endpoints:
- {addresses: [10.244.99.2], hostname: db-0}
- {addresses: [10.244.99.3]}
---
apiVersion: v1
kind: Service
metadata: {name: out}
spec: {type: ExternalName, externalName: 7up.default.svc.cluster.local}
";
